"""Accuracy and paired gain with intervals over splits and test images, and tests over splits.

All splits of a task share its test images, so splits and images are crossed factors. Both are
resampled together, each on its own: the pigeonhole bootstrap (Owen 2007, Annals of Applied
Statistics 1(2)). Resampling images alone would take the luck of a few splits for the method's.
Owen shows its variance to err on the large side; where splits differ much and are few the
percentile interval errs on the small side. Simulated 95 % intervals of a gain hold the truth in
93 to 99 % of cases with five splits, in 89 to 100 % with three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.protocol import Metric
from benchmark.records.score import metric_of, strata_of

RESAMPLES = 4000
LEVEL = 0.95
CHUNK = 1 << 22  # image weights held at a time, 4 bytes each
_SIGNS = 2**16  # signs tried by the paired test: all of them up to 16 splits


@dataclass(frozen=True)
class Estimate:
    """A mean over splits with its bootstrap 95 % percentile interval.

    With ``n_splits`` 1 only the test images were resampled: the interval then says nothing
    about other splits and training runs.
    """

    value: float
    low: float
    high: float
    n_splits: int
    n_test: int


@dataclass(frozen=True)
class PairedTest:
    """A two-sided sign-flip test of paired differences over splits.

    ``smallest_p`` is what it could reach at best with this many splits, 2^(1-n): five splits
    cannot fall below 0.0625, however large the difference.
    """

    p_value: float
    smallest_p: float
    n_splits: int


def interval(
    correct: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    metric: Metric = "top1",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The metric's mean over splits, splits and test images resampled together.

    Args:
        correct: [S, N], whether each of N test images was right with each of S splits.
        labels: int [N]; needed for ``mean_per_class``.

    Raises:
        ValueError: not [S, N] with S, N >= 1; labels missing or of another length.
    """
    strata = strata_of(correct, labels, metric)
    bootstrap = image_bootstrap(correct, strata, resamples, seed)
    resampled = over_splits(bootstrap, range(len(correct)), seed)
    return estimate(metric_of(correct, strata), resampled, np.shape(correct)[1])


def paired_gain(
    method_correct: np.ndarray,
    control_correct: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    metric: Metric = "top1",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The metric's mean difference, -1..1; row s of both arrays is one split, column n one test
    image. The metric is linear in ``correct``, so differences are resampled like scores.

    Raises:
        ValueError: the shapes differ; else as ``interval``.
    """
    if np.shape(method_correct) != np.shape(control_correct):
        raise ValueError(
            f"method_correct {np.shape(method_correct)} and control_correct "
            f"{np.shape(control_correct)} must have one shape [S, N]"
        )
    difference = np.asarray(method_correct, np.float32) - np.asarray(control_correct, np.float32)
    return interval(difference, labels, metric=metric, resamples=resamples, seed=seed)


def paired_test(gains: Sequence[float] | np.ndarray, *, seed: int = 0) -> PairedTest:
    """Whether paired differences, one per split, centre on zero (two-sided; every sign is as
    likely under the null hypothesis). Exact up to 16 splits, then 65,536 random signs.

    Raises:
        ValueError: no difference is given.
    """
    from scipy.stats import permutation_test

    differences = np.asarray(gains, np.float64)
    if differences.ndim != 1 or not len(differences):
        raise ValueError(f"gains must be [S] with S >= 1, got {differences.shape}")
    if len(differences) == 1:  # either sign is as extreme
        return PairedTest(1.0, 1.0, 1)
    # Exact where the test may try as many signs as there are, 2^n; random signs beyond.
    found = permutation_test(
        (differences,),
        lambda signed, axis: signed.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_SIGNS,
        batch=4096,
        rng=seed,
    )
    p_value = min(1.0, float(found.pvalue))
    return PairedTest(p_value, 2.0 ** (1 - len(differences)), len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order (Holm 1979, Scandinavian Journal of Statistics 6)."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return [float(value) for value in adjusted]


def image_bootstrap(
    rows: np.ndarray, strata: list[np.ndarray], resamples: int, seed: int
) -> np.ndarray:
    """The metric of every row [R, N] in every resample of the images, float64 [B, R].

    A class of which a resample draws no image is left out of that resample's mean.
    """
    n_images = np.shape(rows)[1]
    by_class = np.asarray(rows, np.float32)[:, np.concatenate(strata)].T
    ends = np.cumsum([len(columns) for columns in strata])
    rng = np.random.default_rng([seed, n_images])
    size = max(1, CHUNK // n_images)
    found = []
    for start in range(0, resamples, size):
        weights = _draw(min(size, resamples - start), n_images, rng)
        total, present = 0.0, 0.0
        for first, end in zip([0, *ends], ends, strict=False):
            drawn = weights[:, first:end].sum(axis=1, keepdims=True)
            # Sums of whole numbers: exact in any order, so that equal rows stay equal.
            right = weights[:, first:end] @ by_class[first:end]
            total = total + right / np.maximum(drawn, 1).astype(np.float64)
            present = present + (drawn > 0)
        found.append(total / present)
    return np.concatenate(found)


def _draw(resamples: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n is drawn in n draws with replacement, float32 [resamples, n]."""
    drawn = rng.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(np.float32)


def over_splits(bootstrap: np.ndarray, splits: Sequence[int], seed: int) -> np.ndarray:
    """[B, S] to [B]: the mean over resampled splits. The same splits are resampled in the same
    way for every method, so that methods can be compared within a resample."""
    weights = _draw(len(bootstrap), len(splits), np.random.default_rng([seed, 0, *splits]))
    means: np.ndarray = (weights * bootstrap).sum(axis=1) / len(splits)
    return means


def by_split(values: np.ndarray, splits: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """The last axis, one entry a row, to its mean over the rows of each split, ascending."""
    names, place = np.unique(np.asarray(splits), return_inverse=True)
    weights = np.eye(len(names))[place]
    means: np.ndarray = values @ (weights / weights.sum(axis=0))
    return means, names.tolist()


def estimate(per_split: np.ndarray, resampled: np.ndarray, n_test: int) -> Estimate:
    """From the metric per split [S] and its mean in every resample [B]."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(per_split.mean()), float(low), float(high), len(per_split), n_test)

"""The metric of a task from a prediction table: anyone can recompute it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.protocol import Metric

if TYPE_CHECKING:
    import pandas as pd


def score(table: pd.DataFrame, metric: Metric, flagged: Collection[str]) -> dict[str, Any]:
    """The columns of a record that follow from its predictions.

    Args:
        table: columns ``id``, ``label``, ``prediction``.
        flagged: ids of the test images of which an augmented image is a copy: the clean value is
            the metric on the others, None where there are none.
    """
    whole = _scored(table, metric)
    clean = _scored(table[~table["id"].isin(flagged)], metric)
    return whole | {"n_clean": clean["n_test"], "value_clean": clean["value"]}


def _scored(table: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    labels = table["label"].to_numpy()
    correct = (labels == table["prediction"].to_numpy())[None]
    value = float(metric_of(correct, strata_of(correct, labels, metric))[0]) if len(table) else None
    return {"n_test": len(table), "n_correct": int(correct.sum()), "value": value}


def strata_of(correct: np.ndarray, labels: np.ndarray | None, metric: Metric) -> list[np.ndarray]:
    """The columns of [S, N] that are averaged first: all at once (``top1``), or class by class
    (``mean_per_class``: recall over the classes that have images).

    Raises:
        ValueError: not [S, N] with S, N >= 1; labels missing or of another length.
    """
    shape = np.shape(correct)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"correct must be [S, N] with S, N >= 1, got {shape}")
    if metric == "top1":
        return [np.arange(shape[1])]
    if labels is None or np.shape(labels) != shape[1:]:
        given = None if labels is None else np.shape(labels)
        raise ValueError(f"mean_per_class needs labels of shape {shape[1:]}, got {given}")
    return [np.flatnonzero(np.asarray(labels) == label) for label in np.unique(labels)]


def metric_of(rows: np.ndarray, strata: list[np.ndarray]) -> np.ndarray:
    """Of every row of [R, N], float64 [R]."""
    means = [np.asarray(rows, np.float64)[:, columns].mean(axis=1) for columns in strata]
    found: np.ndarray = np.mean(means, axis=0)
    return found

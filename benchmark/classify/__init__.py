"""Evaluation classifiers, trained by the harness on real and augmented images.

Every method is evaluated by the same recipe: the number of steps, the 1:1 real/augmented batches,
the random crop and flip and the selection on validation images do not depend on what it added. What
is fitted never meets the test images: they are read here, once, when all is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from benchmark.classify import finetune, probe, scratch
from benchmark.classify._batches import Data, Labelled, Mix
from benchmark.classify._training import Fitted
from benchmark.data.split import Split
from benchmark.labels import primary
from benchmark.meter import Progress
from benchmark.protocol import ClassifierSpec, FinetuneSpec, ProbeSpec, ScratchSpec
from benchmark.upstream import Upstream


@dataclass(frozen=True)
class Evaluation:
    """What a classifier made of the images.

    Attributes:
        predictions: int64 [N], top-1 class of every test image, in the order of the split.
        val_value: validation accuracy of what was chosen, 0..1; None without such images.
        selected: what validation chose: a step, a weight decay.
        seconds: wall-clock, features and test images included.
    """

    predictions: np.ndarray
    val_value: float | None
    selected: str
    seconds: float


def train(
    spec: ClassifierSpec,
    split: Split,
    added: tuple[np.ndarray, np.ndarray],
    upstream: Upstream,
    seed: int,
    device: str,
    progress: Progress | None = None,
    mix: Mix | None = None,
) -> Evaluation:
    """Fits one classifier to the shots and the added images, then reads the test split once.

    The same arguments give the same predictions on the same machine. All randomness comes from
    ``seed``; torch's global generators are left as they were found.

    Args:
        added: uint8 [M, S, S, 3] and int64 [M], each label in 0..C-1, or float [M, C], rows of
            targets (``benchmark.labels``); M may be 0.
        device: as torch names it; ``cuda`` computes in bfloat16 where that is safe.
        progress: called with ``("train", step, steps)``.
        mix: applied to the batches that are trained on.

    Raises:
        RuntimeError: the test split was read before.
        ConfigError, DataError: the classifier's model cannot be made.
    """
    started = time.perf_counter()
    report = progress or (lambda what, done, total: None)
    with _seeded(seed):
        fitted = _fit(spec, _data(split, added, mix), upstream, seed, torch.device(device), report)
        predictions = fitted.predict(split.test.read().pixels())
    seconds = time.perf_counter() - started
    return Evaluation(predictions, fitted.val_value, fitted.selected, seconds)


def _fit(
    spec: ClassifierSpec,
    data: Data,
    upstream: Upstream,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Fitted:
    match spec:
        case ScratchSpec():
            return scratch.fit(spec, data, seed, device, progress)
        case ProbeSpec():
            return probe.fit(spec, data, upstream, seed, device, progress)
        case FinetuneSpec():
            return finetune.fit(spec, data, upstream, seed, device, progress)


def _data(split: Split, added: tuple[np.ndarray, np.ndarray], mix: Mix | None) -> Data:
    """All of the split but its test images."""
    card = split.task.card
    real = Labelled(split.shots.pixels(), split.shots.labels)
    pixels, labels = added
    if not len(labels):  # whatever shape nothing has
        pixels = np.zeros((0, *real.pixels.shape[1:]), np.uint8)
    return Data(
        real=real,
        added=_labelled(pixels, np.asarray(labels)),
        val=Labelled(split.val.pixels(), split.val.labels),
        n_classes=len(card.classes),
        flip=card.flip,
        mix=mix,
    )


def _labelled(pixels: np.ndarray, labels: np.ndarray) -> Labelled:
    if labels.ndim == 2:
        return Labelled(pixels, primary(labels), labels.astype(np.float32))
    return Labelled(pixels, labels.astype(np.int64))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initial weights and dropout draw from torch's global generators: seeded here, and put back
    afterwards. cuDNN is held to its deterministic algorithms."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with (
        torch.random.fork_rng(devices=list(gpus)),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(seed)
        yield

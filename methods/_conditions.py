"""The conditioning tensor itself as what is trained (Burg et al. 2023): per class, or per cluster
of its shots."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmark import Shots

if TYPE_CHECKING:
    import numpy as np

    from benchmark.upstream.conditioning import Conditioning


def clusters(
    shots: Shots, upstream: Any, meter: Any, rng: np.random.Generator, k: int
) -> tuple[np.ndarray, list[list[int]]]:
    """K-means of the shots of each class in encoder space.

    Returns:
        The cluster of each shot, int64 [N], numbered through all classes; and the clusters of
        each class, at most ``k`` (never more than it has shots; an empty one is left out).
    """
    import numpy as np

    own = np.zeros(len(shots.labels), np.int64)
    of_class: list[list[int]] = []
    for label in range(len(shots.classes)):
        rows = shots.rows(label)
        parts = np.zeros(len(rows), np.int64)
        if min(k, len(rows)) > 1:
            with meter.phase("fit"):
                seen = upstream.encoder.encode_images(shots.images[rows]).numpy()
            parts = _kmeans(seen, min(k, len(rows)), rng)
        first = sum(map(len, of_class))
        names, parts = np.unique(parts, return_inverse=True)
        own[rows] = first + parts
        of_class.append([first + part for part in range(len(names))])
    return own, of_class


def _kmeans(features: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    from scipy.cluster.vq import kmeans2

    return kmeans2(features, k, minit="++", seed=rng, missing="warn")[1]


def beginnings(
    shots: Shots, upstream: Any, meter: Any, own: np.ndarray, count: int
) -> Conditioning:
    """Where the conditions of ``count`` clusters start: at the prompt of the class that describes
    the shots of the cluster best, by the encoder (most classes have one)."""
    texts = []
    with meter.phase("fit"):
        for cluster in range(count):
            rows = [row for row, value in enumerate(own) if value == cluster]
            prompts = shots.classes[shots.labels[rows[0]]].prompts
            if len(prompts) > 1:
                told = upstream.encoder.encode_texts(list(prompts))
                seen = upstream.encoder.encode_images(shots.images[rows])
                prompts = (prompts[int((seen @ told.T).mean(dim=0).argmax())],)
            texts.append(prompts[0])
        return upstream.generator.condition(texts).trained()


def in_turn(
    c: Conditioning, of_class: list[list[int]]
) -> Callable[[list[int], list[int]], Conditioning]:
    """From turns and labels to conditions: the tensors of a class one after the other."""

    def conditions(turns: list[int], labels: list[int]) -> Conditioning:
        pairs = zip(turns, labels, strict=True)
        return c.rows([of_class[label][turn % len(of_class[label])] for turn, label in pairs])

    return conditions

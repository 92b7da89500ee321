"""Prompt embeddings themselves as what is trained (Burg et al. 2023): one conditioning per class,
or per cluster of its shots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._personalize import FitParams, examples
from ._sampling import sample_images, sampling_tflops

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from benchmark.upstream.conditioning import Conditioning


class ConditioningParams(FitParams):
    """What the paper publishes of its training could not be read here: the defaults are ours."""

    clusters: int = benchmark.param(1, help="conditionings per class (k)", ge=1, le=64)


@dataclass(frozen=True)
class ClusterConditioning:
    """A conditioning to train for every cluster of shots; a cluster belongs to one class.

    Attributes:
        trainable: of K clusters, numbered through all classes.
        of_shot: int64 [N], the cluster of each shot.
        of_class: the clusters of each class, at least one.
    """

    trainable: Conditioning
    of_shot: np.ndarray
    of_class: list[list[int]]

    def for_shots(self, rows: np.ndarray) -> Conditioning:
        """The conditioning of these shots."""
        return self.trainable.rows(self.of_shot[rows])

    def cycle(self, turns: Sequence[int], labels: Sequence[int]) -> Conditioning:
        """The conditioning of new images: the clusters of a class, turn by turn."""
        pairs = [(turn, self.of_class[label]) for turn, label in zip(turns, labels, strict=True)]
        return self.trainable.rows([clusters[turn % len(clusters)] for turn, clusters in pairs])


def fine_tune(
    shots: Shots,
    upstream: Upstream,
    meter: Meter,
    rng: np.random.Generator,
    params: ConditioningParams,
    fit: Callable[..., int],
    weights: Sequence[Tensor] = (),
) -> Iterator[Images]:
    """Trains a conditioning per cluster, and samples from those of each class, cycled.

    Args:
        fit: ``fit_per_class`` or ``fit_shared``.
        weights: of the denoiser, to train together with the conditioning.
    """
    of_shot, of_class = cluster_shots(shots, upstream, meter, rng, params.clusters)
    start = initial_conditioning(shots, upstream, meter, of_shot, sum(map(len, of_class)))
    c = ClusterConditioning(start.trainable(), of_shot, of_class)
    z = examples(shots, upstream, meter)
    reserve = sampling_tflops(shots, upstream, meter, params)
    # the conditioning is read by row anew at every step, so it follows its training
    trained = [*weights, *c.trainable.tensors()]
    fit(upstream, z, c.for_shots, trained, meter, rng, params, reserve)
    yield from sample_images(shots, upstream, meter, rng, params, conditioning_of=c.cycle)


def cluster_shots(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, k: int
) -> tuple[np.ndarray, list[list[int]]]:
    """K-means of the shots of each class in the encoder's space.

    Returns:
        The cluster of each shot, int64 [N], numbered through all classes; and the clusters of
        each class, at most ``k`` (never more than it has shots; an empty one is left out).
    """
    import numpy as np

    of_shot = np.zeros(len(shots.labels), np.int64)
    of_class: list[list[int]] = []
    for label in range(len(shots.classes)):
        rows = shots.rows(label)
        parts = np.zeros(len(rows), np.int64)
        if min(k, len(rows)) > 1:
            with meter.phase("fit"):
                features = upstream.encoder.encode_images(shots.images[rows]).numpy()
            parts = _kmeans(features, min(k, len(rows)), rng)
        first = sum(map(len, of_class))
        present, parts = np.unique(parts, return_inverse=True)  # renumbered without empty ones
        of_shot[rows] = first + parts
        of_class.append([first + part for part in range(len(present))])
    return of_shot, of_class


def _kmeans(features: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    from scipy.cluster.vq import kmeans2

    # "warn": a cluster may come out empty where shots are equal; the caller renumbers
    labels: np.ndarray = kmeans2(features, k, minit="++", seed=rng, missing="warn")[1]
    return labels


def initial_conditioning(
    shots: Shots, upstream: Upstream, meter: Meter, of_shot: np.ndarray, count: int
) -> Conditioning:
    """Where the conditioning of ``count`` clusters starts: at the embeddings of the class prompt
    that is nearest to the shots of the cluster, by the encoder."""
    texts = []
    with meter.phase("fit"):
        for cluster in range(count):
            rows = [row for row, value in enumerate(of_shot) if value == cluster]
            prompts = shots.classes[shots.labels[rows[0]]].prompts
            best = 0
            if len(prompts) > 1:  # most classes have one: nothing to compare
                text_features = upstream.encoder.encode_texts(list(prompts))
                features = upstream.encoder.encode_images(shots.images[rows])
                best = int((features @ text_features.T).mean(dim=0).argmax())
            texts.append(prompts[best])
        return upstream.generator.condition(texts)

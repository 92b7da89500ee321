"""A conditioning tensor per class, trained on its shots; the generator stays frozen.

    c_k* = argmin_c  E || epsilon - epsilon_theta(z_t, t, c) ||^2   over the shots z of cluster k

Where textual inversion learns one vector before the text encoder, this learns all L vectors
behind it. With ``clusters=k`` each class has k tensors, one per k-means cluster of its shots in
encoder space, and draws from them in turn. Where a tensor starts (the class prompt nearest to the
shots) is a choice of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._conditions import beginnings, clusters, in_turn
from ._personalize import Sampling, drawn, examples, fit_per_class, spare

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Fine-tuned conditioning",
    family="personalize",
    adaptation="conditioning",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: fine-tuned conditioning, clusters",
    uses=("generator", "encoder"),
)


class Params(Sampling):
    """What the paper publishes of its training could not be read here: the defaults are ours."""

    clusters: int = benchmark.param(1, help="tensors per class (k)", ge=1, le=64)
    fit_steps: int = benchmark.param(100, help="optimiser steps", ge=1)
    lr: float = benchmark.param(1e-2, help="learning rate", gt=0)
    batch_size: int = benchmark.param(1, help="images of each class in a step", ge=1)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns the tensors, then draws from those of each class in turn."""
    own, of_class = clusters(shots, upstream, meter, rng, params.clusters)
    c = beginnings(shots, upstream, meter, own, sum(map(len, of_class)))
    z = examples(shots, upstream, meter)
    left = spare(shots, upstream, meter, params)
    fit_per_class(
        upstream, z, lambda rows: c.rows(own[rows]), c.tensors(), meter, rng, params, left
    )
    yield from drawn(shots, upstream, meter, rng, params, conditions=in_turn(c, of_class))

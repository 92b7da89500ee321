"""A conditioning tensor per class, trained on its shots; the generator stays frozen.

    c_k* = argmin_c  E || epsilon - epsilon_theta(z_t, t, c) ||^2   over the shots z of cluster k

Where textual inversion learns one vector before the text encoder, this learns all L vectors
behind it. With ``clusters=k`` each class has k tensors, one per k-means cluster of its shots in
encoder space, and its images cycle through them. Where a tensor starts (the class prompt nearest to
the shots) is a choice of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._conditioning import ConditioningParams, fine_tune
from ._personalize import fit_per_class

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


class Params(ConditioningParams):
    """One image of each class in a step: a class' tensors learn from its own shots alone."""

    fit_steps: int = benchmark.param(100, help="optimiser steps", ge=1)
    lr: float = benchmark.param(1e-2, help="learning rate", gt=0)
    batch_size: int = benchmark.param(1, help="images of each class in a step", ge=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns the tensors, then samples from those of each class, cycled."""
    yield from fine_tune(shots, upstream, meter, rng, params, fit_per_class)

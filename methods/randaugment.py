"""RandAugment: random chains of colour and geometry operations on the shots themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._classical import transformed

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="RandAugment",
    family="classical",
    paper="https://arxiv.org/abs/1909.13719",
    citation="Cubuk et al. (2020), CVPR Workshops",
)


class Params(benchmark.Params):
    """N and M of the paper."""

    operations: int = benchmark.param(2, help="operations in a chain (N)", ge=1, le=10)
    magnitude: int = benchmark.param(9, help="strength of each, 0..10 (M)", ge=0, le=10)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The shots of each class, cycled, each time through another chain."""
    from timm.data.auto_augment import rand_augment_transform

    # p1: every operation of a chain is applied, as in the paper (timm's own default is half)
    chain = f"rand-m{params.magnitude}-n{params.operations}-p1"
    yield from transformed(shots, meter, rng, rand_augment_transform(chain, {}), f"timm {chain}")

"""TrivialAugment: one random operation at a random strength on each shot, nothing to tune."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Params, Shots, Upstream

from ._classical import transformed

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="TrivialAugment",
    family="classical",
    paper="https://arxiv.org/abs/2103.10158",
    citation="Müller and Hutter (2021), ICCV",
)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The shots of each class, cycled, each time through another operation of the wide space."""
    from torchvision.transforms import TrivialAugmentWide

    # torchvision's defaults are the paper's: 31 strengths, none of them learned or searched for
    yield from transformed(
        shots, meter, rng, TrivialAugmentWide(), "torchvision TrivialAugmentWide"
    )

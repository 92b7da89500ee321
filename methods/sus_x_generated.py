"""A support set without any image: generated from descriptions of the classes.

SuS-SD of Udandarao et al. TIP-X, the training-free classifier they build on the support set, is
no augmentation and not part of this. They prompt with the plain class name ("photo") or with
descriptions that a language model wrote ("CuPL"); here each prompt is used without and with the
task card's definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._queries import with_definitions
from ._sampling import Sampling, sample_images

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="SuS-X support set, generated",
    family="prompt",
    query="templates",
    paper="https://arxiv.org/abs/2211.16198",
    citation="Udandarao et al. (2023), ICCV: SuS-SD",
    uses=("generator",),
    uses_shots=False,
)


class Params(Sampling):
    """The upstream's sampling, as for all; the paper publishes its own."""

    guidance_scale: float | None = benchmark.param(
        None,
        help="classifier-free guidance; at 1 there is none; none: the upstream's",
        published=9.5,
        ge=0,
        le=30,
    )
    steps: int | None = benchmark.param(
        None, help="denoising steps; none: the upstream's", published=85, ge=1, le=1000
    )


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The texts of each class, cycled, every image from a seed of its own."""
    texts = [[text for pair in with_definitions(entry) for text in pair] for entry in shots.classes]
    yield from sample_images(shots, upstream, meter, rng, params, texts)

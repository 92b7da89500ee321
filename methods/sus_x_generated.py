"""A support set without any image: generated from descriptions of the classes.

SuS-SD of Udandarao et al. TIP-X, the training-free classifier they build on the support set, is
no augmentation and not part of this. They ask with plain prompts ("photo") or with descriptions
that a language model wrote ("CuPL"); here prompts come without and with the task card's definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._queries import described
from ._rounds import requests

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="SuS-X support set, generated",
    family="prompt",
    query="templates",
    paper="https://arxiv.org/abs/2211.16198",
    citation="Udandarao et al. (2023), ICCV: SuS-SD",
    uses=("generator",),
)


class Params(benchmark.Params):
    guidance_scale: float = benchmark.param(
        3.0, help="classifier-free guidance; at 1 there is none", published=9.5, ge=0, le=30
    )
    steps: int = benchmark.param(12, help="denoising steps", published=85, ge=1, le=1000)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The texts of each class in turn, every image from a seed of its own."""
    texts = [[text for pair in described(entry) for text in pair] for entry in shots.classes]
    with meter.phase("generate"):
        yield from upstream.generator.text_to_image(
            *requests(shots, meter.budget.images_per_class, rng, texts),
            size=shots.image_size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
        )

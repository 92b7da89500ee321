"""Images generated from CLIP's 80 prompt templates, filled with the class names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._queries import filled
from ._rounds import requests

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Generated from CLIP templates",
    family="prompt",
    query="templates",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: the CLIP prompts baseline",
    uses=("generator",),
)


class Params(benchmark.Params):
    """``published``: the documented defaults of diffusers' Stable Diffusion pipeline."""

    guidance_scale: float = benchmark.param(
        3.0, help="classifier-free guidance; at 1 there is none", published=7.5, ge=0, le=30
    )
    steps: int = benchmark.param(12, help="denoising steps", published=50, ge=1, le=1000)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The templates of Radford et al. (2021), arXiv 2103.00020, in an order drawn for each class,
    none twice before all were used."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES as TEMPLATES

    texts = [rng.permutation(filled(entry, TEMPLATES)).tolist() for entry in shots.classes]
    with meter.phase("generate"):
        yield from upstream.generator.text_to_image(
            *requests(shots, meter.budget.images_per_class, rng, texts),
            size=shots.image_size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
        )

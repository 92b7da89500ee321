"""Images generated from the class prompts, the generator as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Generated from class prompts",
    family="prompt",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: the simple-prompt baseline",
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
    """The prompts of each class in turn, every image from a seed of its own."""
    count, labels = meter.budget.images_per_class, range(len(shots.classes))
    rounds = [(turn, label) for turn in range(count) for label in labels]
    prompts = [shots.classes[label].prompts for _, label in rounds]
    with meter.phase("generate"):
        yield from upstream.generator.text_to_image(
            [texts[turn % len(texts)] for texts, (turn, _) in zip(prompts, rounds, strict=True)],
            [label for _, label in rounds],
            rng.integers(2**63, size=len(rounds)).tolist(),
            size=shots.image_size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
        )

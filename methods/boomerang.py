"""Local sampling around the shots: each is noised part of the way and denoised again.

Luzi et al. sample the image manifold near an image x_0: forward diffusion to t_Boom < T, then the
reverse process from there. How far t_Boom goes is all that sets how far the sample lies from x_0.
By default the prompt is empty, so the class comes from the shot alone; the paper also shows samples
under a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._edits import cycle_shots, edits

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Boomerang: local samples around the shots",
    family="edit",
    paper="https://arxiv.org/abs/2210.12100",
    citation="Luzi et al. (2024), TMLR",
    uses=("generator",),
)


class Params(benchmark.Params):
    """The default of t_Boom / T is a choice of ours; ``published`` is the documented default of
    diffusers' Stable Diffusion pipeline."""

    strength: float = benchmark.param(0.4, help="t_Boom / T: how far a shot is noised", gt=0, le=1)
    prompted: bool = benchmark.param(False, help="whether the class prompts guide the way back")
    guidance_scale: float = benchmark.param(
        3.0, help="classifier-free guidance, where it is prompted", ge=0, le=30
    )
    steps: int = benchmark.param(20, help="denoising steps from T", published=50, ge=1, le=1000)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The shots of each class, cycled, every sample from a seed of its own."""
    rows, prompts = cycle_shots(shots, meter.budget.images_per_class, rng)
    with meter.phase("generate"):
        yield from edits(
            upstream.generator,
            shots,
            rows,
            # without a prompt, guidance would compare the empty prompt with itself
            prompts if params.prompted else [""] * len(rows),
            rng,
            strength=params.strength,
            guidance_scale=params.guidance_scale if params.prompted else 1.0,
            steps=params.steps,
        )

"""Half a shot beside half of its edit in another style, blended with a fractal.

DiffuseMix of Islam et al., for each image I and a style prompt p of a fixed set:

    I^   = edit(I, p)                      the generated counterpart
    H    = M * I + (1 - M) * I^            M: left, right, upper or lower half, at random
    A    = (1 - lambda) * H + lambda * F   F: a fractal

Two choices of ours. The paper edits with InstructPix2Pix, a model of its own; here the upstream's
generator does (SDEdit), and as that follows a description, not an instruction, the style is added
to the class prompt. The paper draws F from a collection of pictures; here it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._edits import cycle_shots, edits
from ._fractals import julia

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="DiffuseMix: half shot, half restyled, and a fractal",
    family="edit",
    query="class name",
    paper="https://arxiv.org/abs/2405.14881",
    citation="Islam et al. (2024), CVPR",
    uses=("generator",),
)

# The set of the authors' release (https://github.com/khawar-islam/diffuseMix).
STYLES = (
    "autumn",
    "snowy",
    "watercolor art",
    "sunset",
    "rainbow",
    "aurora",
    "mosaic",
    "ukiyo-e",
    "a sketch with crayon",
)


class Params(benchmark.Params):
    """``published``: those of the release; InstructPix2Pix has no strength."""

    blend: float = benchmark.param(0.2, help="share of the fractal (lambda)", ge=0, le=1)
    strength: float = benchmark.param(0.5, help="how far a shot is noised", gt=0, le=1)
    guidance_scale: float = benchmark.param(
        4.0, help="classifier-free guidance; at 1 there is none", ge=0, le=30
    )
    steps: int = benchmark.param(20, help="denoising steps from T", published=100, ge=1, le=1000)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The shots of each class, cycled; style, half and fractal are drawn for each."""
    import numpy as np

    rows, prompts = cycle_shots(shots, meter.budget.images_per_class, rng)
    styled = [f"{prompt}, {rng.choice(STYLES)}" for prompt in prompts]
    done = 0
    with meter.phase("generate"):
        for images in edits(
            upstream.generator,
            shots,
            rows,
            styled,
            rng,
            strength=params.strength,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
        ):
            # beside its edit, a shot is needed at the size to yield
            originals = shots.images[rows[done : done + len(images.pixels)]]
            done += len(images.pixels)
            mixed = [
                blended(halves(original, edited, rng), julia(shots.image_size, rng), params.blend)
                for original, edited in zip(originals, images.pixels, strict=True)
            ]
            yield replace(images, pixels=np.stack(mixed))


def halves(original: np.ndarray, edited: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """H: half of each, uint8 [S, S, 3]."""
    horizontal, swapped = rng.integers(2, size=2)
    first, second = (edited, original) if swapped else (original, edited)
    image = first.copy()
    half = len(image) // 2
    if horizontal:
        image[half:] = second[half:]
    else:
        image[:, half:] = second[:, half:]
    return image


def blended(image: np.ndarray, fractal: np.ndarray, share: float) -> np.ndarray:
    """A: the weighted mean of both, uint8 [S, S, 3]."""
    mixed: np.ndarray = ((1 - share) * image + share * fractal).round().astype("uint8")
    return mixed

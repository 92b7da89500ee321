"""Sampling from the generator: its parameters, requests that keep the classes balanced, costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np

    from benchmark.upstream.conditioning import Conditioning


class Steps(benchmark.Params):
    """For methods that fix the guidance themselves. ``published``: the documented defaults of
    diffusers' Stable Diffusion pipeline, here and below."""

    steps: int | None = benchmark.param(
        None, help="denoising steps; none: the upstream's", published=50, ge=1, le=1000
    )


class Sampling(Steps):
    """How images are sampled. How many steps and how much guidance a generator needs is a fact of
    the generator (a distilled one needs four), so by default the upstream says it."""

    guidance_scale: float | None = benchmark.param(
        None,
        help="classifier-free guidance; at 1 there is none; none: the upstream's",
        published=7.5,
        ge=0,
        le=30,
    )


def rounds(count: int, classes: int) -> list[tuple[int, int]]:
    """The (turn, label) of ``count`` images per class: each class once before any comes again, so
    that a cap reached half-way leaves the classes balanced."""
    return [(turn, label) for turn in range(count) for label in range(classes)]


def cycle_prompts(
    shots: Shots,
    count: int,
    rng: np.random.Generator,
    texts: Sequence[Sequence[str]] | None = None,
) -> tuple[list[str], list[int], list[int]]:
    """The prompts, labels and seeds of ``count`` images per class, as the generator's
    ``text_to_image`` takes them.

    Args:
        texts: the prompts of each class, cycled; default: those of its card.
    """
    texts = texts or [entry.prompts for entry in shots.classes]
    order = rounds(count, len(shots.classes))
    prompts = [texts[label][turn % len(texts[label])] for turn, label in order]
    return prompts, [label for _, label in order], rng.integers(2**63, size=len(order)).tolist()


def sample_images(
    shots: Shots,
    upstream: Upstream,
    meter: Meter,
    rng: np.random.Generator,
    params: Sampling,
    texts: Sequence[Sequence[str]] | None = None,
    conditioning_of: Callable[[Sequence[int], Sequence[int]], Conditioning] | None = None,
) -> Iterator[Images]:
    """Generates all images of the budget, each from a seed of its own.

    Args:
        texts: the prompts of each class, cycled; default: those of its card.
        conditioning_of: from turns and labels to the conditioning used in place of the prompts.
    """
    prompts, labels, seeds = cycle_prompts(shots, meter.budget.images_per_class, rng, texts)
    conditioning = None
    if conditioning_of is not None:
        turns = [index // len(shots.classes) for index in range(len(labels))]
        conditioning = conditioning_of(turns, labels)
    with meter.phase("generate"):
        yield from upstream.generator.text_to_image(
            prompts,
            labels,
            seeds,
            size=shots.image_size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
            conditioning=conditioning,
        )


def sampling_tflops(shots: Shots, upstream: Upstream, meter: Meter, params: Sampling) -> float:
    """TFLOPs that ``sample_images`` will cost: what a method that trains must reserve."""
    count = meter.budget.images_per_class * len(shots.classes)
    return upstream.generator.estimate_tflops(count, params.steps, params.guidance_scale)


def affordable_steps(
    upstream: Upstream, meter: Meter, count: int, params: Sampling, share: float = 0.8
) -> int:
    """The denoising steps of each of ``count`` images: those of ``params``, or as many as a share
    of what is left of the budget pays for (at least 1). For methods that generate more images
    than they keep.

    Args:
        share: the rest is left for scoring the images.
    """
    generator = upstream.generator
    steps, guidance_scale = generator.resolve_sampling(params.steps, params.guidance_scale)
    affordable = share * meter.tflops_left
    # Counted anew for every number: some samplers take an evaluation more, or two a step.
    while steps > 1 and generator.estimate_tflops(count, steps, guidance_scale) > affordable:
        steps -= 1
    return steps

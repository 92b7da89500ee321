"""DataDream: low-rank adapters in denoiser and text encoder, trained on the shots alone.

    theta* = argmin E || epsilon - epsilon_theta(z_t, t, c_theta("a photo of a {class}")) ||^2

The paper has two variants: adapters for the whole data set, or for every class apart. Here
``per_class`` chooses; the first is the default, since one class at a time divides the budget by
their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._personalize import (
    Sampling,
    captions,
    class_by_class,
    drawn,
    examples,
    fit_shared,
    spare,
)
from ._subjects import asked_anew

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="DataDream",
    family="personalize",
    adaptation="LoRA",
    query="class name",
    paper="https://arxiv.org/abs/2407.10910",
    citation="Kim et al. (2024), ECCV",
    uses=("generator", "encoder"),
)


class Params(Sampling):
    """``published``: as its authors run it with Stable Diffusion 2.1, 16 shots (200 epochs)."""

    guidance_scale: float = benchmark.param(2.0, help="classifier-free guidance", ge=0, le=30)
    per_class: bool = benchmark.param(False, help="adapters of its own for every class")
    rank: int = benchmark.param(16, help="rank r of the adapters", ge=1)
    fit_steps: int = benchmark.param(150, help="optimiser steps", published=400, ge=1)
    lr: float = benchmark.param(
        3e-4, help="peak learning rate, falls as a cosine", published=1e-4, gt=0
    )
    batch_size: int = benchmark.param(20, help="shots in a step", published=8, ge=1)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Adapts to all classes at once, or to one after the other."""
    if not params.per_class:
        yield from adapted(shots, upstream, meter, rng, params, 1)
        return
    many = len(shots.classes)
    yield from class_by_class(
        shots,
        lambda label, one: adapted(one, upstream, meter, rng, params, many - label),
    )


def adapted(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params, parts: int
) -> Iterator[Images]:
    """Trains adapters with the first of ``parts`` equal parts of the budget, and generates."""
    from contextlib import ExitStack

    from benchmark.upstream.adapters import TEXT_ATTENTION, UNET_ATTENTION, lora, text_parts
    from benchmark.upstream.generator import denoiser

    generator = upstream.generator
    z = examples(shots, upstream, meter)
    texts = [template.format(name=member) for template, member in captions(shots, upstream, meter)]
    towers = [(denoiser(generator.pipeline), UNET_ATTENTION)]
    towers += [(encoder, TEXT_ATTENTION) for _, encoder in text_parts(generator.pipeline)]
    with ExitStack() as stack:
        weights = []
        for tower, targets in towers:
            seed = int(rng.integers(2**31))
            weights += stack.enter_context(lora(tower, params.rank, targets=targets, seed=seed))
        left = meter.tflops_left  # what images cost is known with the adapters in place
        left -= left / parts - spare(shots, upstream, meter, params)
        c = asked_anew(generator, texts)
        fit_shared(upstream, z, c, weights, meter, rng, params, left, schedule="cosine")
        yield from drawn(shots, upstream, meter, rng, params)

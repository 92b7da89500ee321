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
from benchmark import Images, Meter, Shots, Upstream

from ._personalize import FitParams, captions, class_by_class, examples, fit_shared
from ._sampling import sample_images, sampling_tflops
from ._subjects import encode_each_step

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FACTS = benchmark.Facts(
    title="DataDream",
    family="personalize",
    adaptation="LoRA",
    query="class name",
    paper="https://arxiv.org/abs/2407.10910",
    citation="Kim et al. (2024), ECCV",
    uses=("generator", "encoder"),
)


class Params(FitParams):
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
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Adapts to all classes at once, or to one after the other."""
    if not params.per_class:
        yield from adapted(shots, upstream, meter, rng, params, 1)
        return
    count = len(shots.classes)
    yield from class_by_class(
        shots,
        # an equal part of what is left for each class that is left: what one saves, the next has
        lambda label, alone: adapted(alone, upstream, meter, rng, params, count - label),
    )


def adapted(
    shots: Shots,
    upstream: Upstream,
    meter: Meter,
    rng: np.random.Generator,
    params: Params,
    parts: int,
) -> Iterator[Images]:
    """Trains adapters and samples with one of ``parts`` equal parts of what is left of the
    budget."""
    from contextlib import ExitStack

    from benchmark.upstream.adapters import TEXT_ATTENTION, UNET_ATTENTION, lora, text_parts
    from benchmark.upstream.generator import denoiser

    generator = upstream.generator
    z = examples(shots, upstream, meter)
    texts = [template.format(name=member) for template, member in captions(shots, upstream, meter)]
    towers = [(denoiser(generator.pipeline), UNET_ATTENTION)]
    towers += [(encoder, TEXT_ATTENTION) for _, encoder in text_parts(generator.pipeline)]
    with ExitStack() as stack:
        weights: list[Tensor] = []
        for tower, targets in towers:
            # the towers' adapters start from different noise
            seed = int(rng.integers(2**31))
            weights += stack.enter_context(lora(tower, params.rank, targets=targets, seed=seed))
        # estimated with the adapters in place: they add to what an image costs
        reserve = sampling_tflops(shots, upstream, meter, params)
        if parts > 1:
            reserve += meter.tflops_left - meter.tflops_left / parts
        c = encode_each_step(generator, texts)  # the text encoder is trained too
        fit_shared(upstream, z, c, weights, meter, rng, params, reserve, schedule="cosine")
        yield from sample_images(shots, upstream, meter, rng, params)

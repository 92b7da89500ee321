"""The generator personalised on shots and retrieved images together.

A hybrid of ours: retrieval by the class queries gives more images of a class than there are shots,
and low-rank adapters in the denoiser learn from both, each image under the prompt of its class that
describes it best.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._personalize import FitParams, captions, examples, fit_shared
from ._sampling import sample_images, sampling_tflops
from ._subjects import encode_once, with_neighbours

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Personalised on retrieved images",
    family="hybrid",
    adaptation="LoRA",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="after Burg et al. (2023), TMLR; adapters: Hu et al. (2022), ICLR",
    uses=("index", "generator", "encoder"),
)


class Params(FitParams):
    """Ours; ``published`` is what diffusers documents for LoRA."""

    neighbours: int = benchmark.param(20, help="images retrieved for each class", ge=1)
    rank: int = benchmark.param(16, help="rank r of the adapters", published=4, ge=1)
    fit_steps: int = benchmark.param(150, help="optimiser steps", published=500, ge=1)
    lr: float = benchmark.param(3e-4, help="learning rate", published=1e-4, gt=0)
    batch_size: int = benchmark.param(20, help="images in a step", published=1, ge=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Retrieves, trains on shots and neighbours, samples; the adapters are removed."""
    from benchmark.upstream.adapters import UNET_ATTENTION, lora
    from benchmark.upstream.generator import denoiser

    together = with_neighbours(shots, upstream, meter, params.neighbours)
    z = examples(together, upstream, meter)
    # a neighbour has the prompt that describes it best, not the query that retrieved it
    texts = [t.format(name=member) for t, member in captions(together, upstream, meter)]
    seed = int(rng.integers(2**31))
    with meter.phase("fit"):
        c = encode_once(upstream.generator, texts)
    theta = denoiser(upstream.generator.pipeline)
    with lora(theta, params.rank, targets=UNET_ATTENTION, seed=seed) as weights:
        # estimated with the adapters in place: they add to what an image costs
        reserve = sampling_tflops(shots, upstream, meter, params)
        fit_shared(upstream, z, c, weights, meter, rng, params, reserve)
        yield from sample_images(shots, upstream, meter, rng, params)

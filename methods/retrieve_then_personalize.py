"""The generator personalised on what was retrieved: shots and neighbours teach it together.

A hybrid of ours: retrieval by the class queries finds more images of a class than there are
shots, and low-rank adapters in the denoiser learn from both, each image under the prompt of its
class that describes it best.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._personalize import Sampling, captions, drawn, examples, fit_shared, spare
from ._subjects import fixed, neighbours

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


class Params(Sampling):
    """Ours; ``published`` is what diffusers documents for LoRA."""

    neighbours: int = benchmark.param(20, help="images retrieved for each class", ge=1)
    rank: int = benchmark.param(16, help="rank r of the adapters", published=4, ge=1)
    fit_steps: int = benchmark.param(150, help="optimiser steps", published=500, ge=1)
    lr: float = benchmark.param(3e-4, help="learning rate", published=1e-4, gt=0)
    batch_size: int = benchmark.param(20, help="images in a step", published=1, ge=1)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Retrieves, trains on shots and neighbours, generates; the adapters are taken out."""
    from benchmark.upstream.adapters import UNET_ATTENTION, lora
    from benchmark.upstream.generator import denoiser

    more = neighbours(shots, upstream, meter, params.neighbours)
    z = examples(more, upstream, meter)
    texts = [t.format(name=member) for t, member in captions(more, upstream, meter)]
    seed = int(rng.integers(2**31))
    with meter.phase("fit"):
        c = fixed(upstream.generator, texts)
    theta = denoiser(upstream.generator.pipeline)
    with lora(theta, params.rank, targets=UNET_ATTENTION, seed=seed) as weights:
        left = spare(shots, upstream, meter, params)  # with the adapters in place
        fit_shared(upstream, z, c, weights, meter, rng, params, left)
        yield from drawn(shots, upstream, meter, rng, params)

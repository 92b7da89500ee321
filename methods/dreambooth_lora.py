"""DreamBooth with low-rank adapters in the denoiser's attention instead of all its weights.

The loss is DreamBooth's (Ruiz et al. 2023, equation 2); the adapters are LoRA's (Hu et al. 2021,
arXiv 2106.09685). ``published`` is what diffusers documents for this pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._identifiers import identifiers
from ._subjects import PriorParams, fit_subjects, generated_prior

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="DreamBooth with LoRA",
    family="personalize",
    adaptation="LoRA",
    query="class name",
    paper="https://arxiv.org/abs/2208.12242",
    citation="Ruiz et al. (2023), CVPR; Hu et al. (2022), ICLR",
    uses=("generator", "encoder"),
)


class Params(PriorParams):
    """Of the adapters and their training."""

    rank: int = benchmark.param(8, help="rank r of the adapters", published=4, ge=1)
    fit_steps: int = benchmark.param(100, help="optimiser steps", published=500, ge=1)
    lr: float = benchmark.param(3e-4, help="learning rate", published=1e-4, gt=0)
    batch_size: int = benchmark.param(10, help="shots in a step", published=1, ge=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Generates the prior, trains the adapters, samples; the adapters are removed."""
    from benchmark.upstream.adapters import UNET_ATTENTION, lora
    from benchmark.upstream.generator import denoiser

    pipeline = upstream.generator.pipeline
    # Before training: the identifiers and the prior are those of the generator as it is.
    names = identifiers(shots, upstream, meter)
    prior = generated_prior(shots, upstream, meter, rng, params)
    seed = int(rng.integers(2**31))
    with lora(denoiser(pipeline), params.rank, targets=UNET_ATTENTION, seed=seed) as weights:
        yield from fit_subjects(
            shots, upstream, meter, rng, params, weights, identifiers=names, prior=prior
        )

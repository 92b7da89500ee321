"""Custom Diffusion: only keys and values of the cross-attention, and a new word per class.

Text enters the denoiser through the keys W_k c and values W_v c of its cross-attention: a few
per cent of the weights, which are trained together with the word V* before the class noun. Real
images of the class, retrieved from the pre-training corpus by caption similarity, keep the rest
of the class as it was (sections 3.1 and 3.2). All classes of the task are learned jointly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._identifiers import identifiers
from ._subjects import PriorParams, encode_each_step, fit_subjects, retrieved_prior

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Custom Diffusion",
    family="personalize",
    adaptation="full",
    query="class name",
    paper="https://arxiv.org/abs/2212.04488",
    citation="Kumari et al. (2023), CVPR",
    uses=("index", "generator", "encoder"),
)


class Params(PriorParams):
    """``published``: section 4 of the paper, for one concept."""

    fit_steps: int = benchmark.param(100, help="optimiser steps", published=250, ge=1)
    lr: float = benchmark.param(3e-4, help="learning rate", published=1e-5, gt=0)
    batch_size: int = benchmark.param(10, help="shots in a step", published=8, ge=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Retrieves the prior, trains W_k, W_v and the words, samples; all is restored."""
    from benchmark.upstream.adapters import placeholder_embeddings, unfrozen
    from benchmark.upstream.generator import denoiser

    pipeline = upstream.generator.pipeline
    # Before training: the identifiers and the prior are those of the generator as it is.
    words = identifiers(shots, upstream, meter)
    prior = retrieved_prior(shots, upstream, meter, params)
    with (
        unfrozen(denoiser(pipeline), keys_and_values) as w,
        placeholder_embeddings(pipeline, words) as v,
    ):
        yield from fit_subjects(
            shots,
            upstream,
            meter,
            rng,
            params,
            [*w, *v],
            identifiers=words,
            prior=prior,
            encode=encode_each_step,  # the words change as they are trained
        )


def keys_and_values(name: str) -> bool:
    """Those of cross-attention, which diffusers calls the second attention of a block."""
    return ".attn2.to_k." in name or ".attn2.to_v." in name

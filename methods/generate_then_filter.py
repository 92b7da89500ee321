"""Several images generated for each one wanted; the one kept is the most certain of its class.

The CLIP filter of He et al. removes generated images of low zero-shot confidence: the softmax
over the classes of the image's cosines to their texts. Where they cut at a threshold, here the
best of every few is kept, so that the budget of images is filled: a choice of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._filters import best_of, joined
from ._queries import confidence, ensemble
from ._rounds import affordable, requests

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Generated, then filtered by CLIP",
    family="hybrid",
    query="class name",
    paper="https://arxiv.org/abs/2210.07574",
    citation="He et al. (2023), ICLR: the CLIP filter",
    uses=("generator", "encoder"),
    filters=("score",),
)


class Params(benchmark.Params):
    """``published``: the documented defaults of diffusers' Stable Diffusion pipeline."""

    candidates: int = benchmark.param(2, help="images generated for each one kept", ge=1, le=100)
    guidance_scale: float = benchmark.param(
        3.0, help="classifier-free guidance; at 1 there is none", published=7.5, ge=0, le=30
    )
    steps: int = benchmark.param(12, help="denoising steps", published=50, ge=1, le=1000)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Turn by turn, one image of every class; the prompts of each class in turn."""
    n, classes = params.candidates, range(len(shots.classes))
    with meter.phase("filter"):
        queries = ensemble(upstream.encoder, shots.classes)
    prompts, labels, seeds = requests(shots, n * meter.budget.images_per_class, rng)
    steps = affordable(upstream, meter, len(prompts), params)
    for start in range(0, len(prompts), n * len(classes)):
        turn = slice(start, start + n * len(classes))
        with meter.phase("generate"):
            made = joined(
                upstream.generator.text_to_image(
                    prompts[turn],
                    labels[turn],
                    seeds[turn],
                    size=shots.image_size,
                    guidance_scale=params.guidance_scale,
                    steps=steps,
                )
            )
        with meter.phase("filter"):
            sure = confidence(upstream.encoder, made.pixels, queries).reshape(n, len(classes), -1)
        reasons = [best_of(sure[:, label, label]) for label in classes]
        yield replace(made, rejected=[reasons[label][c] for c in range(n) for label in classes])

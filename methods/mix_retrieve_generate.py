"""Retrieved and generated images in turn: do they add what the other lacks?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._rounds import requests

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Retrieved and generated in turn",
    family="hybrid",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: two of its baselines together",
    uses=("index", "generator"),
)


class Params(benchmark.Params):
    """``published``: the documented defaults of diffusers' Stable Diffusion pipeline."""

    share: float = benchmark.param(0.5, help="of the images retrieved", gt=0, lt=1)
    guidance_scale: float = benchmark.param(
        3.0, help="classifier-free guidance; at 1 there is none", published=7.5, ge=0, le=30
    )
    steps: int = benchmark.param(12, help="denoising steps", published=50, ge=1, le=1000)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Turn by turn, one image of every class; the nearest first, the prompts in turn."""
    count, classes = meter.budget.images_per_class, len(shots.classes)
    upto = [math.ceil(params.share * turn) for turn in range(count + 1)]  # retrieved before it
    texts = [entry.queries for entry in shots.classes]
    with meter.phase("retrieve"):
        queries = [upstream.encoder.encode_texts(list(of_class)) for of_class in texts]
        found = upstream.nearest(queries, upto[-1])
        retrieved = upstream.retrieve(found, texts, shots.image_size, batch=classes)
    prompts, labels, seeds = requests(shots, count - upto[-1], rng)
    for turn in range(count):
        if upto[turn + 1] > upto[turn]:
            with meter.phase("retrieve"):
                yield next(retrieved)
            continue
        first = (turn - upto[turn]) * classes
        part = slice(first, first + classes)
        with meter.phase("generate"):
            yield from upstream.generator.text_to_image(
                prompts[part],
                labels[part],
                seeds[part],
                size=shots.image_size,
                guidance_scale=params.guidance_scale,
                steps=params.steps,
            )

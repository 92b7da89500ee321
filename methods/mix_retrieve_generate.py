"""Retrieved and generated images alternate: does one add what the other lacks?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._sampling import Sampling, cycle_prompts

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Retrieved and generated, alternating",
    family="hybrid",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: two of its baselines together",
    uses=("index", "generator"),
    uses_shots=False,
)


class Params(Sampling):
    share: float = benchmark.param(0.5, help="of the images retrieved", gt=0, lt=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Turn by turn, one image of every class; the nearest first, the prompts cycled."""
    count, classes = meter.budget.images_per_class, len(shots.classes)
    # how many turns before each are retrieved: one that exceeds the last retrieves
    before = [math.ceil(params.share * turn) for turn in range(count + 1)]
    texts = [entry.queries for entry in shots.classes]
    with meter.phase("retrieve"):
        queries = [upstream.encoder.encode_texts(of_class) for of_class in texts]
        nearest = upstream.nearest(queries, before[-1])
        # a batch is one rank of every class, that is, one turn
        retrieved = upstream.retrieve(nearest, texts, shots.image_size, batch=classes)
    prompts, labels, seeds = cycle_prompts(shots, count - before[-1], rng)
    for turn in range(count):
        if before[turn + 1] > before[turn]:
            with meter.phase("retrieve"):
                yield next(retrieved)
            continue
        first = (turn - before[turn]) * classes
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

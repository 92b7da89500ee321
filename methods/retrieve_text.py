"""The images of the corpus nearest to the class queries: retrieval in its plainest form.

Burg et al. search the generator's own training images for nearest neighbours; Geng et al. (2024),
arXiv 2406.05184, call the search by class texts "semantic" retrieval. The score of an image is its
largest cosine over the queries of the class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Params, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Retrieved by class queries",
    family="retrieve",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: the retrieval baseline",
    uses=("index",),
    uses_shots=False,
    stochastic=False,
)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The nearest of every class first."""
    texts = [entry.queries for entry in shots.classes]
    with meter.phase("retrieve"):
        queries = [upstream.encoder.encode_texts(of_class) for of_class in texts]
        nearest = upstream.nearest(queries, meter.budget.images_per_class)
        yield from upstream.retrieve(nearest, texts, shots.image_size)

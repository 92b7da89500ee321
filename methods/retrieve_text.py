"""The images of the corpus nearest to the class queries: retrieval in its plainest form.

Burg et al. search the generator's own training images for nearest neighbours; Geng et al. (2024),
arXiv 2406.05184, call the search by class texts "semantic" retrieval. An image counts for a class
by its most similar query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Retrieved by class queries",
    family="retrieve",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: the retrieval baseline",
    uses=("index",),
)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: benchmark.Params
) -> Iterator[Images]:
    """Nothing is drawn by chance."""
    texts = [entry.queries for entry in shots.classes]
    with meter.phase("retrieve"):
        queries = [upstream.encoder.encode_texts(list(of_class)) for of_class in texts]
        found = upstream.nearest(queries, meter.budget.images_per_class)
        yield from upstream.retrieve(found, texts, shots.image_size)

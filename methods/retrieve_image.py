"""The images of the corpus nearest to the shots: retrieval that needs no class name.

An image counts for a class by its most similar shot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Params, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Retrieved by the shots",
    family="retrieve",
    query="image",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: retrieval, here queried by image",
    uses=("index",),
    stochastic=False,
)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The nearest of every class first."""
    labels = range(len(shots.classes))
    with meter.phase("retrieve"):
        # every shot is a query: an image counts for its most similar shot, not for their mean
        queries = [upstream.encoder.encode_images(shots.of(label)) for label in labels]
        nearest = upstream.nearest(queries, meter.budget.images_per_class)
        parents = [[shots.ids[row] for row in shots.rows(label)] for label in labels]
        yield from upstream.retrieve(nearest, None, shots.image_size, parents=parents)

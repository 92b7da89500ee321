"""More real images of the training pool: what any augmentation would have to match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Provenance, Shots

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(title="More real images", family="oracle")


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: benchmark.Params
) -> Iterator[Images]:
    """As many as the budget allows of each class, or as there are."""
    pool = shots.real()
    order = [rng.permutation(pool.rows(label)) for label in range(len(shots.classes))]
    for rank in range(meter.budget.images_per_class):
        rows = [rows[rank] for rows in order if rank < len(rows)]
        if not rows:
            return
        told = [Provenance("real", "training pool", parents=(pool.ids[row],)) for row in rows]
        yield Images(pool.images[rows], pool.labels[rows], told)

"""More real images of the training pool: what any augmentation would have to match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Params, Provenance, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np

# An oracle is given the training images that the split leaves unused, in ``shots.unused``. Which
# these are depends on the split, so it uses the shots in the sense of the facts.
FACTS = benchmark.Facts(title="More real images", family="oracle")


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """As many images of each class as the budget allows, or as there are."""
    pool = shots.real()
    order = [rng.permutation(pool.rows(label)) for label in range(len(shots.classes))]
    for turn in range(meter.budget.images_per_class):
        rows = [of_class[turn] for of_class in order if turn < len(of_class)]
        if not rows:  # no class has more
            return
        provenance = [Provenance("real", "training pool", parents=(pool.ids[row],)) for row in rows]
        yield Images(pool.images[rows], pool.labels[rows], provenance)

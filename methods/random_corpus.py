"""Random images of the corpus under random labels: the floor. What more images do by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(title="Random corpus images", family="control", uses=("corpus",))


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: benchmark.Params
) -> Iterator[Images]:
    """Each image of the corpus at most once, as long as there are enough."""
    corpus, labels = upstream.corpus, list(range(len(shots.classes)))
    wanted = meter.budget.images_per_class * len(labels)
    drawn = rng.choice(len(corpus), wanted, replace=wanted > len(corpus))
    with meter.phase("retrieve"):
        for rows in drawn.reshape(-1, len(labels)):
            meter.charge(images=len(rows))
            told = [corpus.provenance(row) for row in rows]
            yield Images(corpus.pixels(rows, shots.image_size), labels, told)

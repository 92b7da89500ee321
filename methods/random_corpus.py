"""Random images of the corpus under random labels: the floor. What more images do by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Params, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Random corpus images", family="control", uses=("corpus",), uses_shots=False
)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """No image of the corpus twice, as long as there are enough."""
    corpus, labels = upstream.corpus, list(range(len(shots.classes)))
    count = meter.budget.images_per_class * len(labels)
    # with repetition only where the corpus is smaller than the budget
    chosen = rng.choice(len(corpus), count, replace=count > len(corpus))
    with meter.phase("retrieve"):
        for rows in chosen.reshape(-1, len(labels)):  # one image of every class
            meter.charge(images=len(rows))
            provenance = [corpus.provenance(row) for row in rows]
            yield Images(corpus.pixels(rows, shots.image_size), labels, provenance)

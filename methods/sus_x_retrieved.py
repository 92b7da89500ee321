"""A support set without any image: the corpus searched with descriptions of the classes.

SuS-LC of Udandarao et al.: for each class, the images nearest to its texts. TIP-X, the
training-free classifier they build on the support set, is no augmentation and not part of this.
Their texts are written by a language model (CuPL); here the task card's definitions serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._queries import described

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="SuS-X support set, retrieved",
    family="retrieve",
    query="templates",
    paper="https://arxiv.org/abs/2211.16198",
    citation="Udandarao et al. (2023), ICCV: SuS-LC",
    uses=("index",),
)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: benchmark.Params
) -> Iterator[Images]:
    """Nothing is drawn by chance. An image counts for a class by its nearest description."""
    texts = [described(entry) for entry in shots.classes]
    with meter.phase("retrieve"):
        queries = [upstream.encoder.encode_texts(of_class) for of_class in texts]
        found = upstream.nearest(queries, meter.budget.images_per_class)
        yield from upstream.retrieve(found, texts, shots.image_size)

"""A support set without any image: the corpus searched with descriptions of the classes.

SuS-LC of Udandarao et al.: for each class, the images nearest to its texts. TIP-X, the
training-free classifier they build on the support set, is no augmentation and not part of this.
They ask with plain prompts ("photo") or with descriptions that a language model wrote ("CuPL");
here a query is the mean of a prompt's features without and with the task card's definition.
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
    """Nothing is drawn by chance. An image counts for a class by its nearest query."""
    from torch.nn import functional

    texts = [described(entry) for entry in shots.classes]
    names = [[pair[-1] for pair in of_class] for of_class in texts]
    with meter.phase("retrieve"):
        queries = []
        for of_class in texts:
            features = upstream.encoder.encode_texts([text for pair in of_class for text in pair])
            means = features.unflatten(0, (len(of_class), -1)).mean(1)
            queries.append(functional.normalize(means, dim=-1))
        found = upstream.nearest(queries, meter.budget.images_per_class)
        yield from upstream.retrieve(found, names, shots.image_size)

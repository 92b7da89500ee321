"""A support set without any image: the corpus searched with descriptions of the classes.

SuS-LC of Udandarao et al.: for each class, the images nearest to its texts. TIP-X, the
training-free classifier they build on the support set, is no augmentation and not part of this.
They query with the plain class name ("photo") or with descriptions that a language model wrote
("CuPL"); here a query is the mean of a prompt's features without and with the task card's
definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Params, Shots, Upstream

from ._queries import with_definitions

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="SuS-X support set, retrieved",
    family="retrieve",
    query="templates",
    paper="https://arxiv.org/abs/2211.16198",
    citation="Udandarao et al. (2023), ICCV: SuS-LC",
    uses=("index",),
    uses_shots=False,
    stochastic=False,
)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The score of an image is its largest cosine over the queries of the class."""
    from torch.nn import functional

    texts = [with_definitions(entry) for entry in shots.classes]
    longest = [[pair[-1] for pair in of_class] for of_class in texts]  # for the ledger
    with meter.phase("retrieve"):
        queries = []
        for of_class in texts:
            features = upstream.encoder.encode_texts([text for pair in of_class for text in pair])
            # one row of features for a prompt without its definition, one with it
            means = features.unflatten(0, (len(of_class), -1)).mean(1)
            queries.append(functional.normalize(means, dim=-1))
        nearest = upstream.nearest(queries, meter.budget.images_per_class)
        yield from upstream.retrieve(nearest, longest, shots.image_size)

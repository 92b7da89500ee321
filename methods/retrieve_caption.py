"""The images whose captions name the class, those the encoder agrees with first.

Geng et al. search the captions for the words of the class name, score every image found against
the mean feature of the class's templates, and keep the best 30 %. As they leave out what the
corpus calls unsafe, so do we; copies within a class, which they keep, are left out too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._filters import first, screened
from ._queries import ensemble, matches

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Retrieved by caption words",
    family="retrieve",
    query="caption",
    paper="https://arxiv.org/abs/2406.05184",
    citation="Geng et al. (2024), NeurIPS: substring retrieval, filtered by score",
    uses=("index",),
    filters=("duplicate", "safety", "watermark"),
)


class Params(benchmark.Params):
    keep: float = benchmark.param(0.3, help="share of the matches kept, by score", gt=0, le=1)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Nothing is drawn by chance. A class whose names no caption holds gets nothing."""
    texts = [entry.members for entry in shots.classes]
    with meter.phase("retrieve"):
        pools = matches(upstream.corpus.captions, shots.classes)
        queries = ensemble(upstream.encoder, shots.classes)
        ranked = upstream.nearest(queries, len(upstream.corpus), pools)
        kept = [first(found, math.ceil(params.keep * len(found.rows))) for found in ranked]
        yield from screened(upstream, meter, kept, texts, shots.image_size)

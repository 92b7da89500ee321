"""The images whose captions name the class, those of the highest encoder score first.

Geng et al. search the captions for the words of the class name, score every match against
the mean feature of the class's templates, and keep the best 30 %. As they leave out what the
corpus calls unsafe, so do we; copies within a class, which they keep, are left out too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._filters import retrieve_filtered, top
from ._queries import caption_matches, template_ensemble

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
    uses_shots=False,
    stochastic=False,
)


class Params(benchmark.Params):
    keep: float = benchmark.param(0.3, help="share of the matches kept, by score", gt=0, le=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """A class whose names no caption holds gets no image."""
    texts = [entry.members for entry in shots.classes]
    with meter.phase("retrieve"):
        pools = caption_matches(upstream.corpus.captions, shots.classes)
        queries = template_ensemble(upstream.encoder, shots.classes)
        ranked = upstream.nearest(queries, len(upstream.corpus), pools)
        # the share is of all matches, whatever the budget takes of them
        kept = [top(found, math.ceil(params.keep * len(found.rows))) for found in ranked]
        yield from retrieve_filtered(upstream, meter, kept, texts, shots.image_size)

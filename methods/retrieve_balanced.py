"""As many images of every class, by how near their captions come to the class prompt.

SWAT retrieves what a caption's words find and ranks it text to text ("T2T500": the 500 captions
per class nearest to the class prompt), which keeps the classes even where image scores would not.
Images that share a caption rank alike: chance orders them. A class that has several members takes
from each in turn. Both are choices of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._filters import screened
from ._queries import ensemble, matches, nearest_captions

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Retrieved text to text",
    family="retrieve",
    query="caption",
    paper="https://arxiv.org/abs/2406.11148",
    citation="Liu et al. (2025), CVPR: SWAT's retrieval",
    uses=("index",),
    filters=("duplicate", "safety", "watermark"),
)


class Params(benchmark.Params):
    duplicate: float = benchmark.param(
        1.0, help="images of a class with a larger cosine count once; 1: copies alone", gt=0, le=1
    )


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """A class whose names no caption holds gets nothing."""
    texts = [entry.members for entry in shots.classes]
    with meter.phase("retrieve"):
        pools = matches(upstream.corpus.captions, shots.classes)
        queries = ensemble(upstream.encoder, shots.classes)
        ranked = nearest_captions(upstream, meter, queries, pools, rng)
        yield from screened(
            upstream, meter, ranked, texts, shots.image_size, duplicate=params.duplicate
        )

"""As many images of every class, by how near their captions come to the class prompt.

SWAT retrieves the images whose captions hold the class name and ranks them text to text ("T2T500":
the 500 captions per class nearest to the class prompt), which balances the classes where image
scores would not.
Images that share a caption have equal scores: their order is random. A class that has several
members cycles through them. Both are choices of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._filters import retrieve_filtered
from ._queries import caption_matches, nearest_captions, template_ensemble

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
    uses_shots=False,
)


class Params(benchmark.Params):
    duplicate: float = benchmark.param(
        1.0, help="images of a class with a larger cosine count once; 1: copies alone", gt=0, le=1
    )


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """A class whose names no caption holds gets no image."""
    texts = [entry.members for entry in shots.classes]
    with meter.phase("retrieve"):
        pools = caption_matches(upstream.corpus.captions, shots.classes)
        queries = template_ensemble(upstream.encoder, shots.classes)
        ranked = nearest_captions(upstream, meter, queries, pools, rng)
        yield from retrieve_filtered(
            upstream, meter, ranked, texts, shots.image_size, duplicate=params.duplicate
        )

"""The images whose captions name the class, nearest to a mixture of its names and its shots.

Neural Priming keeps a pool of pre-training images whose captions hold the class name, and
classifies with the mixture alpha * text + (1 - alpha) * image of the class's features. Here the
mixture ranks the pool: the images are those that would prime the classifier, nearest first. The
image feature is the shots' mean; the ranking is a choice of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._filters import retrieve_filtered
from ._queries import caption_matches, shot_means, template_ensemble

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Primed by names and shots",
    family="retrieve",
    query="image",
    paper="https://arxiv.org/abs/2306.10191",
    citation="Wallingford et al. (2023), NeurIPS: Neural Priming",
    uses=("index",),
    filters=("duplicate", "safety", "watermark"),
    stochastic=False,
)


class Params(benchmark.Params):
    alpha: float = benchmark.param(
        0.7, help="weight of the text", published="0.55 to 0.9, by the number of shots", ge=0, le=1
    )


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """A class whose names no caption holds gets no image."""
    from torch.nn import functional

    texts = [entry.members for entry in shots.classes]
    with meter.phase("retrieve"):
        pools = caption_matches(upstream.corpus.captions, shots.classes)
        t = template_ensemble(upstream.encoder, shots.classes)
        v = shot_means(upstream.encoder, shots)
        # one query per member: t_c is [M, D], v_c [D]
        mixed = [
            params.alpha * t_c + (1 - params.alpha) * v_c for t_c, v_c in zip(t, v, strict=True)
        ]
        queries = [functional.normalize(mixture, dim=-1) for mixture in mixed]
        ranked = upstream.nearest(queries, len(upstream.corpus), pools)
        yield from retrieve_filtered(upstream, meter, ranked, texts, shots.image_size)

"""Several pseudo-words per class: textual inversion with more room.

Burg et al. (2023) compare single pseudo-words with longer ones. A choice of ours: four embeddings
in a row, as many as DA-Fusion takes, each starting as that of the class name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._inversion import InversionParams, invert_and_sample

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Pseudo-words of several tokens",
    family="personalize",
    adaptation="token",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: pseudoword+",
    uses=("generator",),
)


class Params(InversionParams):
    """Trained as textual inversion, on which it builds."""

    tokens: int = benchmark.param(4, help="embeddings of a pseudo-word", ge=1, le=16)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns the words, then prompts with them in place of the class names."""
    yield from invert_and_sample(shots, upstream, meter, rng, params)

"""Several pseudo-words per class: textual inversion with more room.

Burg et al. (2023) compare single pseudo-words with longer ones. A choice of ours: four vectors in
a row, as many as DA-Fusion takes, each starting as the class name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._inversion import invert
from ._personalize import Sampling, drawn, spare

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


class Params(Sampling):
    """``published``: of textual inversion, on which it builds."""

    tokens: int = benchmark.param(4, help="vectors of a pseudo-word", ge=1, le=16)
    fit_steps: int = benchmark.param(100, help="optimiser steps", published=5000, ge=1)
    lr: float = benchmark.param(5e-3, help="learning rate", gt=0)
    batch_size: int = benchmark.param(1, help="images of each class in a step", published=4, ge=1)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns the words, then asks for them where the class name stood."""
    left = spare(shots, upstream, meter, params)
    with invert(shots, upstream, meter, rng, params, left) as texts:
        yield from drawn(shots, upstream, meter, rng, params, texts)

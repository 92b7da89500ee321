"""Textual inversion: a new word per class, learned from its shots by a frozen generator.

    v* = argmin_v  E || epsilon - epsilon_theta(z_t, t, c_theta(y with v)) ||^2      (equation 2)

All words of a task are learned in one loop: a word's gradient comes from its own class alone.
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
    title="Textual inversion",
    family="personalize",
    adaptation="token",
    query="class name",
    paper="https://arxiv.org/abs/2208.01618",
    citation="Gal et al. (2023), ICLR",
    uses=("generator",),
)


class Params(Sampling):
    """``published``: section 4 and appendix of the paper, for one word."""

    tokens: int = benchmark.param(1, help="vectors of a word", ge=1, le=16)
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

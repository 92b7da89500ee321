"""Textual inversion: a new word per class, learned from its shots by a frozen generator.

    v* = argmin_v  E || epsilon - epsilon_theta(z_t, t, c_theta(y with v)) ||^2      (equation 2)

All words of a task are learned in one loop: a word's gradient comes from its own class alone.
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
    title="Textual inversion",
    family="personalize",
    adaptation="token",
    query="class name",
    paper="https://arxiv.org/abs/2208.01618",
    citation="Gal et al. (2023), ICLR",
    uses=("generator",),
)


class Params(InversionParams):
    """One embedding per class, as in the paper."""


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns the words, then prompts with them in place of the class names."""
    yield from invert_and_sample(shots, upstream, meter, rng, params)

"""No augmentation: the control that every gain is paired with.

A classifier trained on the shots alone. To add a method of your own, copy ``prompt_simple.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Params, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="No augmentation",
    family="control",
    uses_shots=False,
    stochastic=False,
    adds_images=False,
)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Yields nothing."""
    yield from ()

"""Some of the shots, and at the generator's own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark import Shots

if TYPE_CHECKING:
    import numpy as np


def subset(shots: Shots, rows: Sequence[int] | np.ndarray) -> Shots:
    """The shots of these rows, under the labels and classes they have."""
    return replace(
        shots,
        images=shots.images[rows],
        labels=shots.labels[rows],
        ids=tuple(shots.ids[row] for row in rows),
    )


def originals(shots: Shots, rows: np.ndarray, size: int) -> np.ndarray:
    """The images of these rows at ``size`` pixels, uint8 [n, size, size, 3]. A row may come more
    than once; its file is decoded once."""
    import numpy as np

    unique, positions = np.unique(rows, return_inverse=True)
    return subset(shots, unique).originals(size)[positions]

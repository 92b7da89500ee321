"""Training data that shows which row a batch was drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.classify._batches import Data, Labelled


def data_of(
    real: Sequence[int],
    added: Sequence[int] = (),
    n_classes: int = 3,
    val: int = 0,
    flip: bool = False,
    size: int = 8,
) -> Data:
    """Images that carry their own row in their pixels."""

    def labelled(labels: Sequence[int], first: int) -> Labelled:
        rows = np.arange(first, first + len(labels), dtype=np.uint8)
        pixels = np.broadcast_to(rows[:, None, None, None], (len(rows), size, size, 3))
        return Labelled(pixels.copy(), np.asarray(labels, np.int64))

    parts = labelled(real, 0), labelled(added, len(real)), labelled([0, 1, 2, 0, 1][:val], 100)
    return Data(*parts, n_classes=n_classes, flip=flip)

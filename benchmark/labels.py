"""Targets: what a label says where it is more than the number of a class. Rows are float [C].

    hard       one 1 among zeros        the image is of this class
    soft       weights that sum to 1    between two classes, or of several
    negative   one -1 among zeros       the image is not of this class

The ledger keeps a row that is not hard as text (column ``target``), and that text is what the
classifier is fitted to: a trial read back from disk trains as it did before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from benchmark.errors import MethodError

TOLERANCE = 1e-4  # by which the weights of a row may miss their sum of 1
DECIMALS = 6


def checked(given: np.ndarray, where: str) -> np.ndarray:
    """Rows float [B, C] as float64, the soft ones divided by their sum.

    Raises:
        MethodError: a row is neither soft nor negative; ``where`` opens the message.
    """
    rows = given.astype(np.float64)
    sums, struck = rows.sum(axis=1), rows < -0.5
    soft = (rows >= 0).all(axis=1) & (np.abs(sums - 1) <= TOLERANCE)
    negative = (struck.sum(axis=1) == 1) & (np.abs(rows + struck) <= TOLERANCE).all(axis=1)
    for row in np.flatnonzero(~(soft | negative)):
        raise MethodError(
            f"{where}[{row}]: expected weights of 0 or more that sum to 1, or zeros but for one "
            f"-1, got {_told(rows[row])}"
        )
    divided: np.ndarray = rows / np.where(soft, sums, 1)[:, None]
    return np.where(negative[:, None], -struck.astype(float), divided)


def primary(rows: np.ndarray) -> np.ndarray:
    """int64 [B]: the class of the largest absolute weight, the first of equal ones."""
    classes: np.ndarray = np.abs(rows).argmax(axis=-1).astype(np.int64)
    return classes


def encode(row: np.ndarray) -> tuple[int, str | None]:
    """The primary class of one checked row, and its text: ``{"3": 0.7, "5": 0.3}`` in the order
    of the classes, weights to 6 decimals; None where it is hard."""
    rounded = np.round(row, DECIMALS) + 0.0  # no negative zero
    weights = {str(label): float(rounded[label]) for label in np.flatnonzero(rounded)}
    label = int(primary(rounded))
    return label, None if weights == {str(label): 1.0} else json.dumps(weights)


def decode(labels: np.ndarray, texts: Sequence[str | None], n_classes: int) -> np.ndarray:
    """What a classifier is fitted to: int64 [M], the labels, where every text is None; else
    float32 [M, C], a hard label as its row."""
    if not any(texts):
        return labels
    rows = np.eye(n_classes)[labels]
    for row, text in zip(rows, texts, strict=True):
        if text:
            weights = {int(label): weight for label, weight in json.loads(text).items()}
            row[:] = 0
            row[list(weights)] = list(weights.values())
    decoded: np.ndarray = (rows / np.abs(rows.sum(axis=1, keepdims=True))).astype(np.float32)
    return decoded


def _told(row: np.ndarray) -> str:
    """One row in a message: its first weights that are not 0, and their sum."""
    named = [f"{label}: {row[label]:.6g}" for label in np.flatnonzero(row)]
    shown = ", ".join(named[:6]) + (", ..." if len(named) > 6 else "")
    return f"{{{shown}}}, a sum of {row.sum():.6g}"

"""Nearest neighbours by inner product over the features of a corpus.

faiss where it is installed; the exact search in torch is the reference, and the fallback.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor

from benchmark.upstream.index.exact import ExactIndex
from benchmark.upstream.index.flat import FaissIndex, load_faiss


class Index(Protocol):
    """A searchable set of features."""

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest rows of every query, best first, equal ones by row number.

        Args:
            queries: float32 [Q, D], L2-normalised.
            k: at most the number of rows.

        Returns:
            Cosine similarities, float32 [Q, k], rounded to 6 decimals, and rows, int64 [Q, k];
            on the CPU.
        """
        ...


def choose_index(features: np.ndarray, device: str) -> Index:
    """faiss where it is installed, with its GPUs where it has them; else the exact search in
    torch on ``device``. Both rank alike, to the row."""
    if load_faiss() is None:
        return ExactIndex(features, device)
    return FaissIndex(features, device)

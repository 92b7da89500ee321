"""Exact search in torch: the reference that every other index is compared with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Similarities are compared at this precision. Copies of an image, whose features differ in the
# last bits by where in a batch they were computed, then tie, and ties go to the lower row: the
# same ranking on every machine.
DECIMALS = 6

# Features are read in pieces of this many rows: 134 MB at 512 dimensions.
CHUNK = 65_536


class ExactIndex:
    """Compares every query with every row, in pieces, on any device torch knows."""

    def __init__(self, features: np.ndarray, device: str = "cpu") -> None:
        self._features, self._device = features, device

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As ``Index.search``."""
        queries = queries.to(self._device)
        values, rows = [], []
        for start in range(0, len(self._features), CHUNK):
            piece = torch.from_numpy(np.array(self._features[start : start + CHUNK]))
            scores = (queries @ piece.to(self._device).T).round_(decimals=DECIMALS)
            best, columns = _best(scores, min(k, len(piece)))
            values.append(best.cpu())
            rows.append(columns.cpu() + start)
        return ranked(torch.cat(values, 1), torch.cat(rows, 1), k)


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns of every row; of equal ones, the first. ``topk`` alone leaves open
    which of them it takes."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    if values.shape[1] > k:
        for row in (values[:, k - 1] == values[:, k]).nonzero()[:, 0]:
            able = (scores[row] >= values[row, k - 1]).nonzero()[:, 0]
            order = scores[row, able].sort(descending=True, stable=True).indices[:k]
            columns[row, :k] = able[order]
            values[row, :k] = scores[row, able[order]]
    return values[:, :k], columns[:, :k]


def ranked(values: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Best first, equal ones by row number, cut to k."""
    rows, order = rows.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values[:, :k], rows.gather(1, order)[:, :k]

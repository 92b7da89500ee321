"""Nearest neighbours by inner product over the features of a corpus.

faiss where it is installed; the exact search in torch is the reference, and the fallback.
"""

from __future__ import annotations

from importlib.metadata import packages_distributions
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import ConfigError

# Similarities are compared at this precision. Copies of an image, whose features differ in the
# last bits by where in a batch they were computed, then tie, and ties go to the lower row: the
# same ranking on every machine.
DECIMALS = 6
# Features are read in pieces of this many rows: 134 MB at 512 dimensions.
CHUNK = 65_536
# Largest k of faiss on a GPU: https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU
GPU_MOST = 2048


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
        return _ranked(torch.cat(values, 1), torch.cat(rows, 1), k)


class FaissIndex:
    """faiss' flat index: exact, all features in memory; on the GPU of ``device`` where that is
    one and faiss was built for it, else on the CPU."""

    def __init__(self, features: np.ndarray, device: str = "cpu") -> None:
        faiss = load_faiss()
        if faiss is None:
            raise ConfigError("faiss", ["not installed: pip install 'augbench[cpu]' or '[gpu]'"])
        self._index = faiss.IndexFlatIP(features.shape[1])
        self._most = len(features)
        place = torch.device(device)
        if place.type == "cuda" and faiss.get_num_gpus() > 0:
            self._resources = faiss.StandardGpuResources()  # must outlive the index
            self._index = faiss.index_cpu_to_gpu(self._resources, place.index or 0, self._index)
            self._most = min(self._most, GPU_MOST)
        for start in range(0, len(features), CHUNK):
            self._index.add(np.ascontiguousarray(features[start : start + CHUNK], np.float32))

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As ``Index.search``. faiss leaves open which of equal rows it returns, so more are
        asked for until the last one is worse than the k-th."""
        if k > self._most:
            raise ConfigError("faiss", [f"a GPU index returns at most {GPU_MOST} rows, not {k}"])
        wanted = min(k + 16, self._most)
        while True:
            values, rows = self._index.search(queries.cpu().numpy().astype(np.float32), wanted)
            scores = torch.from_numpy(values).round_(decimals=DECIMALS)
            if wanted == self._most or (scores[:, -1] < scores[:, k - 1]).all():
                return _ranked(scores, torch.from_numpy(rows), k)
            wanted = min(2 * wanted, self._most)


def choose_index(features: np.ndarray, device: str) -> Index:
    """faiss where it is installed, with its GPUs where it has them; else the exact search in
    torch on ``device``. Both rank alike, to the row."""
    if load_faiss() is None:
        return ExactIndex(features, device)
    return FaissIndex(features, device)


def load_faiss() -> Any:
    """The faiss module, or None where it is not installed. This file has imported torch before:
    a faiss built for CUDA 12 that comes before a torch built for CUDA 13 ends the process.

    Raises:
        ConfigError: several distributions have written into one ``faiss`` folder.
    """
    owners = sorted(set(packages_distributions().get("faiss", [])))
    try:
        import faiss
    except ImportError:
        if not owners:
            return None
    else:
        if len(owners) <= 1 and hasattr(faiss, "IndexFlatIP"):
            return faiss
    found = " and ".join(owners) or "an empty folder"
    raise ConfigError(
        "faiss",
        [
            f"a mixed installation ({found}): pip uninstall -y faiss-cpu faiss-gpu "
            f"{' '.join(set(owners) - {'faiss-cpu', 'faiss-gpu'})}".rstrip()
            + ", then install one of augbench[cpu], augbench[gpu]"
        ],
    )


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


def _ranked(values: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Best first, equal ones by row number, cut to k."""
    rows, order = rows.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values[:, :k], rows.gather(1, order)[:, :k]

"""Exact search in faiss, all features in memory, on a GPU where there is one."""

from __future__ import annotations

from importlib.metadata import packages_distributions
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import ConfigError
from benchmark.upstream.index.exact import CHUNK, DECIMALS, ranked

# Largest k of faiss on a GPU: https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU
GPU_MOST = 2048


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
                return ranked(scores, torch.from_numpy(rows), k)
            wanted = min(2 * wanted, self._most)


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

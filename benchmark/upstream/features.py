"""Features that are computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock
from torch import Tensor

from benchmark.errors import DataError, StorageError
from benchmark.home import cache_folder
from benchmark.upstream.corpora.table import Corpus
from benchmark.upstream.encoder import Encoder

Progress = Callable[[str, int, int], None]


def features(
    corpus: Corpus,
    encoder: Encoder,
    progress: Progress | None = None,
    shipped: Path | None = None,
) -> np.ndarray:
    """float32 [N, D], L2-normalised, memory-mapped and read-only; row i is image i.

    One process computes them, others wait for it. A file that is not whole is made again.

    Args:
        shipped: a file of ``write_shipped`` that came with the corpus: used where its hashes
            are those of this corpus and this encoder.

    Raises:
        DataError: an image of the corpus is damaged.
        StorageError: the cache cannot be written.
    """

    shape = (len(corpus), encoder.dim)

    def batches() -> Iterator[Tensor]:
        if shipped is not None and (known := _shipped(shipped, corpus, encoder)) is not None:
            yield known
            return
        for start in range(0, len(corpus), encoder.batch_size):
            rows = range(start, min(start + encoder.batch_size, len(corpus)))
            yield encoder.encode_images(corpus.images(rows))
            if progress is not None:
                progress("features", rows.stop, len(corpus))

    return _kept(f"{corpus.hash}/{encoder.hash}", shape, batches)


def write_shipped(path: Path, corpus: Corpus, encoder: Encoder) -> None:
    """Writes the features of a corpus to be shipped with it: safetensors, one tensor
    ``features`` float32 [N, D], the hashes of corpus and encoder in its metadata."""
    from safetensors.numpy import save_file

    values = np.array(features(corpus, encoder))
    save_file({"features": values}, path, {"corpus": corpus.hash, "encoder": encoder.hash})


def _shipped(path: Path, corpus: Corpus, encoder: Encoder) -> Tensor | None:
    """The shipped features; None where they are of another corpus or another encoder.

    Raises:
        DataError: the file is missing, damaged, or not of the shape its hashes promise.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            made_of = file.metadata() or {}
            if (made_of.get("corpus"), made_of.get("encoder")) != (corpus.hash, encoder.hash):
                return None
            known: Tensor = file.get_tensor("features")
    except (OSError, SafetensorError) as error:
        raise DataError(f"corpus: {path}: features missing or damaged: {error}") from None
    if known.shape != (len(corpus), encoder.dim):
        raise DataError(
            f"corpus: {path}: features of shape {list(known.shape)}, "
            f"expected [{len(corpus)}, {encoder.dim}]"
        )
    return known


def remembered(pixels: np.ndarray, encoder: Encoder) -> np.ndarray:
    """As ``features``, of uint8 [N, S, S, 3] that come again and again: the validation and test
    images of a task, which every trial is judged on. Never for what a method has encoded: that
    is charged each time."""
    content = hashlib.sha256(f"{pixels.shape}".encode())
    content.update(np.ascontiguousarray(pixels).data)
    shape = (len(pixels), encoder.dim)
    return _kept(
        f"{content.hexdigest()}/{encoder.hash}", shape, lambda: [encoder.encode_images(pixels)]
    )


def _kept(
    identity: str, shape: tuple[int, int], batches: Callable[[], Iterable[Tensor]]
) -> np.ndarray:
    """The array on disk, made from ``batches`` where it is not there."""
    name = hashlib.sha256(f"features/1/{identity}".encode()).hexdigest()
    path = cache_folder() / "features" / f"{name}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (known := _read(path, shape)) is None:
                _write(path, shape, batches())
                known = _read(path, shape)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    assert known is not None
    return known


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        known: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # missing, truncated, not an array
        return None
    return known if known.shape == shape and known.dtype == np.float32 else None


def _write(path: Path, shape: tuple[int, int], batches: Iterable[Tensor]) -> None:
    """Batch by batch into a file that is renamed when it is whole. (Not through a memory map:
    there a full disk ends the process instead of raising.)"""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    try:
        with open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for batch in batches:
                file.write(batch.numpy().astype("<f4").tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""Features that are computed once and kept on disk, with checksums that are compared."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor

from benchmark.content import file_hash
from benchmark.errors import DataError, StorageError
from benchmark.files import new_file, set_aside, sha256_of, to_json, write_file
from benchmark.home import cache_folder
from benchmark.meter import Progress
from benchmark.upstream.corpora import Corpus
from benchmark.upstream.encoder import Encoder

log = logging.getLogger(__name__)


def features(
    corpus: Corpus,
    encoder: Encoder,
    progress: Progress | None = None,
    shipped: Path | None = None,
) -> np.ndarray:
    """float32 [N, D], L2-normalised, memory-mapped and read-only; row i is image i.

    One process computes them, others wait for it. A file that differs from its checksum is set
    aside, with a warning, and computed again.

    Args:
        shipped: a file of ``write_shipped`` that came with the corpus: used where its identity
            is that of this corpus and this encoder.

    Raises:
        DataError: an image of the corpus, or the shipped file, is damaged.
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

    return _cached(f"{corpus.hash}/{encoder.hash}", shape, batches)


def write_shipped(path: Path, corpus: Corpus, encoder: Encoder) -> None:
    """Writes the features of a corpus to be shipped with it: safetensors, one tensor
    ``features`` float32 [N, D], and their identity beside (``write_identity``)."""
    from safetensors.numpy import save_file

    with new_file(path) as temporary:
        save_file({"features": np.array(features(corpus, encoder))}, temporary)
    write_identity(path, corpus.hash, encoder.hash)


def write_identity(path: Path, corpus_hash: str, encoder_hash: str) -> None:
    """Writes what shipped features are of, as JSON under their name with the suffix ``.json``: the
    hashes of corpus and encoder, the sha256 of the file, the shape of the tensor. It does not
    look whether they are: the caller knows.

    Raises:
        DataError: the features are missing or damaged.
    """
    facts = {"corpus": corpus_hash, "encoder": encoder_hash, "sha256": file_hash(path)}
    write_file(_identity_of(path), to_json({**facts, "shape": list(_read_shipped(path).shape)}))


def _identity_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _shipped(path: Path, corpus: Corpus, encoder: Encoder) -> Tensor | None:
    """The shipped features; None where they are of another corpus or another encoder.

    Raises:
        DataError: a file is missing, damaged, or not of the shape its identity promises.
    """
    try:
        facts = json.loads(_identity_of(path).read_bytes())
        made_of, expected = (facts["corpus"], facts["encoder"]), facts["sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"corpus: {_identity_of(path)}: missing or damaged ({error}); restore it, or leave out "
            "the corpus' key `features`: they are computed then"
        ) from None
    if made_of != (corpus.hash, encoder.hash):
        return None
    if file_hash(path) != expected:
        raise DataError(f"corpus: {path}: differs from the sha256 in {_identity_of(path).name}")
    known = _read_shipped(path)
    if known.shape != (len(corpus), encoder.dim):
        raise DataError(
            f"corpus: {path}: features of shape {list(known.shape)}, "
            f"expected [{len(corpus)}, {encoder.dim}]"
        )
    return known


def _read_shipped(path: Path) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            known: Tensor = file.get_tensor("features")
            return known
    except (OSError, SafetensorError) as error:
        raise DataError(f"corpus: {path}: features missing or damaged: {error}") from None


def cached_features(pixels: np.ndarray, encoder: Encoder) -> np.ndarray:
    """As ``features``, of uint8 [N, S, S, 3] that come again and again: the validation and test
    images of a task, which every trial is evaluated on. Never for what a method encodes: that is
    charged each time."""
    content = hashlib.sha256(f"{pixels.shape}".encode())
    content.update(np.ascontiguousarray(pixels).data)
    shape = (len(pixels), encoder.dim)
    return _cached(
        f"{content.hexdigest()}/{encoder.hash}", shape, lambda: [encoder.encode_images(pixels)]
    )


def _cached(
    identity: str, shape: tuple[int, int], batches: Callable[[], Iterable[Tensor]]
) -> np.ndarray:
    """The array on disk, made from ``batches`` where it is not there or not whole."""
    name = hashlib.sha256(f"features/1/{identity}".encode()).hexdigest()
    path = cache_folder() / "features" / f"{name}.npy"
    try:
        if (known := _read(path, shape)) is not None:
            return known
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (known := _read(path, shape)) is None:
                _clear(path)
                _write(path, shape, batches())
                known = _read(path, shape)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    if known is None:
        raise StorageError(f"{path}: differs from what was written to it; is the disk sound?")
    return known


# States of files whose checksum this process has compared.
_verified: set[tuple[str, int, int, int]] = set()


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """None where the array is missing, or not what its checksum says."""
    try:
        facts = _checksum(path)
        state = path.stat()
        key = (str(path), state.st_ino, state.st_size, state.st_ctime_ns)
        if key not in _verified:
            if facts != {"array": path.stem, "sha256": sha256_of(path)}:
                return None
            _verified.add(key)
        known: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError, RecursionError):
        return None
    return known if known.shape == shape and known.dtype == np.float32 else None


def _checksum(path: Path) -> Any:
    """What is noted of an array beside it; the name is noted too, so that no other fits."""
    return json.loads(path.with_suffix(".json").read_bytes())


def _clear(path: Path) -> None:
    """Sets a damaged array aside. One without a checksum, as earlier versions left it, is simply
    replaced."""
    if path.exists() and path.with_suffix(".json").exists():
        aside = set_aside(path)
        log.warning("%s: damaged; kept as %s and computed again", path, aside.name)


def _write(path: Path, shape: tuple[int, int], batches: Iterable[Tensor]) -> None:
    """Batch by batch into a file that is renamed when it is whole, after its checksum is written.
    (Not through a memory map: there a full disk ends the process instead of raising.)"""
    digest = hashlib.sha256()
    with new_file(path) as temporary:
        with open(temporary, "wb") as file:
            for part in _parts(shape, batches):
                file.write(part)
                digest.update(part)
        facts = {"array": path.stem, "sha256": digest.hexdigest()}
        write_file(path.with_suffix(".json"), to_json(facts))


def _parts(shape: tuple[int, int], batches: Iterable[Tensor]) -> Iterator[bytes]:
    """The bytes of a NumPy file, header first."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    yield header.getvalue()
    for batch in batches:
        yield batch.numpy().astype("<f4").tobytes()

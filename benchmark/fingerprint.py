"""Content hashes of files and of what an upstream is made of; nothing heavy is imported."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from glob import glob
from pathlib import Path

from benchmark.errors import DataError
from benchmark.home import cache_folder
from benchmark.protocol import UpstreamSpec


def file_hash(path: Path) -> str:
    """sha256 of a file. Remembered on disk by path, size and time of change, so that weights
    of some gigabytes are read once.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        state = path.stat()
        return _file_hash(str(path.resolve()), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


@cache
def _file_hash(path: str, size: int, changed: int) -> str:
    key = hashlib.sha256(f"{path}\0{size}\0{changed}".encode()).hexdigest()
    memo = cache_folder() / "hashes" / key
    try:
        known = memo.read_text()
        if len(known) == 64:
            return known
    except OSError:
        pass
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        temporary = memo.with_suffix(f".{os.getpid()}")
        temporary.write_text(digest)
        os.replace(temporary, memo)
    except OSError:
        pass  # a cache that cannot be written costs time, not correctness
    return digest


def folder_hash(folder: Path) -> str:
    """sha256 over the names and contents of all files in a folder.

    Raises:
        DataError: the folder is missing or empty.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise DataError(f"{folder}: no such folder, or nothing in it")
    parts = [(path.relative_to(folder).as_posix(), file_hash(path)) for path in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def corpus_files(spec: UpstreamSpec, root: Path) -> list[Path]:
    """The corpus' parquet files, in order; empty for a corpus of the Hub.

    Raises:
        DataError: a pattern of ``data_files`` matches nothing.
    """
    found: list[Path] = []
    for pattern in spec.corpus.data_files:
        matches = sorted(Path(match) for match in glob(str(root / pattern), recursive=True))
        if not matches:
            raise DataError(f"corpus: no file matches {root / pattern}")
        found += matches
    return found


def corpus_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of the corpus' files, or of its repository and revision on the Hub, and its columns; not
    of its features, which follow from it and the encoder. A corpus without flags is what it was
    before there were any."""
    files = [file_hash(path) for path in corpus_files(spec, root)]
    unsaid = {name for name in ("safety", "watermark") if getattr(spec.corpus, name) is None}
    columns = spec.corpus.model_dump(mode="json", exclude={"features", *unsaid})
    return _digest("corpus", columns, files)


def encoder_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of a local folder's files, or of the model's name."""
    model = spec.encoder.model
    local = model.startswith("local-dir:")
    content = folder_hash(root / model.removeprefix("local-dir:")) if local else ""
    return _digest("encoder", model, spec.encoder.pretrained, content)


def generator_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of a local folder's files, or of the repository and its revision."""
    folder = root / spec.generator.model
    content = folder_hash(folder) if folder.is_dir() else ""
    return _digest("generator", spec.generator.model_dump(exclude={"batch_size"}), content)


def upstream_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of everything that augmentation may draw from."""
    parts = [corpus_hash(spec, root), encoder_hash(spec, root), generator_hash(spec, root)]
    return _digest("upstream", *parts)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

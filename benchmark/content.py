"""Content hashes of files and folders: what is in them, never where they lie."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path

from benchmark.errors import DataError
from benchmark.home import cache_folder


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

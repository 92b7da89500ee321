"""Content hashes of files and folders: what is in them, never where they lie."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from benchmark.errors import DataError
from benchmark.files import sha256_of
from benchmark.home import cache_folder


def file_hash(path: Path) -> str:
    """sha256 of a file, so that weights of some gigabytes are read once: remembered on disk by
    path, size, inode, and the times of change of its content and of its inode, in nanoseconds.

    A file whose content changes while all of these stay the same would keep its old hash: two
    writes of equal size within one tick of the file system's clock (some milliseconds), or a
    file system without inodes and with times that were set back.

    Raises:
        DataError: the file is missing, unreadable, or not a regular file.
    """
    try:
        real = os.path.realpath(path, strict=True)
        return _file_hash(real, _state(Path(real)))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def forget() -> None:
    """Has this process read the memos on disk again, as after another cache folder was chosen."""
    _file_hash.cache_clear()


def folder_hash(folder: Path) -> str:
    """sha256 over the names, relative to the folder, and the contents of all files in it that a
    loader reads. Links are followed: a snapshot in the Hub's cache, which is made of them, has
    the hash of a plain copy. Left out are hidden files and folders, ``*.md``, and files of plain
    text named ``README*`` or ``LICENSE*``.

    Raises:
        DataError: the folder is missing or has no such file, or one cannot be read.
    """
    try:
        names = sorted(_names(folder, ()))
    except OSError as error:
        raise DataError(f"{folder}: {error}") from None
    parts = [(name, file_hash(folder / name)) for name in names]
    if not parts:
        raise DataError(f"{folder}: no such folder, or nothing in it")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


_UNREAD = re.compile(r"\..*|.*\.md|(readme|licen[cs]e)[^.]*(\.(txt|rst))?", re.I | re.S)


def _names(folder: Path, above: tuple[Path, ...]) -> Iterator[str]:
    """The files that count, as POSIX paths relative to ``folder``.

    Args:
        above: the real paths of the folders that led here: links may form a circle.
    """
    real = folder.resolve()
    if real in above:
        raise DataError(f"{folder}: a link to a folder that holds it")
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            if not path.name.startswith("."):
                yield from (f"{path.name}/{name}" for name in _names(path, (*above, real)))
        elif not _UNREAD.fullmatch(path.name):
            yield path.name


def _state(path: Path) -> tuple[int, ...]:
    """What changes with a file's content, without reading it; raises ``OSError``."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a regular file")
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


@cache
def _file_hash(path: str, state: tuple[int, ...]) -> str:
    key = json.dumps([path, *state])
    memo = cache_folder() / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    if (known := _read_memo(memo, key)) is not None:
        return known
    digest = sha256_of(Path(path))
    if _state(Path(path)) == state:  # else it changed while it was read
        _write_memo(memo, key, digest)
    return digest


def _read_memo(memo: Path, key: str) -> str | None:
    """The hash that is remembered; None where there is none, or anything about it is not right."""
    try:
        digest, check = json.loads(memo.read_bytes())
        known = bool(re.fullmatch("[0-9a-f]{64}", digest)) and check == _check(key, digest)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return str(digest) if known else None


def _write_memo(memo: Path, key: str, digest: str) -> None:
    """Not under a temporary name: half a memo fails its check."""
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(json.dumps([digest, _check(key, digest)]))
    except OSError:
        pass  # a cache that cannot be written costs time, not correctness


def _check(key: str, digest: str) -> str:
    return hashlib.sha256(f"{key}\0{digest}".encode()).hexdigest()

"""Files and folders that exist whole or not at all, and that say so when they are damaged.

Everything is written under a temporary name beside its own and renamed. A run may be killed at
any moment: what it was writing is removed by a later one, what it was replacing is put back.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.errors import RecordError, StorageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TEMPORARY = ".tmp-"  # how names begin of what is being written, or was left by a killed run
DAMAGED = ".damaged"  # how names end of what ``set_aside`` kept
MANIFEST = "manifest.json"
ROW_GROUP = 1_000  # rows of images that are in memory together, at most ...
ROW_GROUP_BYTES = 64 * 2**20  # ... and their size, at most, where there is more than one

# .tmp-<final name>-<whose process ids>-<process id>-<random>[-before]
_BEFORE = "-before"
_NAME = re.compile(r"\.tmp-(.+)-([0-9a-f]{8})-(\d{1,10})-[0-9a-f]{8}(-before)?", re.DOTALL)
# Seconds without a change after which another machine's process is taken for dead: while it
# writes, and between the two renames of ``write_folder``, which take no time.
_IDLE_WRITING, _IDLE_RENAMING = 24 * 3600, 600


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the system says of a full disk or a forbidden folder into ``StorageError``."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else error.strerror or str(error)
        raise StorageError(
            f"{path}: {what}; nothing half-written was kept, the same command continues"
        ) from None


# --- whole or not at all ------------------------------------------------------------------------


def write_folder(final: Path, fill: Callable[[Path], object], *, manifest: bool = False) -> None:
    """``final`` filled by ``fill`` under a temporary name, then renamed into place. What was
    there before is kept until then, and put back if the renaming fails or is interrupted; after a
    kill, the next ``recover`` puts it back. Two processes may not write the same ``final``: hold
    a lock.

    Args:
        manifest: whether to list the files with their checksums, for ``verify_folder``.

    Raises:
        StorageError: the disk is full or the folder cannot be written; ``final`` is as it was.
    """
    recover(final)
    with storage_errors(final), _temporary(final) as temporary:
        temporary.mkdir()
        fill(temporary)
        if manifest:
            _write_manifest(temporary)
        _exchange(temporary, final)


def write_file(path: Path, data: bytes) -> None:
    """``data`` as a file that a reader never sees half of.

    Raises:
        StorageError: as ``write_folder``.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path to be written inside the ``with``; renamed to ``path`` at its end, removed
    after an exception.

    Raises:
        StorageError: as ``write_folder``.
    """
    with storage_errors(path), _temporary(path) as temporary:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


def recover(final: Path) -> None:
    """Puts a folder back that a killed process had moved away to replace it. To be called before
    reading one that may be missing; does nothing where ``final`` is there."""
    if os.path.lexists(final):
        return
    moved = [item for item in _abandoned(final.parent) if (item.final, item.moved) == (final, True)]
    if moved:
        newest = max(moved, key=lambda item: item.path.lstat().st_ctime_ns)
        with suppress(OSError):  # a folder that may only be read; another process was faster
            os.replace(newest.path, final)


def sweep(folder: Path) -> None:
    """Removes from ``folder`` (not from those in it) the temporaries of processes that are dead,
    and puts back what they had moved away. Those of a live process stay. A process identifier
    that the system has given away again keeps a temporary for as long as its new owner lives."""
    for item in _abandoned(folder):
        if item.moved:
            recover(item.final)
        if not item.moved or os.path.lexists(item.final):
            _discard(item.path)


def set_aside(path: Path) -> Path:
    """Renames a damaged file or folder to ``<name>.damaged`` (``.damaged.2`` where that is taken,
    and so on) and returns the new path: it can be looked at, and is made again.

    Raises:
        StorageError: it is not there, or cannot be renamed.
    """
    aside, number = path.with_name(path.name + DAMAGED), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}{DAMAGED}.{number}")
    with storage_errors(path):
        return path.rename(aside)


def is_stored(path: Path) -> bool:
    """Whether a path, relative to the folder that is searched, lies in nothing that is being
    written, was left by a killed run, or was set aside."""
    return not any(
        part.startswith(TEMPORARY) or re.search(rf"{re.escape(DAMAGED)}(\.\d+)?$", part)
        for part in path.parts
    )


class _Abandoned(NamedTuple):
    """A temporary whose process is dead. ``moved``: it is what ``final`` was before."""

    path: Path
    final: Path
    moved: bool


_live: set[str] = set()  # names that this process is writing under now


@contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """A free name beside ``final``; what has it at the end is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(final.parent)
    owner = f"{_process_space()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary = final.with_name(f"{TEMPORARY}{final.name}-{owner}")
    _live.add(temporary.name)
    try:
        yield temporary
    finally:
        _live.discard(temporary.name)
        _discard(temporary)


def _exchange(temporary: Path, final: Path) -> None:
    """Two renames. The ``finally`` looks at the disk alone, so it is right wherever an interrupt
    comes; and where one comes inside it, ``recover`` does the rest."""
    before = temporary.with_name(temporary.name + _BEFORE)
    try:
        if os.path.lexists(final):
            os.replace(final, before)
        os.replace(temporary, final)
    finally:
        if os.path.lexists(before):
            if os.path.lexists(final):
                _discard(before)
            else:
                os.replace(before, final)


def _discard(path: Path) -> None:
    """Deletes a temporary, if it is there. What was moved away loses that name first: half of it
    must never be put back."""
    with suppress(OSError):
        if path.name.endswith(_BEFORE):
            moved, path = path, path.with_name(path.name.removesuffix(_BEFORE))
            os.replace(moved, path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@cache
def _sweep_once(folder: Path) -> None:
    """``sweep``, once a process: folders of many files are written file by file."""
    sweep(folder)


def _abandoned(folder: Path) -> list[_Abandoned]:
    """In the order of their names; of names that are not of this module, none."""
    found = []
    with suppress(OSError):
        for path in sorted(folder.glob(f"{TEMPORARY}*")):
            if (name := _NAME.fullmatch(path.name)) and not _is_live(path, name):
                found.append(_Abandoned(path, folder / name[1], bool(name[4])))
    return found


def _is_live(path: Path, name: re.Match[str]) -> bool:
    """Whether the process that a temporary is named after may still be at it."""
    if name[2] != _process_space():
        idle = _IDLE_RENAMING if name[4] else _IDLE_WRITING
        return time.time() - _last_change(path) < idle
    if int(name[3]) == os.getpid():
        return path.name.removesuffix(_BEFORE) in _live
    return _is_running(int(name[3]))


def _is_running(process: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _last_change(path: Path) -> float:
    """When anything in a file or folder last changed, its name included; now, where it is
    changing under this very look."""
    try:
        return max(item.lstat().st_ctime for item in (path, *path.rglob("*")))
    except OSError:
        return time.time()


@cache
def _process_space() -> str:
    """Names the processes that this one can see by their identifiers: those of the same machine,
    container and user. Of others on a shared disk it cannot be known whether they live."""
    parts = [platform.node(), str(getattr(os, "getuid", int)())]
    with suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


# --- checksums ----------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Of a file's bytes, which are read each time (``benchmark.content.file_hash`` remembers)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256_of(path),
            "size": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_bytes(folder / MANIFEST, to_json({"files": files}))


def verify_folder(folder: Path) -> list[str]:
    """What differs between a folder and its manifest: one line per file that is missing or has
    other bytes; none where all is well. Files that the manifest does not name are not looked at.
    Protects against damage, not against those who write a manifest to match.
    """
    path = folder / MANIFEST
    try:
        files = json.loads(path.read_bytes())["files"]
        expected = [
            (str(name), str(facts["sha256"]), int(facts["size"])) for name, facts in files.items()
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return [f"{path}: missing or damaged ({type(error).__name__})"]
    faults = (_difference(folder, *facts) for facts in expected)
    return [fault for fault in faults if fault]


def _difference(folder: Path, name: str, sha256: str, size: int) -> str | None:
    inside, path = PurePosixPath(name), folder / name
    if inside.is_absolute() or ".." in inside.parts:
        return f"{folder / MANIFEST}: names {name!r}, which is not in the folder"
    try:
        if not path.is_file():
            return f"{path}: missing"
        if (found := path.stat().st_size) != size:
            return f"{path}: {found} bytes, expected {size}"
        return None if sha256_of(path) == sha256 else f"{path}: differs from its checksum"
    except (OSError, ValueError) as error:
        return f"{path}: cannot be read: {error}"


# --- formats ------------------------------------------------------------------------------------


def write_bytes(path: Path, data: bytes) -> None:
    """A file that is on the disk when this returns."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def to_json(value: Any) -> bytes:
    """Plain data as a text that is the same for the same data, and easy to compare by line."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """A table as parquet."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def read_table(path: Path) -> pd.DataFrame:
    """A table from parquet; raises ``RecordError`` where it is missing or damaged."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except Exception as error:
        raise RecordError(f"{path}: cannot be read: {error}") from None


def write_arrow(path: Path, table: pa.Table) -> None:
    """An arrow table as parquet, compressed well: it is written once and downloaded often."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=12)
    write_bytes(path, buffer.getvalue())


def write_images(
    path: Path, columns: Mapping[str, Sequence[object]], files: Iterable[bytes]
) -> None:
    """Parquet with the Hub's Image feature: ``datasets`` and the Hub's viewer show it as is.
    Only one row group of images is in memory at a time (``ROW_GROUP``, ``ROW_GROUP_BYTES``).

    Args:
        columns: beside ``image``: ``index``, ``label``, and texts of any other name; all N long.
        files: N encoded images, one a row; they are taken one by one.

    Raises:
        ValueError: ``columns`` and ``files`` are not of one length.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, start = _image_schema(columns), 0
    with open(path, "wb") as file:
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=12,
            use_dictionary=list(columns),
            write_statistics=list(columns),
        ) as writer:
            for images in _row_groups(files):
                stop = start + len(images)
                rows: dict[str, Any] = {
                    name: column[start:stop] for name, column in columns.items()
                }
                rows["image"] = [{"bytes": data, "path": None} for data in images]
                writer.write_table(pa.Table.from_pydict(rows, schema=schema))
                start = stop
        file.flush()
        os.fsync(file.fileno())
    if lengths := {name: len(column) for name, column in columns.items() if len(column) != start}:
        raise ValueError(f"{path}: {start} images, but columns of other lengths: {lengths}")


def read_image_batches(
    path: Path, columns: Sequence[str] = ("index", "label", "image")
) -> Iterator[dict[str, list[Any]]]:
    """The rows of a table of images, at most ``ROW_GROUP`` at a time, however large the file is.

    Returns:
        For each batch a list of every column; the images are their encoded bytes.

    Raises:
        RecordError: the file is missing or damaged, a column is missing, an image is null.
    """
    import pyarrow.parquet as pq

    try:
        # The buffer has column chunks read piece by piece, not whole.
        with pq.ParquetFile(path, buffer_size=2**20) as file:
            if missing := set(columns) - set(file.schema_arrow.names):
                raise RecordError(f"no column {', '.join(map(repr, sorted(missing)))}")
            for group in range(file.num_row_groups):
                batches = file.iter_batches(ROW_GROUP, [group], columns=list(columns))
                for batch in batches:
                    yield {name: _values(batch.column(name), name) for name in columns}
    except Exception as error:  # pyarrow raises many types on a damaged file
        raise RecordError(f"{path}: cannot be read: {error}") from None


def _values(column: pa.Array, name: str) -> list[Any]:
    if name != "image":
        values: list[Any] = column.to_pylist()
        return values
    images: list[Any] = column.field("bytes").to_pylist()
    if not all(isinstance(image, bytes) for image in images):
        raise RecordError("an image is null, or not bytes")
    return images


def _image_schema(columns: Iterable[str]) -> pa.Schema:
    import datasets

    kinds = {name: "int64" if name in ("index", "label") else "string" for name in columns}
    values = {name: datasets.Value(kind) for name, kind in kinds.items()}
    return datasets.Features({**values, "image": datasets.Image()}).arrow_schema


def _row_groups(files: Iterable[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for data in files:
        if group and (len(group) == ROW_GROUP or size + len(data) > ROW_GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(data)
        size += len(data)
    if group:
        yield group

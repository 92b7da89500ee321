"""Where images are stored: parquet files, or a data set in the Hub's layout.

Small columns are read whole. Images are read when they are asked for, as they are encoded; no file
is copied or converted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmark.errors import DataError
from benchmark.files import to_json, write_file
from benchmark.home import cache_folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Encoded images of a table that are kept in memory: whole row groups, the last ones used.
CACHE_BYTES = 256 * 2**20
# Larger row groups are not kept but read batch by batch, as often as somebody goes back in them.
GROUP_BYTES = 64 * 2**20
_BATCH = 256  # rows


class Stored(Protocol):
    """A table on disk.

    Attributes:
        rows: how many it has.
        folder: what the paths of images are relative to.
    """

    rows: int
    folder: Path

    def columns(self, names: Sequence[str], image: str) -> pa.Table:
        """The named columns, all rows; raises ``DataError``: one of them or the column ``image``
        is missing, a file is damaged."""

    def images(self, column: str, rows: Sequence[int]) -> list[Any]:
        """The values of an image column as they are stored, bytes or ``{bytes, path}``; raises
        ``DataError``."""

    def image_bytes(self, column: str) -> int:
        """About how many bytes all images of a column take."""


class ParquetFiles:
    """Parquet files, one after the other. See ``Stored``.

    Raises:
        DataError: one is missing or not a whole parquet file.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._states = {file: _state(file) for file in files}
        self._footers = {file: _footer(file) for file in files}
        self._files = [file for file in files if self._footers[file].num_rows]
        self.folder = files[0].parent
        self.rows = sum(self._footers[file].num_rows for file in self._files)
        self._lock = threading.Lock()  # neither an open file nor the cache may be shared
        self._kept: OrderedDict[tuple[str, int], tuple[list[pa.RecordBatch], int]] = OrderedDict()
        self._kept_bytes = 0
        self._stream: _Stream | None = None

    def columns(self, names: Sequence[str], image: str) -> pa.Table:
        """See ``Stored``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = []
        for file in self._files or self._footers:
            there = self._footers[file].schema.to_arrow_schema().names
            _check_columns(str(file), (*names, image), there)
            with _readable(file), pq.ParquetFile(file, metadata=self._footers[file]) as opened:
                parts.append(opened.read(columns=list(names)))
        return pa.concat_tables(parts, promote_options="permissive")

    def images(self, column: str, rows: Sequence[int]) -> list[Any]:
        """See ``Stored``. Every row group is read once for all of ``rows``."""
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.rows:
            raise IndexError(f"rows {wanted.min()}..{wanted.max()} of {self.rows}")
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        values: list[Any] = [None] * len(wanted)
        with self._lock:
            for group in np.unique(groups).tolist():
                places = np.flatnonzero(groups == group)
                places = places[np.argsort(wanted[places], kind="stable")]
                inside = (wanted[places] - self._starts[group]).tolist()
                for place, value in zip(
                    places.tolist(), self._values(column, group, inside), strict=True
                ):
                    values[place] = value
        return values

    def image_bytes(self, column: str) -> int:
        """See ``Stored``."""
        return sum(
            _group_bytes(self._footers[file], group, column) for file, group, _ in self._groups
        )

    @cached_property
    def _groups(self) -> list[tuple[Path, int, int]]:
        """File, number in the file and rows of every row group."""
        return [
            (file, group, self._footers[file].row_group(group).num_rows)
            for file in self._files
            for group in range(self._footers[file].num_row_groups)
        ]

    @cached_property
    def _starts(self) -> np.ndarray:
        """The first row of every row group, int64 [G]."""
        counts = [rows for _, _, rows in self._groups]
        return np.cumsum([0, *counts[:-1]], dtype=np.int64)

    def _values(self, column: str, group: int, inside: Sequence[int]) -> Iterator[Any]:
        """The values at ascending positions of one row group."""
        file, number, _ = self._groups[group]
        with _readable(file, f"row group {number}"):
            if _group_bytes(self._footers[file], number, column) > GROUP_BYTES:
                yield from self._streamed(column, group, inside)
                return
            start, batches = 0, iter(self._whole(column, group))
            batch = _next(batches)
            for position in inside:
                while position >= start + batch.num_rows:
                    start += batch.num_rows
                    batch = _next(batches)
                yield batch.column(0)[position - start].as_py()

    def _whole(self, column: str, group: int) -> list[pa.RecordBatch]:
        """A row group, from the cache where it is there."""
        key = (column, group)
        if key not in self._kept:
            batches = list(self._batches(column, group))
            size = sum(batch.nbytes for batch in batches)
            while self._kept and self._kept_bytes + size > CACHE_BYTES:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._kept_bytes -= dropped
            self._kept[key] = batches, size
            self._kept_bytes += size
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _streamed(self, column: str, group: int, inside: Sequence[int]) -> Iterator[Any]:
        """From a row group too large to keep: on from where the last call stopped, so that a
        table is read once by those who go through it in order."""
        stream = self._stream
        if stream is None or stream.key != (column, group) or stream.start > inside[0]:
            stream = _Stream((column, group), self._batches(column, group))
        self._stream = None  # not to be used again after an error
        for position in inside:
            yield stream.value(position)
        self._stream = stream

    def _batches(self, column: str, group: int) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        file, number, _ = self._groups[group]
        if _state(file) != self._states[file]:
            raise DataError(f"{file}: it was changed while it was in use")
        # The buffer has column chunks read piece by piece, not whole.
        with pq.ParquetFile(file, metadata=self._footers[file], buffer_size=2**20) as opened:
            yield from opened.iter_batches(_BATCH, [number], columns=[column])


class _Stream:
    """A position in a row group that is read batch by batch."""

    def __init__(self, key: tuple[str, int], batches: Iterator[pa.RecordBatch]) -> None:
        self.key, self.start, self._batches = key, 0, batches
        self._batch = _next(batches)

    def value(self, position: int) -> Any:
        """The value at a position that is not before the last one asked for."""
        while position >= self.start + self._batch.num_rows:
            self.start += self._batch.num_rows
            self._batch = _next(self._batches)
        return self._batch.column(0)[position - self.start].as_py()


class ArrowTable:
    """A table that the library ``datasets`` has made of a folder of images, of tars, of CSV: in
    memory or memory-mapped. See ``Stored``."""

    def __init__(self, name: str, table: pa.Table, folder: Path) -> None:
        self._name, self._table, self.folder = name, table, folder
        self.rows: int = table.num_rows

    def columns(self, names: Sequence[str], image: str) -> pa.Table:
        """See ``Stored``."""
        _check_columns(self._name, (*names, image), self._table.column_names)
        return self._table.select(list(names))

    def images(self, column: str, rows: Sequence[int]) -> list[Any]:
        """See ``Stored``."""
        values = self._table[column]
        return [values[int(row)].as_py() for row in rows]

    def image_bytes(self, column: str) -> int:
        """See ``Stored``. Of files beside, only the length of their paths is known."""
        size: int = self._table[column].nbytes
        return size


def open_layout(name: str, place: Path | str, revision: str | None, split: str) -> Stored:
    """A split of a data set in the Hub's layout: a local folder, or a repository at its revision.
    Parquet files are read where they are (those of a repository are downloaded once, and then
    found without the network); anything else that ``datasets`` reads, it makes a table of.

    Raises:
        DataError: opened with ``name``: it cannot be found, downloaded or read; no such split.
    """
    if isinstance(place, str) and (known := _downloaded(place, revision, split)):
        return ParquetFiles(known)
    try:
        builder = _builder(place, revision)
        files = dict(builder.config.data_files or {})
        if split not in files:
            raise DataError(f"no such split; it has {', '.join(map(str, files)) or 'none'}")
        if (builder.info.builder_name or builder.name) == "parquet":
            if isinstance(place, Path) or not str(files[split][0]).startswith("hf://"):
                return ParquetFiles([Path(file) for file in files[split]])
            return ParquetFiles(_download(place, revision, split, files[split]))
        builder.download_and_prepare()
        return ArrowTable(name, builder.as_dataset(split).data.table, Path(place))
    except Exception as error:  # network, authorisation, a damaged file: many types
        kind = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
        raise DataError(f"{name}: {kind}{error}{_remedy(place, revision)}") from error


def _check_columns(name: str, needed: Sequence[str], present: Sequence[str]) -> None:
    """Raises ``DataError``: a column is missing; names it, and those there are."""
    if missing := [column for column in needed if column not in present]:
        raise DataError(
            f"{name}: no column {', '.join(map(repr, missing))}; it has {', '.join(present)}"
        )


# --- parquet ------------------------------------------------------------------------------------


@contextmanager
def _readable(file: Path, part: str = "") -> Iterator[None]:
    """Whatever pyarrow raises inside becomes a ``DataError`` that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        where = f"{file}: {part}" if part else f"{file}"
        raise DataError(f"{where}: not a readable parquet file: {error}") from None


def _next(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch:
    batch = next(batches, None)
    if batch is None:
        raise OSError("it ends before the number of rows in its footer")
    return batch


def _state(file: Path) -> tuple[int, int]:
    """What changes with a file's content."""
    try:
        found = file.stat()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None
    return found.st_size, found.st_mtime_ns


def _footer(file: Path) -> pq.FileMetaData:
    import pyarrow.parquet as pq

    with _readable(file):
        return pq.read_metadata(file)


def _group_bytes(footer: pq.FileMetaData, group: int, column: str) -> int:
    """The uncompressed size of a column in one row group, its fields together."""
    part = footer.row_group(group)
    chunks = (part.column(number) for number in range(part.num_columns))
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] == column
    )


# --- the Hub ------------------------------------------------------------------------------------


def _builder(place: Path | str, revision: str | None) -> Any:
    import datasets

    datasets.disable_progress_bars()
    if isinstance(place, Path):
        return datasets.load_dataset_builder(str(place))
    if Path(place).exists():  # datasets would take the folder for the repository
        raise DataError(f"a repository of the Hub is meant, and {Path(place).resolve()} is there")
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:  # the whole repository, as `hf download` leaves it
        snapshot = snapshot_download(
            place, repo_type="dataset", revision=revision, local_files_only=True
        )
        return datasets.load_dataset_builder(snapshot)
    return datasets.load_dataset_builder(place, revision=revision)


def _download(
    repository: str, revision: str | None, split: str, urls: Sequence[object]
) -> list[Path]:
    """Files of a repository, noted under its name once all of them are there."""
    from huggingface_hub import hf_hub_download

    names = [str(url).split(f"{repository}@", 1)[1].split("/", 1)[1] for url in urls]
    files = [
        Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision))
        for name in names
    ]
    write_file(_note(repository, revision, split), to_json(names))
    return files


def _downloaded(repository: str, revision: str | None, split: str) -> list[Path]:
    """What ``_download`` brought, without asking the network; nothing where a file is gone."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        names = json.loads(_note(repository, revision, split).read_bytes())
        return [
            Path(
                hf_hub_download(
                    repository,
                    name,
                    repo_type="dataset",
                    revision=revision,
                    local_files_only=True,
                )
            )
            for name in names
        ]
    except (OSError, ValueError, TypeError, LocalEntryNotFoundError):
        return []


def _note(repository: str, revision: str | None, split: str) -> Path:
    key = hashlib.sha256(f"{repository}@{revision}/{split}".encode()).hexdigest()
    return cache_folder() / "hub" / f"{key}.json"


def _remedy(place: Path | str, revision: str | None) -> str:
    if isinstance(place, Path):
        return ""
    return f"; to fetch it: hf download {place} --repo-type dataset --revision {revision}"

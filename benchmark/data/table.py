"""Tables of images: the files and data sets of the Hub that task cards name.

Ids and labels are read at once, pixels when they are asked for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.content import file_hash
from benchmark.data.card import Columns, Source
from benchmark.errors import DataError
from benchmark.images import decode

if TYPE_CHECKING:
    import pyarrow as pa

# Decoded images of a table are kept in memory where all of them fit in this many bytes: 174,000
# images at 32 px, 3,500 at 224 px.
KEEP_BYTES = 512 * 1024**2


class ImageTable:
    """An opened source.

    Attributes:
        name: the file or data set, for messages.
        size: side in pixels at which images are decoded.
        digest: sha256 of the file, or ``<hub id>@<revision>/<split>``.
        ids: one per row, distinct.
        labels: the label column as it is, int, str or None.
    """

    def __init__(
        self, name: str, digest: str, table: pa.Table, columns: Columns, prefix: str, size: int
    ) -> None:
        self.name, self.digest, self.size = name, digest, size
        rows = table.num_rows
        self.labels: list[object] = table[columns.label].to_pylist()
        self.ids = _ids(name, table, columns, prefix)
        self._images = table[columns.image]
        self._kept: np.ndarray | None = None
        if rows * size * size * 3 <= KEEP_BYTES:
            self._kept = np.empty((rows, size, size, 3), np.uint8)
        self._done = np.zeros(rows, bool)

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3], a copy; raises ``DataError`` naming a damaged image."""
        if self._kept is None:
            return self._decode(rows)
        todo = np.unique(rows[~self._done[rows]])
        self._kept[todo] = self._decode(todo)
        self._done[todo] = True
        chosen: np.ndarray = self._kept[rows]
        return chosen

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for index, image in enumerate(pool.map(self._image, rows.tolist())):
                pixels[index] = image
        return pixels

    def _image(self, row: int) -> np.ndarray:
        """One image from a struct {bytes, path} (the ``Image`` feature of ``datasets``) or plain
        bytes."""
        where = f"{self.name}: image {self.ids[row]!r}"
        value = self._images[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and isinstance(value, dict) and value.get("path"):
            try:
                data = Path(value["path"]).read_bytes()
            except OSError as error:
                raise DataError(f"{where}: {error}") from None
        if not isinstance(data, bytes):
            raise DataError(f"{where}: no image: {type(value).__name__} instead of bytes")
        return decode(data, self.size, where)


def open_table(source: Source, columns: Columns, size: int, root: Path) -> ImageTable:
    """The table a card declares, its images to be decoded at ``size`` pixels. Read once per
    process for as long as the file does not change.

    Raises:
        DataError: as ``load_split``.
    """
    if source.path is None:
        return _open_hub(source, columns, size)
    path = root / source.path
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    stat = path.stat()
    return _open_file(path, source, columns, size, (stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=4)
def _open_file(
    path: Path, source: Source, columns: Columns, size: int, state: tuple[int, int]
) -> ImageTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = file_hash(path)
    if digest != source.sha256:
        raise DataError(
            f"{path}: its sha256 is {digest} ({state[0]:,} bytes), the task card says "
            f"{source.sha256}: the file is truncated or another version"
        )
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(str(path), columns, file.schema_arrow.names)
            table = file.read(columns=_used(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from None
    _check_rows(str(path), source, table)
    return ImageTable(source.path or "", digest, table, columns, path.stem, size)


@lru_cache(maxsize=4)
def _open_hub(source: Source, columns: Columns, size: int) -> ImageTable:
    name = f"{source.hub}@{source.revision}/{source.split}"
    table = hub_table(source.hub or "", source.revision, source.split or "", columns)
    _check_rows(name, source, table)
    return ImageTable(name, name, table, columns, source.split or "", size)


def hub_table(hub: str, revision: str | None, split: str, columns: Columns) -> pa.Table:
    """The used columns of a data set in the Hub's layout, images not decoded. ``hub`` is a
    repository of the Hub or a local folder.

    Raises:
        DataError: it cannot be loaded, or lacks a column.
    """
    import datasets

    name = f"data set {hub!r} at revision {revision}, split {split!r}"
    try:
        dataset = datasets.load_dataset(hub, revision=revision, split=split)
    except Exception as error:  # network, authorisation, unknown split: many types
        raise DataError(f"{name}: {type(error).__name__}: {error}") from error
    _check_columns(name, columns, dataset.column_names)
    table: pa.Table = dataset.data.table.select(_used(columns))  # memory-mapped, as stored
    return table


def _ids(name: str, table: pa.Table, columns: Columns, prefix: str) -> tuple[str, ...]:
    """The id column as text; numbered rows where the card names none (``columns.id = ""``)."""
    if not columns.id:
        return tuple(f"{prefix}/{row}" for row in range(table.num_rows))
    ids = table[columns.id].to_pylist()
    value, count = Counter(ids).most_common(1)[0]
    if count > 1 or None in ids:
        fault = f"{value!r} is there {count} times" if count > 1 else "a row has none"
        raise DataError(f"{name}: ids must be distinct: in column {columns.id!r} {fault}")
    return tuple(map(str, ids))


def _used(columns: Columns) -> list[str]:
    return list(dict.fromkeys(filter(None, (columns.id, columns.image, columns.label))))


def _check_columns(name: str, columns: Columns, present: Sequence[str]) -> None:
    if missing := [column for column in _used(columns) if column not in present]:
        raise DataError(
            f"{name}: no column {', '.join(map(repr, missing))}; it has {', '.join(present)}"
        )


def _check_rows(name: str, source: Source, table: pa.Table) -> None:
    if table.num_rows != source.rows:
        raise DataError(f"{name}: {table.num_rows:,} rows, the task card says {source.rows:,}")

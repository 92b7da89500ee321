"""Tables of images, as tasks and corpora read them.

Ids and other small columns are read at once, images when they are asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from benchmark.content import file_hash, folder_hash
from benchmark.data.card import Columns, Source
from benchmark.data.stored import ParquetFiles, Stored, open_layout
from benchmark.errors import DataError
from benchmark.images import decode

if TYPE_CHECKING:
    import pyarrow as pa

# Decoded images of a table are kept in memory where all of them fit in this many bytes: 174,000
# images at 32 px, 3,500 at 224 px.
KEEP_BYTES = 512 * 1024**2
_TEXTS = 10_000  # that are Python objects at a time
_ENCODED = 1_000  # images whose bytes are held at a time


class Texts(Sequence[str]):
    """N texts in arrow's memory, "" where the column is null. Read by position, slice, or a list
    or array of positions.

    Raises:
        DataError: the column does not hold texts or numbers.
    """

    def __init__(self, name: str, column: pa.ChunkedArray) -> None:
        import pyarrow as pa

        try:
            texts = column.cast(pa.large_string())  # not limited to 2 GiB
        except pa.ArrowException:
            raise DataError(f"{name} holds {column.type}, expected texts or numbers") from None
        self.array: pa.LargeStringArray = texts.combine_chunks()

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _TEXTS):
            yield from self[start : start + _TEXTS]

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice | Sequence[int] | np.ndarray) -> list[str]: ...
    def __getitem__(self, at: int | slice | Sequence[int] | np.ndarray) -> str | list[str]:
        import pyarrow as pa

        if isinstance(at, int | np.integer):
            return self.array[int(at)].as_py() or ""
        if isinstance(at, slice):
            at = range(len(self))[at]
        rows = np.ascontiguousarray(at, np.int64)
        # Not by pa.array, which imports pandas.
        index = pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])
        return [text or "" for text in self.array.take(index).to_pylist()]


class ImageTable:
    """An opened table.

    Attributes:
        name: the file or data set, for messages.
        digest: of its content: sha256 of a file, ``folder_hash`` of a folder with its split, or
            ``<hub id>@<revision>/<split>``.
        ids: one per row, distinct.

    Args:
        id_column: "" numbers the rows, as ``<prefix>/<row>``.
        others: further columns, to be had from ``column``.

    Raises:
        DataError: a column is missing; an id is missing or there twice.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        stored: Stored,
        *,
        image: str,
        id_column: str,
        prefix: str = "row",
        others: Iterable[str] = (),
    ) -> None:
        self.name, self.digest = name, digest
        self._stored, self._image = stored, image
        small = [column for column in dict.fromkeys((id_column, *others)) if column]
        self._columns = stored.columns(small, image)
        self.ids = _ids(name, self._columns, id_column, prefix, stored.rows)
        self._kept: dict[int, _Kept] = {}
        self._hashes: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self._stored.rows

    def column(self, name: str) -> pa.ChunkedArray:
        """One of ``others``."""
        return self._columns[name]

    def texts(self, name: str) -> Texts:
        """One of ``others``, as texts."""
        return Texts(f"{self.name}: column {name!r}", self._columns[name])

    def images(self, rows: Sequence[int] | np.ndarray, size: int | None) -> list[np.ndarray]:
        """Decoded images, each uint8 [S, S, 3] where ``size`` is given, else uint8 [H, W, 3].

        Raises:
            DataError: an image is damaged or missing; names it and the table.
        """
        chosen = [int(row) for row in rows]
        values = self._stored.images(self._image, chosen)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow frees the lock
            return list(pool.map(partial(self._decode, size), chosen, values))

    def pixels(self, rows: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
        """uint8 [n, S, S, 3], S = ``size``; errors as ``images``."""
        found = np.empty((len(rows), size, size, 3), np.uint8)
        for start in range(0, len(rows), _ENCODED):
            part = rows[start : start + _ENCODED]
            found[start : start + len(part)] = self.images(part, size)
        return found

    def kept_pixels(self, rows: np.ndarray, size: int) -> np.ndarray:
        """As ``pixels``, a copy, for images that are asked for again and again: kept decoded
        where those of the whole table fit in ``KEEP_BYTES``."""
        if len(self) * size * size * 3 > KEEP_BYTES:
            return self.pixels(rows, size)
        kept = self._kept.setdefault(size, _Kept(len(self), size))
        todo = np.unique(rows[~kept.done[rows]])
        kept.pixels[todo] = self.pixels(todo, size)
        kept.done[todo] = True
        chosen: np.ndarray = kept.pixels[rows]
        return chosen

    def hashes(self, rows: np.ndarray) -> list[bytes]:
        """sha256 of the encoded bytes of each image; b"" where there is none. Raises
        ``DataError``: a file is damaged."""
        todo = [int(row) for row in rows if int(row) not in self._hashes]
        for start in range(0, len(todo), _ENCODED):
            part = todo[start : start + _ENCODED]
            values = self._stored.images(self._image, part)
            for row, value in zip(part, values, strict=True):
                self._hashes[row] = b""
                with suppress(OSError):  # who reads the image is told
                    if data := self._bytes(value):
                        self._hashes[row] = hashlib.sha256(data).digest()
        return [self._hashes[int(row)] for row in rows]

    @cached_property
    def image_bytes(self) -> int:
        """About how many bytes the encoded images take."""
        return self._stored.image_bytes(self._image)

    def _decode(self, size: int | None, row: int, value: Any) -> np.ndarray:
        where = f"{self.name}: image {self.ids[row]!r}"
        try:
            data = self._bytes(value)
        except OSError as error:
            raise DataError(f"{where}: {error}") from None
        if data is None:
            raise DataError(f"{where}: no image: {type(value).__name__} instead of bytes")
        return decode(data, size, where)

    def _bytes(self, value: Any) -> bytes | None:
        """From a struct {bytes, path} (the ``Image`` feature of ``datasets``) or plain bytes."""
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and isinstance(value, dict) and value.get("path"):
            data = (self._stored.folder / value["path"]).read_bytes()
        return data if isinstance(data, bytes) else None


class _Kept:
    """Decoded images uint8 [N, S, S, 3], and which of them are there, bool [N]."""

    def __init__(self, rows: int, size: int) -> None:
        self.pixels = np.empty((rows, size, size, 3), np.uint8)
        self.done = np.zeros(rows, bool)


def open_table(source: Source, columns: Columns, prefix: str, root: Path) -> ImageTable:
    """The table a card declares, with its labels as a further column. Opened once per process
    for as long as the file does not change.

    Args:
        prefix: of the ids of numbered rows: what the table is in the task, not where it lies.

    Raises:
        DataError: as ``load_split``.
    """
    path = root / Path(source.path).expanduser() if source.path else None
    if path is not None and not path.exists():
        raise DataError(f"{path}: no such file or folder")
    digest = _content(path, source) if path else ""
    return _open(path, digest, source, columns, prefix)


def _content(path: Path, source: Source) -> str:
    """The hash of a file or folder, compared with what the card says of it."""
    digest = folder_hash(path) if path.is_dir() else file_hash(path)
    if digest != source.sha256:
        size = "" if path.is_dir() else f" ({path.stat().st_size:,} bytes)"
        raise DataError(
            f"{path}: its sha256 is {digest}{size}, the task card says {source.sha256}: "
            "it is truncated or another version"
        )
    return digest


@lru_cache(maxsize=8)
def _open(
    path: Path | None, digest: str, source: Source, columns: Columns, prefix: str
) -> ImageTable:
    split = source.split or "train"
    stored: Stored
    if path is None:
        name = digest = f"{source.hub}@{source.revision}/{split}"
        stored = open_layout(f"data set {name}", source.hub or "", source.revision, split)
    elif path.is_dir():
        name, digest = f"{source.path}/{split}", f"{digest}/{split}"
        stored = open_layout(f"{path}", path, None, split)
    else:
        name, stored = source.path or "", ParquetFiles([path])
    if stored.rows != source.rows:
        raise DataError(f"{name}: {stored.rows:,} rows, the task card says {source.rows:,}")
    return ImageTable(
        name,
        digest,
        stored,
        image=columns.image,
        id_column=columns.id,
        prefix=prefix,
        others=[columns.label],
    )


def _ids(name: str, table: pa.Table, column: str, prefix: str, rows: int) -> Texts:
    """The id column as texts; numbered rows where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not column:
        return Texts(name, pa.chunked_array([[f"{prefix}/{row}" for row in range(rows)]]))
    values = table[column]
    if values.null_count:
        row = pc.index(values.is_null(), True).as_py()
        raise DataError(f"{name}: ids must be distinct: in column {column!r} row {row} has none")
    ids = Texts(f"{name}: column {column!r}", values)
    if pc.count_distinct(ids.array).as_py() < len(ids):
        counts = pc.value_counts(ids.array)
        most = int(np.argmax(counts.field("counts").to_numpy()))
        value, count = counts[most]["values"].as_py(), counts[most]["counts"].as_py()
        raise DataError(
            f"{name}: ids must be distinct: in column {column!r} {value!r} is there {count} times"
        )
    return ids

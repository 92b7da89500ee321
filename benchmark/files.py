"""Files that exist whole or not at all: folders, tables, JSON, tables of images."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import RecordError, StorageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TEMPORARY = ".tmp-"  # how names begin of what is being written, or was left by a killed run


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


def write_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """``final`` filled by ``fill`` under a temporary name, then renamed into place. What was
    there before stays until then; what a killed run left half-written is removed.

    Raises:
        StorageError: the disk is full or the folder cannot be written; nothing is left.
    """
    temporary = final.parent / f"{TEMPORARY}{final.name}-{uuid.uuid4().hex[:8]}"
    before = temporary.with_name(f"{temporary.name}-before")
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        for stale in final.parent.glob(f"{TEMPORARY}{final.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            temporary.mkdir()
            fill(temporary)
            if final.exists():
                os.replace(final, before)
            os.replace(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(before, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """``data`` under a temporary name, then renamed: a reader never sees half a file.

    Raises:
        StorageError: as ``write_folder``.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}")
        try:
            write_bytes(temporary, data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


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


def write_images(
    path: Path, columns: Mapping[str, Sequence[object]], files: Sequence[bytes]
) -> None:
    """Parquet with the Hub's Image feature: ``datasets`` and the Hub's viewer show it as is.

    Args:
        columns: beside ``image``: ``index``, ``label``, and texts of any other name.
        files: encoded images, one a row.
    """
    import pyarrow as pa

    kinds = {name: "int64" if name in ("index", "label") else "string" for name in columns}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([*((name, kind) for name, kind in kinds.items()), ("image", image)])
    features: dict[str, Any] = {
        name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()
    }
    features["image"] = {"_type": "Image"}
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    rows: dict[str, Any] = {**columns, "image": [{"bytes": data, "path": None} for data in files]}
    write_arrow(path, pa.Table.from_pydict(rows, schema=schema))


def write_arrow(path: Path, table: pa.Table) -> None:
    """An arrow table as parquet, compressed well: it is written once and downloaded often."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=12)
    write_bytes(path, buffer.getvalue())

"""A submission: the results of many trials in a few files that a repository can hold.

    submissions/<name>/
        records.jsonl           one record a line, failed and skipped ones too
        predictions.parquet     of all records, keyed by ``record_id``
        ledger.parquet          of all sets of images, keyed by ``images_id``
        contamination.parquet   of all that were searched for flagged pairs
        images.parquet          a few accepted images of every class, by ``images_id``

This module reads it; ``benchmark.submission.pack`` makes and checks one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import RecordError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from benchmark.records.record import Record

RECORDS = "records.jsonl"
IMAGES = "images.parquet"
# The tables beside a record, each with what its rows belong to: a record, or a set of images that
# several splits and classifiers share. Their hashes are the record's fields ``<name>_hash``.
KEYS = {"predictions": "record_id", "ledger": "images_id", "contamination": "images_id"}
_BEFORE_3 = {"images_id": "trial_id"}  # schema version 2: every trial had images of its own


class Packed:
    """Reads one submission; a file is opened when it is first asked for, and stays open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: dict[str, tuple[pa.Table, dict[str, slice]]] = {}

    def records(self) -> Iterator[tuple[str, str]]:
        """Where each record stands (file and line), and its JSON."""
        path = self.folder / RECORDS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield f"{path}:{number}", line

    def table(self, name: str, record: Record) -> pd.DataFrame:
        """A record's rows of the table ``name``, not yet validated.

        Raises:
            RecordError: the file is missing or damaged.
        """
        import pandas as pd
        import pyarrow as pa

        rows = self._rows(f"{name}.parquet", KEYS[name], getattr(record, KEYS[name]))
        # Whole numbers stay whole where some are absent: seeds have up to 63 bits.
        kinds = {pa.int64(): pd.Int64Dtype()}
        frame: pd.DataFrame = rows.to_pandas(types_mapper=kinds.get, ignore_metadata=True)
        return frame

    def images(self, images_id: str) -> dict[int, bytes]:
        """Encoded images of a set by their ledger index: those that were packed."""
        if not (self.folder / IMAGES).is_file():
            return {}
        rows = self._rows(IMAGES, "images_id", images_id)
        found = rows.select(["index", "image"]).to_pylist()
        return {row["index"]: row["image"]["bytes"] for row in found}

    def where(self, name: str, record: Record) -> str:
        """The place of a record's rows, for messages."""
        key = KEYS[name]
        return f"{self.folder / name}.parquet, {key} {getattr(record, key)[:16]}"

    def _rows(self, file: str, key: str, value: str) -> pa.Table:
        """Those of one key; none where it is absent, as of a trial that made no image."""
        if file not in self._parts:
            self._parts[file] = _open(self.folder / file, key)
        table, places = self._parts[file]
        place = places.get(value, slice(0, 0))
        return table.slice(place.start, place.stop - place.start)


def _open(path: Path, key: str) -> tuple[pa.Table, dict[str, slice]]:
    """The table without its key, and which rows each value of the key has: they lie together."""
    import numpy as np
    import pyarrow.parquet as pq

    try:
        if key not in pq.read_schema(path).names:
            key = _BEFORE_3.get(key, key)
        table = pq.read_table(path, read_dictionary=[key]).unify_dictionaries()
        keys = table.column(key).combine_chunks()
        codes, names = keys.indices.to_numpy(), keys.dictionary.to_pylist()
    except Exception as error:
        raise RecordError(f"{path}: cannot be read: {error}") from None
    starts = np.flatnonzero(np.diff(codes, prepend=-1)).tolist()
    runs = [names[codes[start]] for start in starts]
    if len(set(runs)) < len(runs):
        raise RecordError(f"{path}: the rows of one {key} do not lie together")
    stops = [*starts[1:], len(codes)]
    return table.drop_columns([key]), dict(zip(runs, map(slice, starts, stops), strict=True))

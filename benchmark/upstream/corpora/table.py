"""A corpus in parquet files, or in a data set in the Hub's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.contract import Provenance
from benchmark.data.stored import ParquetFiles, Stored, open_layout
from benchmark.data.table import ImageTable
from benchmark.errors import DataError
from benchmark.protocol import CorpusSpec
from benchmark.upstream.hashes import corpus_files, corpus_hash, local_path


class TableCorpus:
    """See ``Corpus``; raises as ``open_corpus``. ``name`` is the repository with the first digits
    of its revision, or ``corpus`` with those of its hash."""

    def __init__(self, spec: CorpusSpec, root: Path) -> None:
        self.hash = corpus_hash(spec, root)
        is_hub = spec.hub is not None and local_path(spec.hub, root) is None
        pinned = f"{spec.hub}@{(spec.revision or '')[:12]}" if is_hub else ""
        self.name = pinned or f"corpus@{self.hash[:12]}"
        flags = {"safety": spec.safety, "watermark": spec.watermark}
        stated = {kind: column for kind, column in flags.items() if column}
        others = [spec.caption, *([spec.licence] if spec.licence else []), *stated.values()]
        self._table = ImageTable(
            f"corpus {self.name}",
            self.hash,
            _stored(spec, root),
            image=spec.image,
            id_column=spec.id,
            others=others,
        )
        if not len(self):
            raise DataError(f"corpus {spec.hub or ', '.join(spec.data_files)}: no image in it")
        self.ids = self._table.ids
        self.captions = self._table.texts(spec.caption)
        self._licences = self._table.texts(spec.licence) if spec.licence else None
        self._flags = {kind: self._table.column(column) for kind, column in stated.items()}

    def __len__(self) -> int:
        return len(self._table)

    def licence(self, row: int) -> str | None:
        """See ``Corpus``."""
        return (self._licences[row] or None) if self._licences is not None else None

    def flags(self, row: int) -> dict[str, float]:
        """See ``Corpus``."""
        values = {kind: column[int(row)].as_py() for kind, column in self._flags.items()}
        return {kind: float(value) for kind, value in values.items() if value is not None}

    def provenance(self, row: int, **facts: Any) -> Provenance:
        """See ``Corpus``."""
        return Provenance(
            origin="retrieved",
            source=self.name,
            corpus_id=self.ids[row],
            licence=self.licence(row),
            **facts,
        )

    def images(self, rows: Sequence[int] | np.ndarray, size: int | None = None) -> list[np.ndarray]:
        """See ``Corpus``."""
        return self._table.images(rows, size)

    def pixels(self, rows: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
        """See ``Corpus``."""
        return self._table.pixels(rows, size)


def _stored(spec: CorpusSpec, root: Path) -> Stored:
    if spec.data_files:
        return ParquetFiles(corpus_files(spec, root))
    place = local_path(str(spec.hub), root) or str(spec.hub)
    name = f"corpus {spec.hub!r} at revision {spec.revision}, split {spec.split!r}"
    return open_layout(name, place, spec.revision, spec.split)

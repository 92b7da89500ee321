"""The captioned images that the generator was trained on, and that retrieval searches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.contract import Provenance
from benchmark.errors import DataError
from benchmark.home import cache_folder
from benchmark.images import decode
from benchmark.protocol import CorpusSpec
from benchmark.upstream.hashes import corpus_files, corpus_hash, local_path

# It would draw a bar while it maps a file; what takes long here is told to ``Upstream.progress``.
datasets.disable_progress_bars()


class Corpus:
    """A table on disk, memory-mapped; images are decoded when asked for.

    Attributes:
        name: the repository with the first digits of its revision, or ``corpus`` with those of its
            hash; the ``source`` of the images in the ledger.
        hash: sha256 over the content, as part of the upstream's identity.
        ids: N identifiers, unique by the corpus' own claim.
        captions: N texts.
    """

    def __init__(self, spec: CorpusSpec, root: Path) -> None:
        columns = spec
        self.hash = corpus_hash(spec, root)
        self._image = columns.image
        self._licence = columns.licence
        self._flags = {"safety": columns.safety, "watermark": columns.watermark}
        self._rows = _open_hub(columns, root) if columns.hub else _open_files(columns, root)
        pinned = columns.hub and columns.revision
        self.name = f"{columns.hub}@{pinned[:12]}" if pinned else f"corpus@{self.hash[:12]}"
        self.ids: Sequence[Any] = self._rows[columns.id]
        self.captions: Sequence[Any] = self._rows[columns.caption]

    def __len__(self) -> int:
        return len(self._rows)

    def licence(self, row: int) -> str | None:
        """What the corpus says of one image; None where it says nothing."""
        return self._rows[self._licence][int(row)] if self._licence else None

    def flags(self, row: int) -> dict[str, float]:
        """The probabilities, 0..1, that one image is unsafe (``safety``) or has a watermark
        (``watermark``), as far as the corpus states them."""
        stated = {
            kind: self._rows[column][int(row)] for kind, column in self._flags.items() if column
        }
        return {kind: float(value) for kind, value in stated.items() if value is not None}

    def provenance(self, row: int, **facts: Any) -> Provenance:
        """The ledger's words on one image of the corpus; ``facts`` are further fields."""
        row = int(row)
        return Provenance(
            origin="retrieved",
            source=self.name,
            corpus_id=str(self.ids[row]),
            licence=self.licence(row),
            **facts,
        )

    def images(self, rows: Iterable[int], size: int | None = None) -> list[np.ndarray]:
        """Decoded images, each uint8 [S, S, 3] where ``size`` is given, else uint8 [H, W, 3].

        Raises:
            DataError: a file is damaged or missing; names the image.
        """
        chosen = [int(row) for row in rows]
        struct = self._rows[self._image][chosen]
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
            return list(pool.map(self._decode, chosen, struct, [size] * len(chosen)))

    def pixels(self, rows: Iterable[int], size: int) -> np.ndarray:
        """uint8 [n, S, S, 3], S = ``size``; errors as ``images``."""
        images = self.images(rows, size)
        return np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)

    def _decode(self, row: int, image: dict[str, Any], size: int | None) -> np.ndarray:
        where = f"corpus {self.name}, image {self.ids[row]!r}"
        data = image["bytes"]
        if data is None:
            try:
                data = Path(image["path"] or "").read_bytes()
            except OSError as error:
                raise DataError(f"{where}: {error}") from None
        return decode(data, size, where)


def _open_files(columns: CorpusSpec, root: Path) -> datasets.Dataset:
    files = []
    for file in corpus_files(columns, root):
        try:
            held = pq.read_metadata(file)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"corpus: {file}: not a whole parquet file: {error}") from None
        _check_columns(columns, held.schema.to_arrow_schema().names, str(file))
        if held.num_rows:  # datasets cannot read an empty one
            files.append(file)
    if not files:
        raise DataError(f"corpus: {', '.join(columns.data_files)}: no image in it")
    try:
        rows = datasets.Dataset.from_parquet(
            [str(file) for file in files],
            columns=_used(columns),
            cache_dir=str(cache_folder() / "datasets"),
        )
    except Exception as error:  # the builder wraps what pyarrow raises
        damaged = [f"{file}: {fault}" for file in files if (fault := _fault(file))]
        reason = "; ".join(damaged) or f"{', '.join(map(str, files))}: {error}"
        raise DataError(f"corpus: {reason}") from error
    return rows.cast_column(columns.image, datasets.Image(decode=False))


def _open_hub(columns: CorpusSpec, root: Path) -> datasets.Dataset:
    place = str(local_path(str(columns.hub), root) or columns.hub)
    name = f"corpus {columns.hub!r} at revision {columns.revision}, split {columns.split!r}"
    try:
        rows = datasets.load_dataset(place, revision=columns.revision, split=columns.split)
    except Exception as error:  # network, authorisation, unknown split: many types
        raise DataError(f"{name}: {type(error).__name__}: {error}") from error
    _check_columns(columns, rows.column_names, name)
    rows = rows.select_columns(_used(columns))
    return rows.cast_column(columns.image, datasets.Image(decode=False))


def _used(columns: CorpusSpec) -> list[str]:
    needed = (columns.id, columns.image, columns.caption)
    names = (*needed, columns.licence, columns.safety, columns.watermark)
    return list(dict.fromkeys(name for name in names if name))


def _check_columns(columns: CorpusSpec, present: list[str], where: str) -> None:
    if missing := [name for name in _used(columns) if name not in present]:
        raise DataError(
            f"corpus: {where}: no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(present)}"
        )


def _fault(file: Path) -> str:
    """What is wrong inside a parquet file whose footer is whole."""
    try:
        pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        return str(error)
    return ""

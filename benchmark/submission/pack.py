"""Results packed for a pull request: many trials in a few files."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmark.errors import RecordError, StorageError
from benchmark.files import write_arrow, write_bytes, write_folder, write_images
from benchmark.images import decode
from benchmark.records.packed import IMAGES, KEYS, RECORDS
from benchmark.records.store import StoredRecord, read_results

if TYPE_CHECKING:
    import pandas as pd

from benchmark.submission.check import check_records, name_of

IMAGES_PER_CLASS = 6  # packed of each class: as many as the page shows


def pack(results: Path, out: Path, images: int = IMAGES_PER_CLASS) -> Path:
    """Writes every record under ``results`` to the submission ``out``, and returns it. A file
    that lies in ``out`` besides, such as a README, stays.

    Args:
        images: how many accepted images of each class are kept, of the first split of every
            method, task, upstream and budget: enough to see what was made.

    Raises:
        RecordError: there is no record, or one is not in order; or ``out`` holds records that
            ``results`` does not, and would lose them. Nothing is written then.
        StorageError: ``out`` is something else, or cannot be written; it stays as it was.
    """
    stored = read_results(results)
    if not stored:
        raise RecordError(f"{results}: holds no record")
    _refuse_loss(out, stored)
    if faults := check_records(stored).faults:
        raise RecordError("\n".join(faults))

    def fill(folder: Path) -> None:
        for path in out.iterdir() if out.is_dir() else ():
            if path.is_file() and path.name not in _FILES:
                shutil.copy2(path, folder / path.name)
        lines = [item.record.model_dump_json() + "\n" for item in stored]
        write_bytes(folder / RECORDS, "".join(lines).encode())
        for name in KEYS:
            _pack_table(folder / f"{name}.parquet", name, stored)
        _pack_images(folder / IMAGES, stored, images)

    write_folder(out, fill)
    return out


_FILES = {RECORDS, IMAGES, *(f"{name}.parquet" for name in KEYS)}


def _refuse_loss(out: Path, stored: Sequence[StoredRecord]) -> None:
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / RECORDS).is_file()):
        raise StorageError(f"{out}: exists and is not a submission; give another name")
    new = {item.record.record_id for item in stored}
    lost = [item for item in read_results(out) if item.record.record_id not in new]
    if lost:
        raise RecordError(
            f"{out}: {len(lost)} of its records are not among the results, such as "
            f"{name_of(lost[0].record)}; pack under another name, or remove it first"
        )


def _image_sets(stored: Iterable[StoredRecord]) -> list[StoredRecord]:
    """One scored record of every set of images."""
    scored = (item for item in stored if item.record.value is not None)
    return list({item.record.images_id: item for item in scored}.values())


def _pack_table(path: Path, name: str, stored: Sequence[StoredRecord]) -> None:
    """The rows of all records (or trials) in one table, the key before them."""
    import pyarrow as pa

    key = KEYS[name]
    owners = [item for item in stored if getattr(item.record, f"{name}_hash")]
    parts = []
    for item in owners if key == "record_id" else _image_sets(owners):
        table = pa.Table.from_pandas(item.table(name), preserve_index=False)
        keys = pa.array([getattr(item.record, key)] * table.num_rows, pa.string())
        parts.append(table.add_column(0, key, keys).replace_schema_metadata())
    empty = pa.table({key: pa.array([], pa.string())})
    write_arrow(path, pa.concat_tables([*parts, empty], promote_options="default"))


def _pack_images(path: Path, stored: Sequence[StoredRecord], per_class: int) -> None:
    """The first accepted images of every class, without loss in a smaller format."""
    columns: dict[str, list[Any]] = {"images_id": [], "index": [], "label": []}
    files: list[bytes] = []
    for item in _first_splits(stored):
        images, counts = item.images(), Counter[int]()
        for index, label in _accepted(item.ledger()):
            if counts[label] < per_class and index in images:
                counts[label] += 1
                files.append(_smaller(images[index]))
                for name, value in zip(columns, (item.record.images_id, index, label), strict=True):
                    columns[name].append(value)
    write_images(path, columns, files)


def _first_splits(stored: Iterable[StoredRecord]) -> list[StoredRecord]:
    """Of every method, task, upstream and budget the trial of the first split."""
    first: dict[tuple[str, ...], StoredRecord] = {}
    for item in sorted(_image_sets(stored), key=lambda item: item.record.seeds):
        record = item.record
        first.setdefault((record.task, record.method, record.upstream, record.budget), item)
    return list(first.values())


def _accepted(ledger: pd.DataFrame) -> Iterable[tuple[int, int]]:
    """Index and label of the accepted rows."""
    rows = ledger[ledger["accepted"]]
    return zip(rows["index"].tolist(), rows["label"].tolist(), strict=True)


def _smaller(data: bytes) -> bytes:
    """Lossless WebP: of small images a sixth smaller than PNG, and read by all browsers. Its
    slowest method would save 1 % more and take 50 times as long."""
    buffer = io.BytesIO()
    pixels = decode(data, None, "packed image")
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=3, exact=True)
    return buffer.getvalue()

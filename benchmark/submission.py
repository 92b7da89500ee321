"""Submissions: results packed for a pull request, and what is checked before they count.

Nothing in a record has to be believed that can be computed again: ids, counts and scores come
from the predictions, hashes from the tables, labels from the data set where it is at hand.
"""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from benchmark.data.split import Split, load_split
from benchmark.errors import DataError, RecordError, StorageError
from benchmark.files import write_arrow, write_bytes, write_folder, write_images
from benchmark.images import decode, pixel_hash
from benchmark.records.packed import IMAGES, KEYS, RECORDS
from benchmark.records.store import StoredRecord, read_results
from benchmark.records.tables import reject_counts
from benchmark.schema import canonical_hash
from benchmark.statistics.estimates import metric_of, strata_of

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.records.record import Record
    from benchmark.registry import Registry

IMAGES_PER_CLASS = 6  # packed of each class: as many as the page shows


@dataclass
class Checked:
    """What ``check_records`` found in order.

    Attributes:
        records, scored: rows, and those with a score.
        with_data: scored rows whose test images and labels were compared with the data set.
        images: images whose pixels were compared with the ledger.
        unpaired: scored rows whose control is not among them: they have no gain.
    """

    records: int = 0
    scored: int = 0
    with_data: int = 0
    images: int = 0
    unpaired: int = 0
    faults: list[str] = field(default_factory=list)


def pack(results: Path, out: Path, images: int = IMAGES_PER_CLASS) -> Path:
    """Writes every record under ``results`` to the submission ``out``, and returns it. A file
    that lies in ``out`` besides, such as a README, stays.

    Args:
        images: how many accepted images of each class are kept, of the first seed of every
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


def check_records(stored: Sequence[StoredRecord], registry: Registry | None = None) -> Checked:
    """Computes again what the records state; every fault in a line of its own.

    Args:
        registry: of the tasks whose data are at hand; None: data sets are not looked at.
    """
    checked = Checked(records=len(stored))
    scored = [item for item in stored if item.record.value is not None]
    known = {item.record.record_id for item in scored}
    compare = _Data(registry)
    for item in stored:
        checks: list[Callable[[StoredRecord, Checked], Iterable[str]]] = [_identity]
        if item.record.value is not None:
            checks += [_score, _ledger, compare]
            checked.scored += 1
            checked.unpaired += item.record.control_id not in known
        for check in checks:
            try:
                faults = list(check(item, checked))
            except RecordError as error:
                faults = str(error).splitlines()
            checked.faults += [f"{_name(item.record)}: {fault}" for fault in faults]
    checked.faults = list(dict.fromkeys(checked.faults))
    return checked


def _name(record: Record) -> str:
    names = (record.task, record.method, record.budget, record.classifier)
    return f"{' · '.join(names)} · seed {record.seed}"


def _identity(item: StoredRecord, checked: Checked) -> Iterator[str]:
    record = item.record
    if canonical_hash([record.trial_id, record.classifier_hash]) != record.record_id:
        yield f"record_id {record.record_id[:16]} is not that of its trial and classifier"


def _score(item: StoredRecord, checked: Checked) -> Iterator[str]:
    """Counts and value from the predictions, of the clean part of the test images too."""
    record, table, flagged = item.record, item.predictions(), item.flagged()
    found = _scored(table, record.metric)
    if flagged is not None:
        clean = _scored(table[~table["id"].isin(flagged["test_id"])], record.metric)
        found |= {"n_clean": clean["n_test"], "value_clean": clean["value"]}
        found |= {"flagged_pairs": len(flagged)}
    for name, value in found.items():
        stated = getattr(record, name)
        if stated != value and (None in (stated, value) or abs(stated - value) > 1e-9):
            yield f"{name} = {stated}, from the predictions {value}"


def _scored(table: pd.DataFrame, metric: Literal["top1", "mean_per_class"]) -> dict[str, Any]:
    labels = table["label"].to_numpy()
    correct = (labels == table["prediction"].to_numpy())[None]
    value = float(metric_of(correct, strata_of(correct, labels, metric))[0]) if len(table) else None
    return {"n_test": len(table), "n_correct": int(correct.sum()), "value": value}


def _ledger(item: StoredRecord, checked: Checked) -> Iterator[str]:
    """Counts from the ledger; the images that are there are those of its rows."""
    record, ledger = item.record, item.ledger()
    counts = ledger["accepted"].value_counts()
    for name, value in (("accepted", True), ("rejected", False)):
        stated, found = getattr(record, f"images_{name}"), int(counts.get(value, 0))
        if stated != found:
            yield f"images_{name} = {stated}, in the ledger {found}"
    rejects = reject_counts(ledger)
    if rejects != record.rejects:
        yield f"rejects = {record.rejects}, in the ledger {rejects}"
    hashes = dict(zip(ledger["index"], ledger["sha256"], strict=True))
    for index, data in item.images().items():
        checked.images += 1
        try:
            pixels = decode(data, None, f"image {index}")
        except DataError as error:
            yield str(error)
            continue
        if pixel_hash(pixels) != hashes.get(index):
            yield f"image {index} is not the one of its ledger row"


class _Data:
    """Compares test ids and labels with the data set, where it is at hand and the same."""

    def __init__(self, registry: Registry | None) -> None:
        self.registry = registry
        self.splits: dict[tuple[str, int], Split | None] = {}

    def __call__(self, item: StoredRecord, checked: Checked) -> Iterator[str]:
        record = item.record
        split = self._split(record)
        if split is None:
            return
        checked.with_data += 1
        table = item.predictions()
        if split.hash != record.split_hash:
            yield f"split_hash {record.split_hash[:16]} is not that of the data: {split.hash[:16]}"
        if table["id"].tolist() != list(split.test.ids):
            yield "the ids of its predictions are not the test images of the data"
        elif odd := np.flatnonzero(table["label"].to_numpy() != split.test.labels).tolist():
            place = split.test.ids[odd[0]]
            yield f"{len(odd)} labels differ from those of the data, such as {place!r}"

    def _split(self, record: Record) -> Split | None:
        task = self.registry.tasks.get(record.task) if self.registry else None
        if self.registry is None or task is None or task.hash != record.task_hash:
            return None
        key = (record.task, record.seed)
        if key not in self.splits:
            try:
                self.splits[key] = load_split(task, record.seed, self.registry.root)
            except DataError:  # not on this machine
                self.splits[key] = None
        return self.splits[key]


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
            f"{_name(lost[0].record)}; pack under another name, or remove it first"
        )


def _trials(stored: Iterable[StoredRecord]) -> list[StoredRecord]:
    """One scored record of every trial."""
    scored = (item for item in stored if item.record.value is not None)
    return list({item.record.trial_id: item for item in scored}.values())


def _pack_table(path: Path, name: str, stored: Sequence[StoredRecord]) -> None:
    """The rows of all records (or trials) in one table, the key before them."""
    import pyarrow as pa

    key = KEYS[name]
    owners = [item for item in stored if getattr(item.record, f"{name}_hash")]
    parts = []
    for item in owners if key == "record_id" else _trials(owners):
        table = pa.Table.from_pandas(item.table(name), preserve_index=False)
        keys = pa.array([getattr(item.record, key)] * table.num_rows, pa.string())
        parts.append(table.add_column(0, key, keys).replace_schema_metadata())
    empty = pa.table({key: pa.array([], pa.string())})
    write_arrow(path, pa.concat_tables([*parts, empty], promote_options="default"))


def _pack_images(path: Path, stored: Sequence[StoredRecord], per_class: int) -> None:
    """The first accepted images of every class, without loss in a smaller format."""
    columns: dict[str, list[Any]] = {"trial_id": [], "index": [], "label": []}
    files: list[bytes] = []
    for item in _first_seeds(stored):
        images, counts = item.images(), Counter[int]()
        for index, label in _accepted(item.ledger()):
            if counts[label] < per_class and index in images:
                counts[label] += 1
                files.append(_smaller(images[index]))
                for name, value in zip(columns, (item.record.trial_id, index, label), strict=True):
                    columns[name].append(value)
    write_images(path, columns, files)


def _first_seeds(stored: Iterable[StoredRecord]) -> list[StoredRecord]:
    """Of every method, task, upstream and budget the trial of the smallest seed."""
    first: dict[tuple[str, ...], StoredRecord] = {}
    for item in sorted(_trials(stored), key=lambda item: item.record.seed):
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

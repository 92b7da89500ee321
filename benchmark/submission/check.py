"""What is checked before records count.

Nothing in a record has to be believed that can be computed again: ids, counts and scores come
from the predictions, hashes from the tables, labels from the data set where it is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmark.data.split import Split, load_split
from benchmark.errors import DataError, RecordError
from benchmark.images import decode, pixel_hash
from benchmark.records.score import score
from benchmark.records.store import StoredRecord
from benchmark.records.tables import reject_counts
from benchmark.schema import canonical_hash

if TYPE_CHECKING:
    from benchmark.records.record import Record
    from benchmark.registry import Registry


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
            checked.faults += [f"{name_of(item.record)}: {fault}" for fault in faults]
    checked.faults = list(dict.fromkeys(checked.faults))
    return checked


def name_of(record: Record) -> str:
    names = (record.task, record.method, record.budget, record.classifier)
    return f"{' · '.join(names)} · split {record.split}"


def _identity(item: StoredRecord, checked: Checked) -> Iterator[str]:
    record = item.record
    if canonical_hash([record.trial_id, record.classifier_hash]) != record.record_id:
        yield f"record_id {record.record_id[:16]} is not that of its trial and classifier"


def _score(item: StoredRecord, checked: Checked) -> Iterator[str]:
    """Counts and value from the predictions, of the clean part of the test images too."""
    record, table, flagged = item.record, item.predictions(), item.flagged()
    found = score(table, record.metric, () if flagged is None else flagged["test_id"])
    if flagged is None:  # before schema version 2 nobody looked
        found = {name: found[name] for name in ("n_test", "n_correct", "value")}
    else:
        found |= {"flagged_pairs": len(flagged)}
    for name, value in found.items():
        stated = getattr(record, name)
        if stated != value and (None in (stated, value) or abs(stated - value) > 1e-9):
            yield f"{name} = {stated}, from the predictions {value}"


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
        key = (record.task, record.split)
        if key not in self.splits:
            try:
                self.splits[key] = load_split(task, record.split, self.registry.root)
            except DataError:  # not on this machine
                self.splits[key] = None
        return self.splits[key]

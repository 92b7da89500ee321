"""The flagged pairs of a task as rows for a table: which added image is near which test image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.records.store import StoredRecord

PER_METHOD = 20  # rows of one method, the nearest first


@dataclass(frozen=True)
class FlaggedPair:
    """An augmented image and a test image.

    Attributes:
        method: its label.
        image: the augmented image in a word: its id in the corpus, or its origin and ledger index.
        reason, distance, rms, mirrored, similarity: as in the table ``contamination``.
        trials: trials in which the method added this very image.
    """

    method: str
    image: str
    test_id: str
    reason: str
    distance: int
    rms: float
    mirrored: bool
    similarity: float
    trials: int


@dataclass(frozen=True)
class FlaggedPairs:
    """The flagged pairs of one task, ``total`` of them; ``rows`` are the first of each method."""

    rows: tuple[FlaggedPair, ...]
    total: int


def flagged_pairs(stored: Iterable[StoredRecord]) -> dict[str, FlaggedPairs]:
    """By task, where there are any; equal images that several trials of a method added are one
    row.

    Raises:
        RecordError: artefacts of a record are missing or damaged.
    """
    trials = {item.record.trial_id: item for item in stored if item.record.flagged_pairs}
    found: dict[str, dict[tuple[str, ...], list[FlaggedPair]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for item in trials.values():
        for key, pair in _pairs(item):
            found[item.record.task][key].append(pair)
    return {task: _table(pairs.values()) for task, pairs in found.items()}


def _pairs(item: StoredRecord) -> Iterable[tuple[tuple[str, ...], FlaggedPair]]:
    """The pairs of one trial; the key tells equal images of several trials."""
    flagged = item.flagged()
    if flagged is None:
        return
    method, ledger = item.record.method, item.ledger().set_index("index")
    for values in flagged.to_dict("records"):
        row = {str(name): value for name, value in values.items()}
        index = row.pop("index")
        image = ledger.loc[index]
        known = image["corpus_id"]
        words = known if isinstance(known, str) else f"{image['origin']}, no. {index}"
        pair = FlaggedPair(method=method, image=words, trials=1, **row)
        yield (method, image["sha256"], pair.test_id), pair


def _table(same: Iterable[list[FlaggedPair]]) -> FlaggedPairs:
    pairs = [replace(group[0], trials=len(group)) for group in same]
    pairs.sort(key=lambda pair: (pair.method, pair.rms, pair.image, pair.test_id))
    rows = [
        pair
        for _, group in groupby(pairs, lambda pair: pair.method)
        for pair in list(group)[:PER_METHOD]
    ]
    return FlaggedPairs(tuple(rows), len(pairs))

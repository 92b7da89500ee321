"""Which rows count, where one name stands for several versions of what it names."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, Protocol, TypeVar

from benchmark.records.record import Record


class _Recorded(Protocol):
    @property
    def record(self) -> Record: ...


Row = TypeVar("Row", bound=_Recorded)


@dataclass(frozen=True)
class Compared(Generic[Row]):
    """The rows of one task, budget, upstream and classifier, all of one version of these.

    Attributes:
        rows: all of them; those left out may be controls of those that count.
        methods: those that count, a list for each method, by its seeds.
    """

    rows: list[Row]
    methods: list[list[Row]]


def select(rows: Iterable[Row]) -> tuple[list[Compared[Row]], list[tuple[Record, str]]]:
    """The contests, and the rows that count in none, with the reason.

    Rows of an older protocol count only where there are no newer ones. Of several versions of
    a task, upstream, budget, classifier or method the one with most rows counts (ties: the
    newest), of several rows of the same seeds the newest. Failed and skipped trials count in none.
    """
    left_out: list[tuple[Record, str]] = []
    scored: list[Row] = []
    for row in rows:
        if row.record.status in ("ok", "capped"):
            scored.append(row)
        else:
            left_out.append((row.record, f"{row.record.status}: {row.record.reason}"))
    contests = []
    for contest in _grouped(scored, _contest_names):
        contest, old = _prevailing(contest, _contest_version)
        left_out += [(row.record, "another version of the task or protocol") for row in old]
        methods = []
        for entry in _grouped(contest, lambda record: record.method):
            entry, old = _prevailing(entry, lambda record: record.method_hash)
            left_out += [(row.record, "another version of the method") for row in old]
            entry, old = _newest_by_seeds(entry)
            left_out += [(row.record, "a newer row of the same trial") for row in old]
            methods.append(entry)
        contests.append(Compared(contest, methods))
    return contests, left_out


def counted(rows: Iterable[Row]) -> list[Row]:
    """The rows that count, by contest, method and seeds."""
    contests, _ = select(rows)
    return [row for contest in contests for entry in contest.methods for row in entry]


def _contest_names(record: Record) -> Hashable:
    return (record.task, record.budget, record.upstream, record.classifier)


def _contest_version(record: Record) -> Hashable:
    hashes = (record.task_hash, record.upstream_hash, record.classifier_hash)
    tflops = record.tflops_cap if record.archived else None
    caps = (record.images_per_class_cap, record.compute_cap, tflops)
    return (record.protocol_version, *hashes, *caps)


def _grouped(rows: list[Row], key: Callable[[Record], Any]) -> list[list[Row]]:
    """By ``key`` in its order, every group in the order of its seeds."""

    def order(row: Row) -> Any:
        return key(row.record), row.record.seeds, row.record.record_id

    ordered = sorted(rows, key=order)
    return [list(group) for _, group in groupby(ordered, lambda row: key(row.record))]


def _prevailing(
    rows: list[Row], version: Callable[[Record], Hashable]
) -> tuple[list[Row], list[Row]]:
    """The rows of the newest protocol, of its versions the one that most of them have (ties: the
    newest), and the others."""
    versions: dict[Hashable, list[Row]] = {}
    for row in rows:
        versions.setdefault(version(row.record), []).append(row)
    kept = max(
        versions.values(),
        key=lambda group: (
            group[0].record.protocol_version,
            len(group),
            max(row.record.created for row in group),
        ),
    )
    return kept, [row for group in versions.values() if group is not kept for row in group]


def _newest_by_seeds(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """One row per split, draw and training, and the others."""
    newest: dict[tuple[int, int, int], Row] = {}
    for row in sorted(rows, key=lambda row: row.record.created):
        newest[row.record.seeds] = row
    kept = sorted(newest.values(), key=lambda row: row.record.seeds)
    return kept, [row for row in rows if all(row is not other for other in kept)]

"""``augbench.results`` and ``augbench.compare``: records as a table, and two methods against each
other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.records.record import Record
    from benchmark.records.store import StoredRecord
    from benchmark.statistics import Estimate, MethodSummary


@dataclass(frozen=True)
class Comparison:
    """Two methods in one contest.

    Attributes:
        difference: accuracy of ``first`` minus that of ``second``, -1..1, with its interval, over
            the splits that both have; None where they share none. Over one split the interval
            covers the choice of test images alone.
    """

    task: str
    upstream: str
    budget: str
    classifier: str
    first: str
    second: str
    difference: Estimate | None


class Results(Sequence["Record"]):
    """Result rows in a stable order, those that failed or were skipped too."""

    def __init__(self, stored: Sequence[StoredRecord]) -> None:
        self.stored = list(stored)

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, place: int) -> Record: ...

    @overload
    def __getitem__(self, place: slice) -> Results: ...

    def __getitem__(self, place: int | slice) -> Record | Results:
        if isinstance(place, slice):
            return Results(self.stored[place])
        return self.stored[place].record

    def __repr__(self) -> str:
        scored = sum(record.value is not None for record in self)
        return f"<augbench.Results: {len(self)} records, {scored} with a score>"

    def to_pandas(self) -> pd.DataFrame:
        """One row per record: task, method, upstream, budget, classifier; ``split``, ``draw``,
        ``training``; ``value``, the task's metric in 0..1, beside ``value_clean``, ``n_test`` and
        ``n_correct``; ``gain`` over its control, empty without one; spend, caps and hashes."""
        from benchmark.records.tables import records_frame

        frame = records_frame(self)
        values = dict(zip(frame["record_id"], frame["value"], strict=True))
        gain = frame["value"] - frame["control_id"].map(values)
        frame.insert(list(frame.columns).index("value") + 1, "gain", gain)
        return frame

    def compare(self, first: str, second: str, task: str | None = None) -> list[Comparison]:
        """See ``augbench.compare``."""
        from benchmark.errors import UnknownNameError
        from benchmark.statistics import ScoredRow, paired_difference, summarise

        scored = [item for item in self.stored if item.record.value is not None]
        chosen = [item for item in scored if task in (None, item.record.task)]
        if not chosen and task is not None:
            raise UnknownNameError("task of these results", task, {r.task for r in self})
        cells = [ScoredRow.of(item.record, item.predictions()) for item in chosen]
        lines = summarise(cells).lines
        for method in (first, second):
            if method not in {line.method for line in lines}:
                known = {line.method for line in lines}
                raise UnknownNameError("method of these results", method, known)
        return [
            Comparison(
                one.task,
                one.upstream,
                one.budget,
                one.classifier,
                first,
                second,
                paired_difference(cells, one, other),
            )
            for one, other in _pairs(lines, first, second)
        ]


def results(*folders: str | PathLike[str]) -> Results:
    """The records of results folders and submissions, each cell once.

    Args:
        folders: default: ``results/`` in the root, or ``submissions/`` where there is none.

    Raises:
        benchmark.errors.DataError: a folder is not there.
        benchmark.errors.RecordError: a record does not validate.
    """
    from benchmark.errors import DataError
    from benchmark.home import find_root, results_folder
    from benchmark.records.store import read_results

    chosen = [Path(folder) for folder in folders]
    if not chosen:
        root = find_root()
        own = results_folder(root)
        chosen = [own if own.is_dir() else root / "submissions"]
    for folder in chosen:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give folders of results or submissions")
    return Results(read_results(*chosen))


def compare(
    first: str, second: str, task: str | None = None, *folders: str | PathLike[str]
) -> list[Comparison]:
    """The paired difference of two methods, ``first`` minus ``second``, with its interval: one for
    every task, upstream, budget and classifier that both have a score in.

    Args:
        first, second: as the column ``method`` has them, changed parameters in brackets.
        task: one task; None: all.
        folders: as for ``results``.

    Raises:
        benchmark.errors.UnknownNameError: a method or task that the results do not hold.
        benchmark.errors.RecordError: as ``results``.
    """
    return results(*folders).compare(first, second, task)


def _pairs(
    lines: Sequence[MethodSummary], first: str, second: str
) -> Iterator[tuple[MethodSummary, MethodSummary]]:
    """The lines of both methods, contest by contest."""
    others = {_contest(line): line for line in lines if line.method == second}
    for line in lines:
        if line.method == first and _contest(line) in others:
            yield line, others[_contest(line)]


def _contest(line: MethodSummary) -> tuple[str, str, str, str]:
    return (line.task, line.upstream, line.budget, line.classifier)

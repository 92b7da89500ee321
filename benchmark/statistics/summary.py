"""From predictions to one line per method: accuracy, paired gain, rank and mean spend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from benchmark.errors import RecordError
from benchmark.records.record import Record
from benchmark.records.score import metric_of, strata_of
from benchmark.statistics.estimates import (
    LEVEL,
    RESAMPLES,
    Estimate,
    PairedTest,
    by_split,
    estimate,
    holm,
    image_bootstrap,
    over_splits,
    paired_test,
)
from benchmark.statistics.versions import select

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScoredRow:
    """A result row with its predictions; where it was stored does not matter.

    Attributes:
        ids: N distinct identifiers of test images, any order.
        labels, predictions: int64 [N]; empty for a failed or skipped trial.
    """

    record: Record
    ids: Sequence[str] | np.ndarray
    labels: np.ndarray
    predictions: np.ndarray

    @classmethod
    def of(cls, record: Record, table: pd.DataFrame) -> Self:
        """From a prediction table, columns ``id``, ``label``, ``prediction``."""
        columns = (table[name].to_numpy() for name in ("id", "label", "prediction"))
        return cls(record, *columns)


@dataclass(frozen=True)
class MethodSummary:
    """One method in one contest, over its splits; draws and trainings of a split are averaged.

    Attributes:
        records: the rows it is made of, by split, draw and training.
        is_control: whether the gains of the contest are measured from it.
        accuracy: of the task's metric, 0..1.
        gain: paired difference to the control over the splits that both have, -1..1; None
            for the control itself and where no split has a control.
        test: of the same pairs; None where ``gain`` is.
        p_holm: its p-value corrected for the number of methods in the contest.
        rank: best and worst rank by gain in 95 % of resamples, the control with its gain of 0
            among them; None where no split has a control.
        tflops, nfe, seconds, images: mean spend and mean number of accepted images of a trial.
    """

    task: str
    budget: str
    upstream: str
    classifier: str
    method: str
    records: tuple[Record, ...]
    is_control: bool
    accuracy: Estimate
    gain: Estimate | None
    test: PairedTest | None
    p_holm: float | None
    rank: tuple[int, int] | None
    tflops: float
    nfe: float
    seconds: float
    images: float

    @property
    def clean(self) -> float | None:
        """Mean over rows of the metric on the test images that are in no flagged pair, 0..1;
        None where a row has none."""
        values = [record.value_clean for record in self.records if record.value_clean is not None]
        return fmean(values) if len(values) == len(self.records) else None


@dataclass(frozen=True)
class Summary:
    """``lines`` in the order of their names; ``left_out``: rows that count in none, and why."""

    lines: list[MethodSummary]
    left_out: list[tuple[Record, str]]


def summarise(cells: Iterable[ScoredRow], *, resamples: int = RESAMPLES, seed: int = 0) -> Summary:
    """One line per task, budget, upstream, classifier and method.

    Rows that cannot be compared are never mixed: ``select`` says which of them count.

    Raises:
        RecordError: two methods of a contest were tested on different images, or the same
            images with different labels; predictions differ from their row's ``n_correct``;
            a control belongs to another split.
    """
    compared, left_out = select(cells)
    lines: list[MethodSummary] = []
    for contest in compared:
        entries = [[cell.record for cell in entry] for entry in contest.methods]
        lines += _Comparison(contest.rows, resamples, seed).lines(entries)
    return Summary(lines, left_out)


def paired_difference(
    cells: Iterable[ScoredRow],
    first: MethodSummary,
    second: MethodSummary,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate | None:
    """Of two methods of one contest, ``first`` minus ``second`` in the task's metric, -1..1,
    over the splits that both have; None where they share none.

    Args:
        cells: those that the lines were made of, among others.

    Raises:
        RecordError: as ``summarise``.
    """
    pairs = [
        (one, other)
        for one, other in product(first.records, second.records)
        if (one.split, one.training) == (other.split, other.training)
    ]
    if not pairs:
        return None
    wanted = {record.record_id for pair in pairs for record in pair}
    compared = [cell for cell in cells if cell.record.record_id in wanted]
    return _Comparison(compared, resamples, seed).difference(pairs)


class _Comparison:
    """Trials on the same test images that differ in method and seeds only."""

    def __init__(self, cells: list[ScoredRow], resamples: int, seed: int) -> None:
        first = cells[0]
        ids, labels, _ = _by_id(first)
        self.records = {cell.record.record_id: cell.record for cell in cells}
        self.rows = {name: row for row, name in enumerate(self.records)}
        correct = np.stack([_correct(cell, first.record, ids, labels) for cell in cells])
        strata = strata_of(correct, labels, first.record.metric)
        self.values = metric_of(correct, strata)
        self.bootstrap = image_bootstrap(correct, strata, resamples, seed)
        self.n_test, self.seed = len(ids), seed

    def lines(self, entries: list[list[Record]]) -> list[MethodSummary]:
        """A line for every method, given by its rows."""
        pairs = {place: self._pairs(records) for place, records in enumerate(entries)}
        gains = {place: self._gain(pair) for place, pair in pairs.items() if pair}
        ranks = _rank_intervals({place: resampled for place, (_, resampled) in gains.items()})
        tested = {
            place: paired_test(per_split, seed=self.seed)
            for place, (per_split, _) in gains.items()
            if not _is_control(entries[place])
        }
        adjusted = dict(zip(tested, holm([test.p_value for test in tested.values()]), strict=True))
        return [
            _line(
                records,
                accuracy=self._accuracy(records),
                gain=estimate(*gains[place], self.n_test) if place in tested else None,
                test=tested.get(place),
                p_holm=adjusted.get(place),
                rank=ranks.get(place),
            )
            for place, records in enumerate(entries)
        ]

    def difference(self, pairs: list[tuple[Record, Record]]) -> Estimate:
        """Of the first rows minus the second ones."""
        return estimate(*self._gain(pairs), self.n_test)

    def _pairs(self, records: list[Record]) -> list[tuple[Record, Record]]:
        """Rows with their controls, where these exist."""
        pairs = []
        for record in records:
            control = self.records.get(record.control_id)
            if control is not None and control.split != record.split:
                raise RecordError(
                    f"{_where(record)} names a control of another split, {control.split}"
                )
            if control is not None:
                pairs.append((record, control))
        return pairs

    def _gain(self, pairs: list[tuple[Record, Record]]) -> tuple[np.ndarray, np.ndarray]:
        """Paired differences per split [S], and their mean in every resample [B]."""
        method, control = (
            [self.rows[record.record_id] for record in side] for side in zip(*pairs, strict=True)
        )
        rows = [record.split for record, _ in pairs]
        per_split, splits = by_split(self.values[method] - self.values[control], rows)
        resampled, _ = by_split(self.bootstrap[:, method] - self.bootstrap[:, control], rows)
        return per_split, over_splits(resampled, splits, self.seed)

    def _accuracy(self, records: list[Record]) -> Estimate:
        rows = [self.rows[record.record_id] for record in records]
        per_split, splits = by_split(self.values[rows], [record.split for record in records])
        resampled, _ = by_split(self.bootstrap[:, rows], [record.split for record in records])
        return estimate(per_split, over_splits(resampled, splits, self.seed), self.n_test)


def _by_id(cell: ScoredRow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels and predictions in the order of the ids."""
    columns = [np.asarray(column) for column in (cell.ids, cell.labels, cell.predictions)]
    if any(column.shape != (cell.record.n_test,) for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise RecordError(
            f"{_where(cell.record)} has ids, labels and predictions of shapes {shapes}; its row "
            f"says n_test = {cell.record.n_test}"
        )
    ids, labels, predictions = (column[np.argsort(columns[0])] for column in columns)
    return ids, labels, predictions


def _correct(cell: ScoredRow, first: Record, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Bool [N] in the order of ``ids``; raises ``RecordError`` where they are not the cell's."""
    record = cell.record
    own_ids, own_labels, predictions = _by_id(cell)
    both = f"{_where(record)} and {first.method!r} (split {first.split})"
    if not np.array_equal(own_ids, ids):
        odd = sorted(set(own_ids.tolist()) ^ set(ids.tolist()))
        difference = f"{len(odd)} ids differ, such as {odd[0]!r}" if odd else "an id is given twice"
        raise RecordError(f"{both} were tested on different images: {difference}")
    if not np.array_equal(own_labels, labels):
        odd = ids[own_labels != labels]
        raise RecordError(f"{both} give test images different labels, such as {odd[0]!r}")
    correct: np.ndarray = predictions == labels
    if int(correct.sum()) != record.n_correct:
        raise RecordError(
            f"{_where(record)} has {int(correct.sum())} right predictions, its row says "
            f"n_correct = {record.n_correct}"
        )
    return correct


def _where(record: Record) -> str:
    return f"task {record.task!r}, split {record.split}: {record.method!r}"


def _rank_intervals(resampled: dict[int, np.ndarray]) -> dict[int, tuple[int, int]]:
    """Of paired gains [B] per method: 1 is best, equal ones share the better rank. Gains, not
    scores, so that a method with fewer splits is not ranked by the luck of its splits."""
    from scipy.stats import rankdata

    if not resampled:
        return {}
    ranks = rankdata(-np.stack(list(resampled.values())), method="min", axis=0)
    tail = (1 - LEVEL) / 2
    low = np.quantile(ranks, tail, axis=1, method="lower")
    high = np.quantile(ranks, 1 - tail, axis=1, method="higher")
    return {
        place: (int(best), int(worst))
        for place, best, worst in zip(resampled, low, high, strict=True)
    }


def _line(records: list[Record], **estimates: Any) -> MethodSummary:
    first = records[0]
    return MethodSummary(
        task=first.task,
        budget=first.budget,
        upstream=first.upstream,
        classifier=first.classifier,
        method=first.method,
        records=tuple(records),
        is_control=_is_control(records),
        tflops=float(np.mean([record.tflops for record in records])),
        nfe=float(np.mean([record.nfe for record in records])),
        seconds=float(np.mean([record.seconds for record in records])),
        images=float(np.mean([record.images_accepted for record in records])),
        **estimates,
    )


def _is_control(records: list[Record]) -> bool:
    return all(record.control_id == record.record_id for record in records)

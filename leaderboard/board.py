"""What the page says, as plain data: a board of sections, their rows, and the verdicts.

    Board
    └── Section      one contest: task x upstream x budget x classifier
        └── Row      one method in it, the failed and skipped ones too

A verdict is computed from the intervals alone; whichever side leads, the same sentence says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from benchmark.leaderboard.families import Side, family

from benchmark.statistics import Estimate


class Contest(NamedTuple):
    """What a contest is held under."""

    task: str
    upstream: str
    budget: str
    classifier: str


@dataclass(frozen=True)
class Note:
    """Trials of a method that did not simply end: what happened, why, and on which splits."""

    what: str
    why: str
    splits: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One method in one contest.

    Attributes:
        method: the label: the name, with changed parameters in brackets.
        accuracy: of the task's metric, 0..1; None where no trial gave a score.
        clean: the mean over splits on the test images that no added image is flagged with; None
            where a split has none left, or none looked.
        gain: paired difference to the control, in the unit of ``accuracy``; None for the control
            itself and where the control is missing.
        rank: best and worst among all rows, as ``MethodSummary.rank``.
        level: whether it competes and the interval of its gain overlaps the leader's.
        images_per_class, tflops, nfe, seconds, memory_mb: means over splits.
        notes: why trials failed, were skipped, or were stopped.
    """

    method: str
    title: str
    family: str
    control: bool = False
    paper: str = ""
    citation: str = ""
    accuracy: Estimate | None = None
    clean: float | None = None
    gain: Estimate | None = None
    rank: tuple[int, int] | None = None
    level: bool = False
    images_per_class: float = 0.0
    tflops: float = 0.0
    nfe: float = 0.0
    seconds: float = 0.0
    memory_mb: float = 0.0
    splits: int = 0
    notes: tuple[Note, ...] = ()

    @property
    def side(self) -> Side:
        """Which side of the question it stands on."""
        return family(self.family).side

    @property
    def competes(self) -> bool:
        """Whether it answers the question: it has a gain, and is neither control nor oracle."""
        return self.gain is not None and family(self.family).competes


@dataclass(frozen=True)
class Section:
    """One contest. ``difference`` is the paired accuracy of the best retrieval method minus that
    of the best diffusion method; None where a side is missing or they share no split."""

    contest: Contest
    title: str
    rows: tuple[Row, ...]
    difference: Estimate | None = None

    def best(self, side: Side) -> Row | None:
        """The method of a side with the largest gain."""
        return best_of(self.rows, side)

    @property
    def winner(self) -> Literal["retrieval", "generation", "open", "none"]:
        """``open``: the interval holds zero, or one split cannot tell. ``none``: there is
        nothing to compare."""
        if self.difference is None:
            return "none"
        if self.difference.n_splits < 2 or self.difference.low <= 0 <= self.difference.high:
            return "open"
        return "retrieval" if self.difference.low > 0 else "generation"

    @property
    def verdict(self) -> str:
        """One sentence on this contest, with its numbers."""
        first, second = self.best("retrieval"), self.best("generation")
        if first is None or second is None:
            sides = {"retrieval": first, "diffusion": second}
            lacking = " and no ".join(name for name, row in sides.items() if row is None)
            return f"No contest yet: no {lacking} method has a gain over the control."
        if self.difference is None:
            return f"No contest yet: {first.title} and {second.title} share no split."
        if self.winner == "generation":
            first, second = second, first
        numbers = f"{first.title} against {second.title}, {self.margin}"
        if self.winner == "open":
            return f"Nothing can be said yet: {numbers}; {self.doubt}."
        return f"{self.winner.capitalize()} leads: {numbers}."

    @property
    def margin(self) -> str:
        """The difference as the winner sees it (retrieval minus generation where there is none):
        ``+3.1 points [+1.2, +5.0] over 5 splits``. Needs a difference."""
        assert self.difference is not None
        sign = -1 if self.winner == "generation" else 1
        low, high = sorted((sign * self.difference.low, sign * self.difference.high))
        splits = f"{self.difference.n_splits} split{'s' if self.difference.n_splits != 1 else ''}"
        value = points(sign * self.difference.value)
        return f"{value} points [{points(low)}, {points(high)}] over {splits}"

    @property
    def doubt(self) -> str:
        """Why a contest is open."""
        assert self.difference is not None
        one = self.difference.n_splits < 2
        return "one split says nothing of others" if one else "the interval holds zero"


@dataclass(frozen=True)
class Board:
    """Everything on the page but the images.

    Attributes:
        sections: in the order they are shown.
        date: ISO 8601, of the newest record.
        archived: whether all records are of older rules; where some are not, older ones do not
            count.
        records: how many there are, with and without a score.
    """

    sections: tuple[Section, ...]
    date: str
    records: int
    scored: int
    splits: int
    control: str
    archived: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in the order they are shown."""
        return tuple(dict.fromkeys(section.contest.task for section in self.sections))

    @property
    def methods(self) -> int:
        """How many methods have a row."""
        return len({row.method for section in self.sections for row in section.rows})

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """What a reader can switch between: the keys of a contest that take several values."""
        taken = {
            key: tuple(dict.fromkeys(getattr(section.contest, key) for section in self.sections))
            for key in ("upstream", "budget", "classifier")
        }
        return {key: values for key, values in taken.items() if len(values) > 1}

    @property
    def headline(self) -> str:
        """The verdict over all contests, in one sentence."""
        contests = [section for section in self.sections if section.winner != "none"]
        if not contests:
            return self.sections[0].verdict if self.sections else "No results yet."
        if len(contests) == 1:
            return _only(contests[0])
        return _over(contests)


def best_of(rows: Iterable[Row], side: Side) -> Row | None:
    """The row of a side with the largest gain; by name where two are equal."""
    mine = [row for row in rows if row.side == side and row.gain is not None]
    return min(mine, key=lambda row: (-row.gain.value, row.method)) if mine else None  # type: ignore[union-attr]


def points(value: float) -> str:
    """A difference of accuracies in percentage points, with its sign: ``+3.1``."""
    text = f"{100 * value:+.1f}"
    return {"-0.0": "0.0", "+0.0": "0.0"}.get(text, text).replace("-", "−")


def format_interval(estimate: Estimate) -> str:
    """``+3.1 [+1.2, +5.0]`` in percentage points."""
    return f"{points(estimate.value)} [{points(estimate.low)}, {points(estimate.high)}]"


def order_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows by gain, then by accuracy, those without a score last; ``level`` filled in."""
    ordered = sorted(rows, key=lambda row: (*_merit(row), row.method))
    leader = next((row.gain for row in ordered if row.competes), None)
    return tuple(
        replace(row, level=bool(row.competes and row.gain and row.gain.high >= leader.low))
        if leader
        else row
        for row in ordered
    )


def _merit(row: Row) -> tuple[bool, float, float]:
    gain = row.gain.value if row.gain else 0.0
    return (row.accuracy is None, -gain, -row.accuracy.value if row.accuracy else 0.0)


def _only(section: Section) -> str:
    """The headline where there is one contest."""
    contest = section.contest
    where = f"on {contest.task} (budget {contest.budget}, {contest.classifier})"
    if section.winner == "open":
        return (
            f"Nothing can be said yet {where}: retrieval minus generation is {section.margin}; "
            f"{section.doubt}."
        )
    loser = "generation" if section.winner == "retrieval" else "retrieval"
    return f"{section.winner.capitalize()} leads {loser} by {section.margin} {where}."


def _over(contests: Sequence[Section]) -> str:
    """The headline where there are several contests."""
    wins = Counter(section.winner for section in contests)
    total, undecided = len(contests), wins["open"]
    (most, first), (least, second) = sorted(
        ((wins[side], side) for side in ("retrieval", "generation")), reverse=True
    )
    if not most:
        return f"Nothing can be said yet: no side leads in any of {total} contests."
    if most == least:
        parts = [f"Neither side leads: each wins {most} of {total} contests"]
    else:
        share = "all" if most == total else f"{most} of"
        parts = [f"{first.capitalize()} leads {second} in {share} {total} contests"]
        parts[0] += f", by {_range(section for section in contests if section.winner == first)}"
        parts += [f"{second} leads in {least}"] if least else []
    parts += [f"{undecided} {'is' if undecided == 1 else 'are'} undecided"] if undecided else []
    return "; ".join(parts) + "."


def _range(won: Iterable[Section]) -> str:
    """The smallest and largest difference of contests that one side won."""
    margins = sorted(abs(section.difference.value) for section in won if section.difference)
    low, high = (f"{100 * margin:.1f}" for margin in (margins[0], margins[-1]))
    return f"{low} points" if low == high else f"{low} to {high} points"

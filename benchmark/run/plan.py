"""Every row of a contest before anything has run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from benchmark.data.card import Task
from benchmark.protocol import Protocol
from benchmark.registry import MethodCall, Registry
from benchmark.trial import Seeds, Trial


@dataclass(frozen=True)
class Cell:
    """One row to be: a trial, the classifier, and the row its gain is paired with."""

    trial: Trial
    classifier: str
    control_id: str

    @property
    def record_id(self) -> str:
        """Identity of the row."""
        return self.trial.record_id(self.classifier)


@dataclass(frozen=True)
class Conditions:
    """What a contest is held under; None: as the task's card says, else as ``bench.toml`` does."""

    upstream: str | None = None
    budget: str | None = None
    classifiers: Sequence[str] | None = None
    splits: Sequence[int] | None = None
    draws: Sequence[int] | None = None
    trainings: Sequence[int] | None = None


def plan(
    registry: Registry,
    protocol: Protocol,
    calls: Sequence[MethodCall],
    tasks: Sequence[Task],
    conditions: Conditions = Conditions(),
) -> list[Cell]:
    """Every row of methods x tasks x seeds x classifiers, each cell's control first; rows that
    would be equal, as of a method that draws nothing by chance, once.

    Raises:
        UnknownNameError: an upstream, budget or classifier that ``bench.toml`` lacks.
        DataError: a task's data is missing or differs from its card.
    """
    control = registry.call(protocol.defaults.control)
    cells: dict[str, Cell] = {}
    for seeds, task in product(_seeds(protocol, conditions), tasks):
        upstream, budget, classifiers = resolve(task, protocol, conditions)
        first = Trial(task, control, upstream, budget, seeds, protocol, registry.root)
        base = first.with_call(control)
        for trial in [base, *(first.with_call(call) for call in calls)]:
            for classifier in classifiers:
                cell = Cell(trial, classifier, base.record_id(classifier))
                cells.setdefault(cell.record_id, cell)
    return list(cells.values())


def resolve(
    task: Task, protocol: Protocol, conditions: Conditions
) -> tuple[str, str, Sequence[str]]:
    """The names of upstream, budget and classifiers that a task is run with; raises as ``plan``."""
    card, defaults = task.card.defaults, protocol.defaults
    upstream = conditions.upstream or card.upstream or defaults.upstream
    budget = conditions.budget or card.budget or defaults.budget
    classifiers = conditions.classifiers or card.classifiers or defaults.classifiers
    protocol.upstream_named(upstream)
    protocol.budget_named(budget)
    for classifier in classifiers:
        protocol.classifier_named(classifier)
    return upstream, budget, classifiers


def _seeds(protocol: Protocol, conditions: Conditions) -> Iterable[Seeds]:
    defaults = protocol.defaults
    chosen = (
        conditions.splits or defaults.splits,
        conditions.draws or defaults.draws,
        conditions.trainings or defaults.trainings,
    )
    return [Seeds(*seeds) for seeds in product(*chosen)]

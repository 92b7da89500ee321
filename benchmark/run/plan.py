"""Every row of a contest before anything has run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark.data.card import Task
from benchmark.protocol import Protocol
from benchmark.registry import MethodCall, Registry
from benchmark.trial import Trial


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


def plan(
    registry: Registry,
    protocol: Protocol,
    calls: Sequence[MethodCall],
    tasks: Sequence[Task],
    seeds: Iterable[int],
    upstream: str,
    budget: str,
    classifiers: Sequence[str],
) -> list[Cell]:
    """Every row of methods x tasks x seeds x classifiers, each cell's control first.

    Raises:
        UnknownNameError: an upstream, budget or classifier that ``bench.toml`` lacks.
        DataError: a task's data is missing or differs from its card.
    """
    protocol.upstream_named(upstream)
    protocol.budget_named(budget)
    for classifier in classifiers:
        protocol.classifier_named(classifier)
    control = registry.call(protocol.defaults.control)
    cells: dict[str, Cell] = {}
    for seed in seeds:
        for task in tasks:
            base = Trial(task, control, upstream, budget, seed, protocol, registry.root)
            for trial in [base, *(base.with_call(call) for call in calls)]:
                for classifier in classifiers:
                    cell = Cell(trial, classifier, base.record_id(classifier))
                    cells.setdefault(cell.record_id, cell)
    return list(cells.values())

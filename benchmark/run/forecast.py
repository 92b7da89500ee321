"""What a plan would run and spend, before anything has run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import BenchError
from benchmark.records.store import Store
from benchmark.run.plan import Cell
from benchmark.trial import Trial

if TYPE_CHECKING:
    from benchmark.records.cost import CostTable
    from benchmark.registry import MethodCall


@dataclass(frozen=True)
class Row:
    """One row of the plan, the folder of its record, and whether it is there."""

    cell: Cell
    folder: Path
    found: bool


@dataclass
class Forecast:
    """One method on one task.

    Attributes:
        sets: sets of images to be made; rows that share one, over splits and classifiers, count
            it once.
        images_per_set: at most, as the budget allows.
        cap: TFLOPs that one set may use; None where the upstream has no generator to measure
            against, or what an image costs is not known here.
        tflops: predicted of one set, from the counted costs; None where they are not known.
    """

    task: str
    method: str
    upstream: str
    budget: str
    rows: list[Row] = field(default_factory=list)
    sets: int = 0
    images_per_set: int = 0
    cap: float | None = None
    tflops: float | None = None

    @property
    def found(self) -> int:
        """Rows that are there already."""
        return sum(row.found for row in self.rows)

    @property
    def images(self) -> int:
        """To be made in all, at most."""
        return self.sets * self.images_per_set


def forecast(cells: Sequence[Cell], results: Path, costs: CostTable | None) -> list[Forecast]:
    """Of every method on every task of a plan, in its order. No image is decoded.

    Args:
        cells: from ``plan``.
        costs: what methods were counted to cost; None: nothing is predicted.

    Raises:
        DataError: a data set or model is missing.
    """
    store, once = Store(results), _ImageCosts()
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.trial.task.name, cell.trial.call.label), []).append(cell)
    return [_forecast(group, store, once, costs) for group in groups.values()]


def _forecast(
    cells: Sequence[Cell], store: Store, once: _ImageCosts, costs: CostTable | None
) -> Forecast:
    trial = cells[0].trial
    rows = [_row(cell, store) for cell in cells]
    missing = {row.cell.trial.images_id: row.cell.trial for row in rows if not row.found}
    todo = [
        trial
        for trial in missing.values()
        if not (store.images_folder(trial.place) / "augment").is_dir()
    ]
    budget = trial.protocol.budget_named(trial.budget)
    images = budget.images_per_class * len(trial.task.classes)
    plain = once.of(trial)
    cap = None if plain is None else budget.compute * images * plain
    return Forecast(
        trial.task.name,
        trial.call.label,
        trial.upstream,
        trial.budget,
        rows,
        len(todo),
        images if trial.call.method.facts.adds_images else 0,
        cap,
        _spend(_multiple(trial.call, costs), plain, images, cap),
    )


def _row(cell: Cell, store: Store) -> Row:
    names = (cell.trial.place, cell.classifier, cell.record_id)
    return Row(cell, store.row_folder(*names), store.read(*names) is not None)


def _multiple(call: MethodCall, costs: CostTable | None) -> float | None:
    """What the method was counted to spend, of plain generation; of these parameters alone. One
    that uses no model spends nothing."""
    if not set(call.method.facts.uses) - {"corpus"}:
        return 0.0
    cost = costs.methods.get(call.method.name) if costs else None
    if costs is None or cost is None or not cost.holds_for(call.method):
        return None
    return costs.multiple(call.method.name) if call.params == call.method.params() else None


def _spend(
    multiple: float | None, plain: float | None, images: int, cap: float | None
) -> float | None:
    """TFLOPs of one set of images; what spends nothing does so at any price."""
    if multiple is None or plain is None or cap is None:
        return 0.0 if multiple == 0 else None
    return min(multiple * plain * images, cap)


class _ImageCosts:
    """TFLOPs of one plain image, asked for once per upstream."""

    def __init__(self) -> None:
        self._known: dict[str, float | None] = {}

    def of(self, trial: Trial) -> float | None:
        """None where there is no generator, or it cannot be loaded here."""
        from benchmark.upstream import Upstream
        from benchmark.upstream.cost import image_tflops

        if trial.upstream not in self._known:
            spec = trial.protocol.upstream_named(trial.upstream)
            try:
                value = image_tflops(Upstream(trial.upstream, spec, trial.root, "cpu"))
            except BenchError:
                value = None
            self._known[trial.upstream] = value
        return self._known[trial.upstream]

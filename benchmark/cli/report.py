"""What the commands print on stdout: entries, plans, outcomes; tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from benchmark.cli.console import out

if TYPE_CHECKING:
    from benchmark.registry import Broken, Registry
    from benchmark.run.plan import Cell
    from benchmark.run.scheduler import Outcome
    from benchmark.statistics import Estimate, Line, Summary


def print_plan(cells: Sequence[Cell], results: Path, as_json: bool) -> None:
    """What a run would make and what it would find."""
    from benchmark.records.store import Store

    store = Store(results)
    rows = []
    for cell in cells:
        trial = cell.trial
        folder = store.row_folder(trial.place, cell.classifier, cell.record_id)
        found = store.read(trial.place, cell.classifier, cell.record_id) is not None
        names = (trial.task.name, trial.call.label, cell.classifier, *vars(trial.seeds).values())
        rows.append((*names, "found" if found else "to run", str(folder)))
    keys = ("task", "method", "classifier", "split", "draw", "training", "state", "folder")
    if as_json:
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
        return
    table = Table(*keys[:-1])
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row[:-1]))
    out.print(table)


def print_outcome(outcome: Outcome, as_json: bool) -> None:
    """Accuracy and gain with intervals, spend, what failed, and where the records lie."""
    from benchmark.statistics import Cell as Judged
    from benchmark.statistics import summarise

    summary = summarise(Judged.of(stored.record, stored.predictions()) for stored in outcome.stored)
    if as_json:
        print(json.dumps(_plain(outcome, summary), indent=1))
        return
    out.print(summary_table(summary.lines))
    for record in outcome.failed:
        what = f"{record.status}: {record.task}, {record.method}, split {record.split}: "
        out.print(Text(what + record.reason), style="red" if record.status == "failed" else "")
    for stored in outcome.stored:
        out.print(Text(str(stored.folder / "record.json")), style="dim", soft_wrap=True)
    found = len(outcome.stored) - outcome.made
    out.print(f"{outcome.made} records made, {found} found, {len(outcome.failed)} without a score")


def summary_table(lines: Iterable[Line]) -> Table:
    """Means over splits with 95 % intervals, and the mean spend of a trial."""
    table = Table(title="means over splits with 95 % intervals", title_justify="left")
    for name in ("task", "method", "classifier"):
        table.add_column(name, overflow="fold", min_width=10)
    for name in ("accuracy %", "gain over control", "images", "TFLOPs", "NFE", "s", "splits"):
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(
            line.task,
            Text(line.method),
            line.classifier,
            _accuracy(line),
            _interval(line.gain, "+.1f") if line.gain else "control" if line.is_control else "",
            f"{line.images:,.0f}",
            f"{line.tflops:,.2f}",
            f"{line.nfe:,.0f}",
            f"{line.seconds:,.1f}",
            str(line.accuracy.n_splits),
        )
    return table


def _accuracy(line: Line) -> str:
    """With the value on the clean part of the test images where that is another."""
    clean = "" if line.clean is None else f"{100 * line.clean:.1f}"
    differs = clean not in ("", f"{100 * line.accuracy.value:.1f}")
    return _interval(line.accuracy, ".1f") + (f", clean {clean}" if differs else "")


def _interval(estimate: Estimate, form: str) -> str:
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _plain(outcome: Outcome, summary: Summary) -> dict[str, Any]:
    lines = []
    for line in summary.lines:
        values = asdict(line)
        values["clean"] = line.clean
        values["records"] = [record.record_id for record in line.records]
        lines.append(values)
    return {
        "summary": lines,
        "made": outcome.made,
        "records": sorted(stored.record.record_id for stored in outcome.stored),
        "paths": [str(stored.folder / "record.json") for stored in outcome.stored],
        "failed": [record.model_dump(mode="json") for record in outcome.failed],
    }


def entries_table(registry: Registry) -> Iterable[Table]:
    """Tasks, methods, and what is broken."""
    tasks = Table(title="tasks", title_justify="left")
    for name in ("name", "data set", "classes", "shots", "licence"):
        tasks.add_column(name)
    for task in registry.tasks.values():
        card = task.card
        cells = (task.name, card.title, str(len(card.classes)), str(task.shots), card.licence)
        tasks.add_row(*cells)
    methods = Table(title="methods", title_justify="left")
    for name in ("name", "family", "adapts", "query", "what"):
        methods.add_column(name)
    for method in registry.methods.values():
        facts = method.facts
        methods.add_row(method.name, facts.family, facts.adaptation, facts.query, facts.title)
    yield tasks
    yield methods
    if registry.broken:
        yield broken_table(registry.broken)


def broken_table(broken: Iterable[Broken]) -> Table:
    """Entries that do not load, each with its reason."""
    table = Table(title="broken", title_justify="left", title_style="bold red")
    for name in ("kind", "name", "reason"):
        table.add_column(name, overflow="fold")
    for entry in broken:
        table.add_row(entry.kind, Text(entry.name), Text(entry.reason))
    return table

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
    from benchmark.run.forecast import Forecast
    from benchmark.run.scheduler import Outcome
    from benchmark.statistics import Estimate, MethodSummary, Summary


def print_forecast(forecasts: Sequence[Forecast], as_json: bool) -> None:
    """What a run would make, find and spend, by method and task; as data with every row."""
    if as_json:
        print(json.dumps(_plain_forecast(forecasts), indent=1))
        return
    table = Table(title="images and TFLOPs are what is still to be made", title_justify="left")
    for name in ("task", "method"):
        table.add_column(name, overflow="fold", min_width=10)
    for name in ("rows to run", "found", "sets of images", "images", "TFLOPs a set", "cap a set"):
        table.add_column(name, justify="right")
    table.add_column("TFLOPs in all", justify="right")
    for line in forecasts:
        table.add_row(
            line.task,
            Text(line.method),
            *(f"{count:,}" for count in _counts(line)),
            _tflops(line.tflops, line.cap, 1),
            _tflops(line.cap, line.cap, 1),
            _tflops(line.tflops, line.cap, line.sets),
        )
    totals = [sum(counts) for counts in zip(*map(_counts, forecasts), strict=True)]
    table.add_section()
    table.add_row("in all", "", *(f"{count:,}" for count in totals), "", "", _sum(forecasts))
    out.print(table)
    out.print("≤: not counted with these parameters (docs/costs.json), so no more than the cap")


def _counts(line: Forecast) -> tuple[int, int, int, int]:
    return (len(line.rows) - line.found, line.found, line.sets, line.images)


def _tflops(predicted: float | None, cap: float | None, sets: int) -> str:
    """Of some sets of images; the cap where nothing is predicted."""
    if not sets or predicted == 0:
        return "0"
    if predicted is not None:
        return f"{sets * predicted:,.4g}"
    return "unknown" if cap is None else f"≤ {sets * cap:,.4g}"


def _sum(forecasts: Sequence[Forecast]) -> str:
    """TFLOPs of all sets; a bound where some are not predicted."""
    known, bound, unknown = _totals(forecasts)
    text = f"{known + bound:,.4g}"
    return ("≤ " if bound else "") + text + (f" + {unknown} sets unknown" if unknown else "")


def _totals(forecasts: Sequence[Forecast]) -> tuple[float, float, int]:
    """TFLOPs that are predicted, the caps of those that are not, and sets with neither."""
    known = sum(line.sets * line.tflops for line in forecasts if line.tflops is not None)
    others = [line for line in forecasts if line.tflops is None]
    bound = sum(line.sets * line.cap for line in others if line.cap is not None)
    return known, bound, sum(line.sets for line in others if line.cap is None)


def _plain_forecast(forecasts: Sequence[Forecast]) -> dict[str, Any]:
    keys = ("rows_to_run", "found", "sets", "images")
    rows = [
        {
            "task": line.task,
            "method": line.method,
            "upstream": line.upstream,
            "budget": line.budget,
            "classifier": row.cell.classifier,
            **vars(row.cell.trial.seeds),
            "state": "found" if row.found else "to run",
            "folder": str(row.folder),
        }
        for line in forecasts
        for row in line.rows
    ]
    lines = [
        {"task": line.task, "method": line.method}
        | dict(zip(keys, _counts(line), strict=True))
        | {"tflops_per_set": line.tflops, "tflops_cap_per_set": line.cap}
        for line in forecasts
    ]
    known, bound, unknown = _totals(forecasts)
    totals: dict[str, Any] = {key: sum(line[key] for line in lines) for key in keys}
    totals |= {"tflops_predicted": known, "tflops_at_most": None if unknown else known + bound}
    return {"methods": lines, "totals": totals, "rows": rows}


def print_outcome(outcome: Outcome, folder: Path, as_json: bool) -> None:
    """Accuracy and gain with intervals, spend, what failed, and where the records lie."""
    from benchmark.statistics import ScoredRow, summarise

    summary = summarise(
        ScoredRow.of(stored.record, stored.predictions()) for stored in outcome.stored
    )
    if as_json:
        print(json.dumps(_plain(outcome, folder, summary), indent=1))
        return
    out.print(summary_table(summary.lines))
    if note := _caveat(summary.lines):
        out.print(note)
    for record in outcome.failed:
        what = f"{record.status}: {record.task}, {record.method}, split {record.split}: "
        out.print(Text(what + record.reason), style="red" if record.status == "failed" else "")
    found = len(outcome.stored) - outcome.made
    out.print(f"{outcome.made} records made, {found} found, {len(outcome.failed)} without a score")
    out.print(Text(f"records: {folder}"), soft_wrap=True)


def summary_table(lines: Sequence[MethodSummary]) -> Table:
    """Means over splits with their intervals, and the mean spend of a trial."""
    several = any(line.accuracy.n_splits > 1 for line in lines)
    title = "means over splits with 95 % intervals" if several else "one split"
    table = Table(title=title, title_justify="left")
    for name in ("task", "method", "classifier"):
        table.add_column(name, overflow="fold", min_width=10)
    for name in ("accuracy %", "gain over control", "images", "TFLOPs", "NFE", "s", "splits"):
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(
            line.task,
            Text(line.method),
            line.classifier,
            Text(_accuracy(line)),
            _gain(line),
            f"{line.images:,.0f}",
            f"{line.tflops:,.2f}",
            f"{line.nfe:,.0f}",
            f"{line.seconds:,.1f}",
            str(line.accuracy.n_splits),
        )
    return table


def _caveat(lines: Sequence[MethodSummary]) -> str:
    """What intervals over one split do not say."""
    estimates = [estimate for line in lines for estimate in (line.accuracy, line.gain) if estimate]
    if all(estimate.n_splits > 1 for estimate in estimates):
        return ""
    return (
        "* over one split: the interval covers the choice of test images alone, and says nothing "
        "of other splits; give more with --splits"
    )


def _accuracy(line: MethodSummary) -> str:
    """With the value on the clean part of the test images where that is another."""
    clean = "" if line.clean is None else f"{100 * line.clean:.1f}"
    differs = clean not in ("", f"{100 * line.accuracy.value:.1f}")
    return _interval(line.accuracy, ".1f") + (f", clean {clean}" if differs else "")


def _gain(line: MethodSummary) -> Text:
    if line.gain is None:
        return Text("control" if line.is_control else "")
    return Text(_interval(line.gain, "+.1f"))


def _interval(estimate: Estimate, form: str) -> str:
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    mark = "*" if estimate.n_splits == 1 else ""
    return f"{value:{form}} [{low:{form}}, {high:{form}}]{mark}"


def _plain(outcome: Outcome, folder: Path, summary: Summary) -> dict[str, Any]:
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
        "folder": str(folder),
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

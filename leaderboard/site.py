"""The leaderboard: one self-contained page made of validated records.

``build_site`` writes ``index.html`` (style, script, charts and images inside; no network), and
beside it the rows it was made of as ``records.csv`` and ``records.json``. The same records give
the same bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import benchmark.leaderboard.charts as charts
import benchmark.leaderboard.families as families
from benchmark.leaderboard.board import (
    Board,
    Contest,
    Note,
    Row,
    Section,
    best_of,
    format_interval,
    order_rows,
    points,
)
from benchmark.leaderboard.flagged import FlaggedPairs, flagged_pairs
from benchmark.leaderboard.gallery import Gallery, build_galleries
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark.errors import StorageError
from benchmark.home import leaderboard_folder
from benchmark.protocol import load_protocol
from benchmark.records.record import Record
from benchmark.records.store import read_results
from benchmark.records.tables import records_frame
from benchmark.registry import Registry, load_registry
from benchmark.statistics import (
    Estimate,
    MethodSummary,
    ScoredRow,
    Summary,
    counted,
    paired_difference,
    summarise,
)

_CAPS = {"tflops": "TFLOPs", "nfe": "NFE", "seconds": "seconds"}


@dataclass(frozen=True)
class Figure:
    """A section with its charts (inline SVG; "" where there is nothing to draw) and its axis."""

    section: Section
    gains: Markup
    compute: Markup
    axis: tuple[float, float]


def build_site(
    results: Path | Sequence[Path],
    root: Path,
    out: Path,
    date: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """Writes the page, and returns its path.

    Args:
        results: a results folder or submission, or several, as ``read_results`` takes them;
            where all are missing or empty, the page says how to make results.
        root: holds ``bench.toml``, tasks and methods, for titles and real shots.
        out: folder of ``index.html``, ``records.csv`` and ``records.json``; made if missing.
        date: ISO 8601, shown on the page; default: of the newest record.
        tell: called with the page's headline.

    Raises:
        RecordError: a record does not validate.
        ConfigError: ``bench.toml`` does not validate.
        StorageError: ``out`` cannot be written.
    """
    protocol = load_protocol(root)
    registry = load_registry(root, protocol)
    folders = [results] if isinstance(results, Path) else results
    stored = read_results(*(folder for folder in folders if folder.is_dir()))
    scored = [item for item in stored if item.record.value is not None]
    cells = [ScoredRow.of(item.record, item.predictions()) for item in scored]
    records = [item.record for item in stored]
    board = build_board(
        records,
        summarise(cells),
        registry,
        protocol.defaults.control,
        lambda first, second: paired_difference(cells, first, second),
    )
    tell(board.headline)
    shown = counted(scored)  # images and pairs of an older version would not be those of its score
    galleries = build_galleries(shown, registry, root, protocol.defaults.budget)
    texts = {"index.html": render(board, galleries, date or board.date, flagged_pairs(shown))}
    if records:
        rows = [record.model_dump(mode="json") for record in records]
        texts["records.json"] = json.dumps(rows, indent=1, sort_keys=True) + "\n"
        texts["records.csv"] = records_frame(records).to_csv(index=False)
    return _write(out, texts)


def render(
    board: Board,
    galleries: Sequence[Gallery],
    date: str,
    flagged: Mapping[str, FlaggedPairs] | None = None,
) -> str:
    """The page as text, from plain data; ``flagged`` is by task."""
    folder = leaderboard_folder()
    environment = Environment(
        loader=FileSystemLoader(folder / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "points": points,
        "interval": format_interval,
        "percent": _percent,
        "quantity": _quantity,
        "anchor": _anchor,
    }
    environment.tests["spdx"] = lambda name: re.fullmatch(r"[A-Za-z]+[-A-Za-z0-9.]*", name)
    environment.globals |= {
        "glyph": lambda family: Markup(charts.glyph(family)),
        "words": lambda family: families.family(family).words,
        "whisker": lambda gain, family, axis: Markup(charts.whisker(gain, family, axis)),
    }
    rows = [row for section in board.sections for row in section.rows]
    text = environment.get_template("page.html.j2").render(
        board=board,
        figures=_figures(board),
        galleries=galleries,
        flagged=flagged or {},
        date=date,
        families=[
            family for family in families.FAMILIES if any(row.family == family for row in rows)
        ],
        style=Markup((folder / "static" / "page.css").read_text(encoding="utf-8")),
        script=Markup((folder / "static" / "page.js").read_text(encoding="utf-8")),
    )
    return text + "\n"


def build_board(
    records: Sequence[Record],
    summary: Summary,
    registry: Registry,
    control: str,
    difference: Callable[[MethodSummary, MethodSummary], Estimate | None],
) -> Board:
    """The board of a set of records.

    Args:
        records: all rows, those without a score too.
        summary: of the same rows.
        registry: for titles; entries that are no longer registered keep their names.
        control: name of the method that gains are paired with.
        difference: paired accuracy of the first minus the second, None where they share no split.
    """
    lines = {(_contest(line), line.method): line for line in summary.lines}
    left_out = {record.record_id: why for record, why in summary.left_out}
    found: dict[Contest, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        found[_contest(record)][record.method].append(record)
    sections = []
    for contest, methods in found.items():
        mine = {method: lines.get((contest, method)) for method in methods}
        rows = order_rows(
            _row(group, mine[method], registry, _notes(group, left_out))
            for method, group in methods.items()
        )
        sections.append(_section(contest, rows, mine, registry, difference))
    order = list(registry.tasks)
    sections.sort(key=lambda section: _place(section.contest, order, records))
    created = [record.created for record in records]
    return Board(
        tuple(sections),
        max(created)[:10] if created else "",
        len(records),
        sum(record.value is not None for record in records),
        len({record.split for record in records}),
        _title(registry, control, control),
        bool(records) and all(record.archived for record in records),
    )


def _section(
    contest: Contest,
    rows: tuple[Row, ...],
    lines: Mapping[str, MethodSummary | None],
    registry: Registry,
    difference: Callable[[MethodSummary, MethodSummary], Estimate | None],
) -> Section:
    task = registry.tasks.get(contest.task)
    title = task.card.title if task else contest.task
    best = [best_of(rows, side) for side in ("retrieval", "generation")]
    first, second = (lines[row.method] if row else None for row in best)
    paired = difference(first, second) if first and second else None
    return Section(contest, title, rows, paired)


def _contest(row: Record | MethodSummary) -> Contest:
    return Contest(row.task, row.upstream, row.budget, row.classifier)


def _row(
    records: Sequence[Record],
    line: MethodSummary | None,
    registry: Registry,
    notes: tuple[Note, ...],
) -> Row:
    first = records[0]
    entry = registry.methods.get(first.method_name)
    row = Row(
        method=first.method,
        title=_title(registry, first.method_name, first.method),
        family=first.family,
        paper=entry.facts.paper if entry else "",
        citation=entry.facts.citation if entry else "",
        notes=notes,
    )
    if line is None:
        return row
    return replace(
        row,
        control=line.is_control,
        accuracy=line.accuracy,
        clean=line.clean,
        gain=line.gain,
        rank=line.rank,
        images_per_class=line.images / first.n_classes,
        tflops=line.tflops,
        nfe=line.nfe,
        seconds=line.seconds,
        memory_mb=fmean(record.peak_memory_mb for record in line.records),
        splits=line.accuracy.n_splits,
    )


def _title(registry: Registry, name: str, label: str) -> str:
    """A method's title, with the changed parameters of its label."""
    entry = registry.methods.get(name)
    return f"{entry.facts.title}{label.removeprefix(name)}" if entry else label


def _notes(records: Sequence[Record], left_out: Mapping[str, str]) -> tuple[Note, ...]:
    events: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.split):
        if record.status in ("failed", "skipped"):
            events[record.status, record.reason].append(record.split)
        elif why := left_out.get(record.record_id):
            events["rows left out", why].append(record.split)
        elif record.cap == "images":
            events["capped", "yielded more images than the budget holds"].append(record.split)
        elif record.cap:
            events["capped", f"stopped at its budget of {_CAPS[record.cap]}"].append(record.split)
    return tuple(Note(what, why, tuple(splits)) for (what, why), splits in events.items())


def _place(contest: Contest, order: list[str], records: Sequence[Record]) -> tuple[object, ...]:
    """Tasks as they are registered, budgets by their size, the rest by name."""
    caps = {record.budget: record.images_per_class_cap for record in records}
    task = order.index(contest.task) if contest.task in order else len(order)
    return (
        task,
        contest.task,
        contest.upstream,
        caps[contest.budget],
        contest.budget,
        contest.classifier,
    )


def _figures(board: Board) -> list[Figure]:
    figures = []
    for section in board.sections:
        axis = charts.reach(section.rows)
        drawn = Markup(charts.gains(section, axis)), Markup(charts.compute(section, axis))
        figures.append(Figure(section, *drawn, axis))
    return figures


def _percent(value: float) -> str:
    """0..1 as a percentage with one decimal, without its sign."""
    return f"{100 * value:.1f}"


def _quantity(value: float) -> str:
    """A count or an amount, three digits where they are not whole: 12,345 or 0.0213."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _anchor(text: str) -> str:
    """An id for links: letters, digits and hyphens."""
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower()).strip("-")


def _write(out: Path, texts: dict[str, str]) -> Path:
    """Every file under a temporary name first: a reader never sees half a page."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            temporary = out / f".tmp-{name}"
            temporary.write_text(text, encoding="utf-8", newline="\n")
            os.replace(temporary, out / name)
    except OSError as error:
        raise StorageError(f"{out}: {error.strerror or error}") from None
    return out / "index.html"

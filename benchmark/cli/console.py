"""Progress of a run on stderr."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from benchmark.records.record import Record

# In a pipe or a log there is no width to keep to; 80 columns would squeeze the tables.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140)
err = Console(stderr=True)


class _Rate(ProgressColumn):
    """Things per second: images while augmenting, steps while training."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None or speed < 0.05 else f"{speed:,.1f}/s", style="cyan")


class ProgressListener:
    """Bars on a terminal; one line per finished row elsewhere (cluster logs).

    The time that is left is the mean over the stages that have ended (images made, a classifier
    trained), since all was loaded, times the stages that are left.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = err.is_terminal and not quiet
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=err,
            transient=True,
        )
        self.rows: TaskID | None = None
        self.total = self.done = self.stages = 0
        self.since = time.monotonic()
        self.left = ""
        self.load: TaskID | None = None
        self.lines: dict[int, tuple[str, TaskID]] = {}
        self.logged: dict[int, float] = {}

    def __enter__(self) -> ProgressListener:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def planned(self, total: int, found: int) -> None:
        """See ``benchmark.run.scheduler.Listener``; so do the next ones."""
        self.total, self.done = total, found
        self.rows = self._bar("[bold]records", total, found)
        self._log(f"{total} records planned, {found} found")

    def loading(self, what: str) -> None:
        """One line, which goes away on a terminal."""
        if self.load is not None:
            self.bars.remove_task(self.load)
        self.load = self._bar(f"loading {what}", None) if what else None
        self.since = time.monotonic()
        if what:
            self._log(f"loading {what}")

    def ended(self, left: int) -> None:
        """What is left, from what the stages so far took."""
        self.stages += 1
        seconds = (time.monotonic() - self.since) / self.stages * left
        self.left = f"about {_duration(seconds)} left" if left else ""
        if self.rows is not None:
            self.bars.update(self.rows, left=self.left)

    def progress(self, worker: int, label: str, what: str, done: int, total: int) -> None:
        """A bar for each worker; in a log every 30 seconds, so that it shows that it lives."""
        text = f"{what}: {label}"
        if not self.live:
            now = time.monotonic()
            if now - self.logged.setdefault(worker, now) > 30:
                self.logged[worker] = now
                self._log(f"{text}: {done}/{total}")
            return
        shown, bar = self.lines.get(worker, ("", TaskID(-1)))
        if shown != text:
            if shown:
                self.bars.remove_task(bar)
            bar = self._bar(text, total)
            self.lines[worker] = (text, bar)
        self.bars.update(bar, completed=done, total=total)

    def finished(self, record: Record) -> None:
        """One line for each row."""
        self.done += 1
        if self.rows is not None:
            self.bars.advance(self.rows)
        if self.quiet:
            return
        names = (record.task, record.method, record.classifier, f"split {record.split}")
        mark, ending = "[green]✓[/]", f"{_value(record)}{self._so_far()}"
        if record.value is None:
            mark, ending = "[red]✗[/]", f"{record.status}: {record.reason}"
        line = escape(f"{' · '.join(names)}: {ending}")
        err.print(f"{mark} {line}", highlight=False, soft_wrap=True)

    def _so_far(self) -> str:
        """How far the run is; on a terminal the bars say so."""
        if self.live:
            return ""
        return f" ({self.done}/{self.total}{', ' if self.left else ''}{self.left})"

    def _bar(self, text: str, total: int | None, done: int = 0) -> TaskID:
        return self.bars.add_task(text, total=total, completed=done, left="")

    def _log(self, text: str) -> None:
        if not self.live and not self.quiet:
            err.print(text, highlight=False, markup=False, soft_wrap=True)


def _value(record: Record) -> str:
    """In per cent, with that on the clean test images where some are flagged."""
    if record.value is None:
        return ""
    clean = record.value_clean
    text = "no clean test image" if clean is None else f"clean {100 * clean:.1f} %"
    return f"{100 * record.value:.1f} %" + (f" ({text})" if record.flagged_pairs else "")


def _duration(seconds: float) -> str:
    """Roughly, as an estimate deserves: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Progress of a run on stderr."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
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
    """Bars on a terminal; one line per finished row elsewhere (cluster logs)."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = err.is_terminal and not quiet
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
        )
        self.whole: TaskID | None = None
        self.lines: dict[int, tuple[str, TaskID]] = {}
        self.told: dict[int, float] = {}

    def __enter__(self) -> ProgressListener:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def planned(self, total: int, found: int) -> None:
        """See ``runner.Listener``."""
        self.whole = self.bars.add_task("[bold]records", total=total, completed=found)
        if not self.live and not self.quiet:
            err.print(f"{total} records planned, {found} found", highlight=False)

    def progress(self, worker: int, label: str, what: str, done: int, total: int) -> None:
        """See ``runner.Listener``."""
        text = f"{what}: {label}"
        if not self.live:
            self._log(worker, text, done, total)
            return
        shown, bar = self.lines.get(worker, ("", TaskID(-1)))
        if shown != text:
            if shown:
                self.bars.remove_task(bar)
            bar = self.bars.add_task(text, total=total)
            self.lines[worker] = (text, bar)
        self.bars.update(bar, completed=done, total=total)

    def _log(self, worker: int, text: str, done: int, total: int) -> None:
        """Every 30 seconds, so that a log shows that it lives."""
        now = time.monotonic()
        if not self.quiet and now - self.told.setdefault(worker, now) > 30:
            self.told[worker] = now
            err.print(f"{text}: {done}/{total}", highlight=False)

    def finished(self, record: Record) -> None:
        """See ``runner.Listener``."""
        if self.whole is not None:
            self.bars.advance(self.whole)
        if self.quiet:
            return
        name = f"{record.task} · {record.method} · {record.classifier} · split {record.split}"
        if record.value is not None:
            clean = ""
            if record.flagged_pairs:
                value = record.value_clean
                clean = (
                    " (no clean test image)" if value is None else f" (clean {100 * value:.1f} %)"
                )
            err.print(f"[green]✓[/] {name}: {100 * record.value:.1f} %{clean}", highlight=False)
        else:
            err.print(f"[red]✗[/] {name}: {record.status}: ", end="", highlight=False)
            err.print(record.reason, markup=False, highlight=False)

"""Findings of ``bench doctor`` and ``bench check``, as a table or as data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import typer

Status = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Check:
    """One line of the report; ``remedy`` says what to do where it is not "ok"."""

    subject: str
    status: Status
    finding: str
    remedy: str = ""


def report(checks: Sequence[Check], as_json: bool) -> None:
    """Prints the findings; exit code 1 where one is wrong."""
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks], indent=1))
    else:
        _print(checks)
    if any(check.status == "wrong" for check in checks):
        raise typer.Exit(1)


def _print(checks: Sequence[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    from benchmark.cli.console import out

    marks = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "wrong": "[red]✗[/]"}
    table = Table(box=None, show_header=False)
    for check in checks:
        table.add_row(marks[check.status], check.subject, Text(check.finding, overflow="fold"))
        if check.remedy:
            table.add_row("", "", Text(f"→ {check.remedy}", style="bold", overflow="fold"))
    out.print(table)

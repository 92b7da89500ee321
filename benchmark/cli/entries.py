"""``bench list | show``: what is registered."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from benchmark.cli.arguments import Json, load_entries
from benchmark.errors import ConfigError, UnknownNameError


def list_(as_json: Json = False) -> None:
    """List the registered tasks and methods, broken ones with their reason."""
    from benchmark.cli.console import out
    from benchmark.cli.report import entries_table

    _, registry = load_entries()
    if as_json:
        entries = {
            "tasks": {name: task.card.title for name, task in registry.tasks.items()},
            "methods": {
                name: method.facts.model_dump() for name, method in registry.methods.items()
            },
            "broken": [
                {"kind": entry.kind, "name": entry.name, "reason": entry.reason}
                for entry in registry.broken
            ],
        }
        typer.echo(json.dumps(entries, indent=1))
        return
    for table in entries_table(registry):
        out.print(table)


def show(name: Annotated[str, typer.Argument(help="A task, a method, or 'protocol'.")]) -> None:
    """Show a task, a method, or the protocol with every default filled in (JSON)."""
    protocol, registry = load_entries()
    known = {**registry.tasks, **registry.methods}
    values: dict[str, Any]
    if name == "protocol":
        values = protocol.model_dump(mode="json")
    elif name in registry.tasks:
        task = registry.tasks[name]
        values = {"name": name, "shots": task.shots, "hash": task.hash}
        values |= task.card.model_dump(mode="json", exclude={"shots", "name"})
    elif name in registry.methods:
        method = registry.methods[name]
        values = {"name": name, "hash": method.hash, **method.facts.model_dump()}
        values["params"] = method.params.model_json_schema().get("properties", {})
    else:
        for entry in registry.broken:
            if entry.name == name:
                raise ConfigError(f"{entry.kind} {name!r} is broken", entry.reason.splitlines())
        raise UnknownNameError("task or method", name, [*known, "protocol"])
    typer.echo(json.dumps(values, indent=1, ensure_ascii=False))

"""``bench run | sweep``: one method on one task, or many on many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import names
from benchmark.cli.arguments import COSTS, load_entries, split_names
from benchmark.cli.options import Options, with_options
from benchmark.data.card import Task
from benchmark.home import results_folder
from benchmark.protocol import Protocol
from benchmark.registry import MethodCall, Registry

if TYPE_CHECKING:
    from benchmark.run.plan import Cell
    from benchmark.run.scheduler import Outcome


@with_options
def run(
    method: Annotated[
        str,
        typer.Option(
            "--method", "-m", help="name or name[key=value,...]", autocompletion=names.methods
        ),
    ],
    task: Annotated[
        str, typer.Option("--task", "-t", help="A task of bench list.", autocompletion=names.tasks)
    ],
    options: Options,
) -> None:
    """Run one method on one task, with its control; print accuracy, gain, spend and the folder."""
    protocol, registry = load_entries()
    _contest(protocol, registry, [registry.call(method)], [registry.task(task)], options)


@with_options
def sweep(
    methods: Annotated[
        str,
        typer.Option(
            help="Methods as for bench run, separated by commas, or 'all'.",
            autocompletion=names.methods,
        ),
    ] = "all",
    tasks: Annotated[
        str,
        typer.Option(help="Tasks separated by commas, or 'all'.", autocompletion=names.tasks),
    ] = "all",
    *,
    options: Options,
) -> None:
    """Run many methods on many tasks; the same command again finishes what is missing."""
    from benchmark.cli.console import err
    from benchmark.cli.report import broken_table

    protocol, registry = load_entries()
    calls = split_names(methods) if methods != "all" else list(registry.methods)
    chosen = split_names(tasks) if tasks != "all" else list(registry.tasks)
    broken = registry.broken if "all" in (methods, tasks) else []
    if broken:
        err.print(broken_table(broken))
    _contest(
        protocol,
        registry,
        [registry.call(name) for name in calls],
        [registry.task(name) for name in chosen],
        options,
    )
    if broken:
        raise typer.Exit(1)


def _contest(
    protocol: Protocol,
    registry: Registry,
    calls: Sequence[MethodCall],
    tasks: Sequence[Task],
    options: Options,
) -> None:
    """Plans, runs, summarises; exit code 1 where a trial failed."""
    from benchmark.cli.report import print_forecast, print_outcome
    from benchmark.records.cost import read_costs
    from benchmark.run.forecast import forecast
    from benchmark.run.plan import plan

    folder = (options.results or results_folder(registry.root)).resolve()
    cells = plan(registry, protocol, calls, tasks, options.conditions())
    if options.dry_run:
        costs = registry.root / COSTS
        known = read_costs(costs) if costs.is_file() else None
        print_forecast(forecast(cells, folder, known), options.as_json)
        return
    outcome = _run(cells, folder, options)
    print_outcome(outcome, folder, options.as_json)
    if any(record.status == "failed" for record in outcome.failed):
        raise typer.Exit(1)


def _run(cells: Sequence[Cell], folder: Path, options: Options) -> Outcome:
    from benchmark.cli.console import ProgressListener
    from benchmark.run.engines.local import LocalEngine
    from benchmark.run.scheduler import run as run_plan

    engine = LocalEngine(options.jobs, options.device)
    try:
        with ProgressListener(options.quiet or options.as_json) as listener:
            return run_plan(cells, folder, listener, engine, options.threads, options.device)
    except KeyboardInterrupt:
        typer.echo("bench: interrupted; the same command continues what is left", err=True)
        raise typer.Exit(130) from None

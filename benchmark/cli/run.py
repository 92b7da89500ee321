"""``bench run | sweep``: one method on one task, or many on many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.arguments import Device, Json, load_entries, parse_seeds, split_names
from benchmark.data.card import Task
from benchmark.home import results_folder
from benchmark.protocol import Protocol
from benchmark.registry import MethodCall, Registry

if TYPE_CHECKING:
    from benchmark.run.plan import Conditions

Results = Annotated[
    Path | None, typer.Option(help="Results folder [default: results/ in the root].")
]
Upstream = Annotated[str | None, typer.Option(help="Upstream of bench.toml.")]
Budget = Annotated[str | None, typer.Option(help="Budget tier of bench.toml.")]
Classifier = Annotated[
    str | None, typer.Option(help="Classifiers of bench.toml, separated by commas.")
]
Splits = Annotated[
    str | None, typer.Option(help="Seeds of the few-shot split: '5' for 0..4, or such as '0,1,7'.")
]
Draws = Annotated[str | None, typer.Option(help="Seeds of the images, as --splits.")]
Trainings = Annotated[str | None, typer.Option(help="Seeds of the classifier, as --splits.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Worker processes [default: GPUs, or cores].")
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of a worker.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def run(
    method: Annotated[str, typer.Option("--method", "-m", help="name or name[key=value,...]")],
    task: Annotated[str, typer.Option("--task", "-t", help="Such as fashion-5shot.")],
    budget: Budget = None,
    splits: Splits = None,
    draws: Draws = None,
    trainings: Trainings = None,
    classifier: Classifier = None,
    upstream: Upstream = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    device: Device = "auto",
    results: Results = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run one method on one task, with its control; print accuracy, gain, spend and paths."""
    protocol, registry = load_entries()
    calls, entries = [registry.call(method)], [registry.task(task)]
    options = _Options(
        splits, draws, trainings, upstream, budget, classifier, jobs, threads, device, results
    )
    _contest(protocol, registry, calls, entries, options, dry_run, as_json, quiet)


def sweep(
    methods: Annotated[str, typer.Option(help="Names separated by commas, or 'all'.")] = "all",
    tasks: Annotated[str, typer.Option(help="Names separated by commas, or 'all'.")] = "all",
    budget: Budget = None,
    splits: Splits = None,
    draws: Draws = None,
    trainings: Trainings = None,
    classifier: Classifier = None,
    upstream: Upstream = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    device: Device = "auto",
    results: Results = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run many methods on many tasks."""
    from benchmark.cli.console import err
    from benchmark.cli.report import broken_table

    protocol, registry = load_entries()
    names = split_names(methods) if methods != "all" else list(registry.methods)
    calls = [registry.call(name) for name in names]
    wanted = split_names(tasks) if tasks != "all" else list(registry.tasks)
    entries = [registry.task(name) for name in wanted]
    lost = [entry for entry in registry.broken if "all" in (methods, tasks)]
    if lost:
        err.print(broken_table(lost))
    options = _Options(
        splits, draws, trainings, upstream, budget, classifier, jobs, threads, device, results
    )
    _contest(protocol, registry, calls, entries, options, dry_run, as_json, quiet)
    if lost:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Options:
    """What ``run`` and ``sweep`` share, as it was typed."""

    splits: str | None
    draws: str | None
    trainings: str | None
    upstream: str | None
    budget: str | None
    classifier: str | None
    jobs: int | None
    threads: int
    device: str
    results: Path | None

    def conditions(self) -> Conditions:
        """What was asked for; the rest is left to the task and to ``bench.toml``."""
        from benchmark.run.plan import Conditions

        names = split_names(self.classifier) if self.classifier else None
        seeds = {
            name: parse_seeds(f"--{name}", text)
            for name in ("splits", "draws", "trainings")
            if (text := getattr(self, name)) is not None
        }
        return Conditions(self.upstream, self.budget, names, **seeds)


def _contest(
    protocol: Protocol,
    registry: Registry,
    calls: list[MethodCall],
    tasks: list[Task],
    options: _Options,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Plans, runs, summarises; exit code 1 where a trial failed."""
    from benchmark.cli.console import ProgressListener
    from benchmark.cli.report import print_outcome, print_plan
    from benchmark.run.engines.local import LocalEngine
    from benchmark.run.plan import plan
    from benchmark.run.scheduler import run as run_plan

    folder = (options.results or results_folder(registry.root)).resolve()
    cells = plan(registry, protocol, calls, tasks, options.conditions())
    if dry_run:
        print_plan(cells, folder, as_json)
        return
    engine = LocalEngine(options.jobs, options.device)
    try:
        with ProgressListener(quiet or as_json) as listener:
            outcome = run_plan(cells, folder, listener, engine, options.threads, options.device)
    except KeyboardInterrupt:
        typer.echo("bench: interrupted; the same command continues what is left", err=True)
        raise typer.Exit(130) from None
    print_outcome(outcome, as_json)
    if any(record.status == "failed" for record in outcome.failed):
        raise typer.Exit(1)

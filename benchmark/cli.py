"""The command line: ``bench list | show | run | sweep | doctor``, and those of ``publish``.

Results go to stdout, progress to stderr. Exit codes: 0 done, 1 a trial failed, 2 wrong usage or
declaration, 130 interrupted. Heavy packages are imported inside the commands that need them.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark import __version__, publish
from benchmark.data.card import Task
from benchmark.errors import BenchError, ConfigError, UnknownNameError
from benchmark.home import find_root, results_folder
from benchmark.protocol import Protocol, load_protocol
from benchmark.registry import MethodCall, Registry, load_registry

app = typer.Typer(
    name="bench",
    help="Generate or retrieve? The contest of data augmentation for few-shot classification.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Results = Annotated[
    Path | None, typer.Option(help="Results folder [default: results/ in the root].")
]
Upstream = Annotated[str | None, typer.Option(help="Upstream of bench.toml.")]
Budget = Annotated[str | None, typer.Option(help="Budget tier of bench.toml.")]
Classifier = Annotated[
    str | None, typer.Option(help="Classifiers of bench.toml, separated by commas.")
]
Seeds = Annotated[str | None, typer.Option(help="'5' for seeds 0..4, or a list such as '0,1,7'.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Worker processes [default: GPUs, or cores].")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of a worker.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"augbench {__version__}")
        raise typer.Exit


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the registered tasks and methods, broken ones with their reason."""
    from benchmark.console import out
    from benchmark.report import entries_table

    _, registry = _load()
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


@app.command()
def show(name: Annotated[str, typer.Argument(help="A task, a method, or 'protocol'.")]) -> None:
    """Show a task, a method, or the protocol with every default filled in (JSON)."""
    protocol, registry = _load()
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


@app.command()
def run(
    method: Annotated[str, typer.Option("--method", "-m", help="name or name[key=value,...]")],
    task: Annotated[str, typer.Option("--task", "-t", help="Such as fashion-5shot.")],
    budget: Budget = None,
    seeds: Seeds = None,
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
    protocol, registry = _load()
    calls, entries = [registry.call(method)], [registry.task(task)]
    options = _Options(seeds, upstream, budget, classifier, jobs, threads, device, results)
    _contest(protocol, registry, calls, entries, options, dry_run, as_json, quiet)


@app.command()
def sweep(
    methods: Annotated[str, typer.Option(help="Names separated by commas, or 'all'.")] = "all",
    tasks: Annotated[str, typer.Option(help="Names separated by commas, or 'all'.")] = "all",
    budget: Budget = None,
    seeds: Seeds = None,
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
    from benchmark.console import err
    from benchmark.report import broken_table

    protocol, registry = _load()
    names = _split(methods) if methods != "all" else list(registry.methods)
    calls = [registry.call(name) for name in names]
    wanted = _split(tasks) if tasks != "all" else list(registry.tasks)
    entries = [registry.task(name) for name in wanted]
    lost = [entry for entry in registry.broken if "all" in (methods, tasks)]
    if lost:
        err.print(broken_table(lost))
    options = _Options(seeds, upstream, budget, classifier, jobs, threads, device, results)
    _contest(protocol, registry, calls, entries, options, dry_run, as_json, quiet)
    if lost:
        raise typer.Exit(1)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check packages, devices, faiss, entries, disk; exit code 1 if trials cannot run."""
    from benchmark.doctor import examine, report

    checks = examine()
    typer.echo(json.dumps([vars(check) for check in checks], indent=1)) if as_json else report(
        checks
    )
    if any(check.status == "wrong" for check in checks):
        raise typer.Exit(1)


for command in publish.COMMANDS:
    app.command()(command)


@dataclass(frozen=True)
class _Options:
    """What ``run`` and ``sweep`` share, as it was typed."""

    seeds: str | None
    upstream: str | None
    budget: str | None
    classifier: str | None
    jobs: int | None
    threads: int
    device: str
    results: Path | None


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
    from benchmark import runner
    from benchmark.console import ProgressListener
    from benchmark.report import print_outcome, print_plan

    defaults = protocol.defaults
    folder = (options.results or results_folder(registry.root)).resolve()
    cells = runner.plan(
        registry,
        protocol,
        calls,
        tasks,
        _seeds(options.seeds) if options.seeds else defaults.seeds,
        options.upstream or defaults.upstream,
        options.budget or defaults.budget,
        _split(options.classifier) if options.classifier else defaults.classifiers,
    )
    if dry_run:
        print_plan(cells, folder, as_json)
        return
    engine = (options.jobs, options.threads, options.device)
    try:
        with ProgressListener(quiet or as_json) as listener:
            outcome = runner.run(cells, folder, listener, *engine)
    except KeyboardInterrupt:
        typer.echo("bench: interrupted; the same command continues what is left", err=True)
        raise typer.Exit(130) from None
    print_outcome(outcome, as_json)
    if any(record.status == "failed" for record in outcome.failed):
        raise typer.Exit(1)


def _load() -> tuple[Protocol, Registry]:
    root = find_root()
    protocol = load_protocol(root)
    return protocol, load_registry(root, protocol)


def _seeds(text: str) -> list[int]:
    """``"3"`` -> [0, 1, 2]; ``"0,4"`` -> [0, 4]; ``"7,"`` -> [7]."""
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part.strip()]
        else:
            seeds = list(range(int(text)))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise typer.BadParameter(
            f"--seeds {text!r}: give a count such as 5, or a list such as 0,1,7"
        )
    return seeds


def _split(text: str) -> list[str]:
    """Names separated by commas, but not by the commas inside ``name[a=1,b=2]``."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def main() -> None:
    """The console script: one message and an exit code instead of a traceback, where the fault
    is one the user can mend."""
    try:
        app(standalone_mode=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

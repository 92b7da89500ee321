"""``augbench.run``: one method on one task, as ``bench run`` does it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from augbench.results import Results


def run(
    method: str,
    task: str,
    *,
    upstream: str | None = None,
    budget: str | None = None,
    classifiers: Sequence[str] | None = None,
    splits: Sequence[int] | None = None,
    draws: Sequence[int] | None = None,
    trainings: Sequence[int] | None = None,
    jobs: int | None = None,
    threads: int = 1,
    device: str = "auto",
    folder: str | PathLike[str] | None = None,
    quiet: bool = False,
) -> Results:
    """Runs what is missing of one method on one task, with its control, and returns all of it.

    Args:
        method: ``name`` or ``name[key=value,...]``.
        task: as ``bench list`` shows it.
        upstream, budget, classifiers, splits, draws, trainings: what the contest is held under;
            None: as the task's card says, else as ``bench.toml`` does.
        jobs: worker processes; None: one per GPU, or per core.
        threads: CPU threads of each.
        device: auto, cpu, cuda, cuda:N or mps.
        folder: of the results; None: ``results/`` in the root.
        quiet: no progress on stderr.

    Returns:
        The rows of the method and of its control, those that failed too.

    Raises:
        benchmark.BenchError: an unknown name, a broken declaration, missing data, a full disk.
        KeyboardInterrupt: what is finished is kept; the same call continues what is left.
    """
    from benchmark.cli.console import ProgressListener
    from benchmark.home import find_root, results_folder
    from benchmark.protocol import load_protocol
    from benchmark.records.store import StoredRecord
    from benchmark.registry import load_registry
    from benchmark.run.engines.local import LocalEngine
    from benchmark.run.plan import Conditions, plan
    from benchmark.run.scheduler import run as run_plan

    root = find_root()
    protocol = load_protocol(root)
    registry = load_registry(root, protocol)
    conditions = Conditions(upstream, budget, classifiers, splits, draws, trainings)
    calls, tasks = [registry.call(method)], [registry.task(task)]
    cells = plan(registry, protocol, calls, tasks, conditions)
    results = Path(folder or results_folder(root)).resolve()
    with ProgressListener(quiet) as listener:
        engine = LocalEngine(jobs, device)
        outcome = run_plan(cells, results, listener, engine, threads, device)
    failed = [StoredRecord(record, results / "failures") for record in outcome.failed]
    return Results([*outcome.stored, *failed])

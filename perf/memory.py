"""Peak memory of every method, each in a process of its own.

Peak resident memory of the process during the augmentation stage: it includes the parts of the
upstream that the method uses, and not the classifiers. ``models`` is the resident memory just
before, so the difference is due to the method and the ledger.

    python perf/memory.py [--methods a b] [--budget S]
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmark.home import find_root
from benchmark.protocol import load_protocol
from benchmark.registry import load_registry


def measure(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table; to be called in a fresh process."""
    import psutil
    import torch

    from benchmark.errors import BenchError
    from benchmark.records.environment import environment
    from benchmark.trial import Seeds, Trial
    from benchmark.trial.augment import augment
    from benchmark.upstream import open_upstream

    torch.set_num_threads(options.threads)
    root = find_root()
    protocol = load_protocol(root)
    registry = load_registry(root, protocol)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, options.device)
    task, call = registry.task(options.task), registry.call(method)
    trial = Trial(task, call, name, options.budget, Seeds(0), protocol, root)
    upstream.load({"encoder", *call.method.facts.uses})  # the contamination check uses it
    where = environment(root, upstream.device, options.threads)
    models = psutil.Process().memory_info().rss / 1024**2
    try:
        facts = augment(trial, upstream, where, lambda *_: None).facts
    except BenchError as error:
        return {"method": method, "models": models, "note": str(error)}
    peaks = facts.model_dump(include={"peak_memory_mb", "peak_gpu_memory_mb"})
    return {"method": method, "models": models, **peaks, "note": facts.reason}


def main() -> None:
    options = _arguments()
    root = find_root()
    methods = options.methods or list(load_registry(root, load_protocol(root)).methods)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = list(pool.map(measure, methods, [options] * len(methods)))
    table = Table(title="Peak memory of the augmentation stage, MiB")
    table.add_column("method")
    for head in ("models", "peak", "on the GPU"):
        table.add_column(head, justify="right")
    table.add_column("")
    for row in rows:
        numbers = (row.get(key) for key in ("models", "peak_memory_mb", "peak_gpu_memory_mb"))
        cells = ["" if number is None else f"{number:.0f}" for number in numbers]
        table.add_row(row["method"], *cells, row["note"])
    Console(width=140).print(table)
    print(json.dumps({"memory": rows, **vars(options)}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--task", default="fashion-1shot")
    parser.add_argument("--budget", default="S")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()

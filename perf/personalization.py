"""Seconds to train tokens or conditioning of all classes together, against one run per class.

Every method that adapts tokens or conditioning is run once with all classes, and once for each
class alone with the same parameters (so the same steps per class) and a share of the TFLOPs. The
ratio is of seconds in the phase ``fit``. It can be compared where both spent the same NFE and
yielded as many images, so both are shown.

    python perf/personalization.py [--methods 'a[steps=20]'] [--classes 4]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from denoising import Run, run
from rich.console import Console
from rich.table import Table

from benchmark.contract import Shots
from benchmark.home import find_root
from benchmark.meter import Budget
from benchmark.protocol import load_protocol
from benchmark.registry import MethodCall, load_registry
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import budget_of
from benchmark.upstream import Upstream, open_upstream

ADAPTATIONS = ("token", "conditioning")


def of_classes(shots: Shots, labels: list[int]) -> Shots:
    """The shots restricted to some classes, which are renumbered."""
    rows = [row for label in labels for row in shots.rows(label)]
    return replace(
        shots,
        images=shots.images[rows],
        labels=np.array([labels.index(shots.labels[row]) for row in rows], np.int64),
        ids=tuple(shots.ids[row] for row in rows),
        classes=tuple(shots.classes[label] for label in labels),
    )


def measure(call: MethodCall, shots: Shots, upstream: Upstream, budget: Budget) -> dict[str, Any]:
    """One row of the table. A first run of each kind fills caches and is not counted."""
    count = len(shots.classes)
    share = replace(budget, tflops=budget.tflops / count)
    single = [of_classes(shots, [label]) for label in range(count)]
    run(call, single[0], upstream, share)
    run(call, shots, upstream, budget)
    separate = [run(call, one, upstream, share) for one in single]
    together = run(call, shots, upstream, budget)
    row = {
        "method": call.label,
        "classes": count,
        "together": _facts([together]),
        "separate": _facts(separate),
        "note": "; ".join(sorted({result.note for result in [together, *separate]} - {""})),
    }
    fast, slow = row["together"]["seconds"], row["separate"]["seconds"]
    return row | ({"ratio": slow / fast} if fast else {})


def _facts(runs: list[Run]) -> dict[str, float]:
    fits = [result.phase("fit") for result in runs]
    return {
        "seconds": sum(fit.seconds for fit in fits),
        "nfe": sum(fit.nfe for fit in fits),
        "tflops": sum(fit.tflops for fit in fits),
        "images": sum(len(result.images) for result in runs),
    }


def main() -> None:
    options = _arguments()
    torch.set_num_threads(options.threads)
    root = find_root()
    protocol = load_protocol(root)
    registry = load_registry(root, protocol)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, options.device)
    methods = registry.methods.items()
    adapting = [name for name, method in methods if method.facts.adaptation in ADAPTATIONS]
    calls = [registry.call(name) for name in options.methods or adapting]
    task = registry.task(options.task)
    trial = Trial(task, calls[0], name, options.budget, Seeds(0), protocol, root)
    shots = of_classes(trial.split.as_shots(), list(range(min(options.classes, len(task.classes)))))
    budget = replace(budget_of(trial, upstream), images_per_class=options.images_per_class)
    rows = []
    for call in calls:
        upstream.load(call.method.facts.uses)
        rows.append(measure(call, shots, upstream, budget))
    Console(width=140).print(_table(rows))
    print(json.dumps({"personalization": rows, **vars(options)}))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Phase fit: all classes together / one run per class")
    table.add_column("method")
    for head in ("classes", "seconds", "NFE", "TFLOPs", "images", "speed-up"):
        table.add_column(head, justify="right")
    table.add_column("")
    for row in rows:
        pairs = [(row["together"][unit], row["separate"][unit]) for unit in row["together"]]
        table.add_row(
            row["method"],
            str(row["classes"]),
            *[f"{one:.4g} / {other:.4g}" for one, other in pairs],
            f"{row['ratio']:.2f}" if "ratio" in row else "",
            row["note"],
        )
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", help="default: all of these adaptations")
    parser.add_argument("--task", default="fashion-5shot")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--budget", default="S", help="its TFLOPs, for all classes")
    parser.add_argument("--images-per-class", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()

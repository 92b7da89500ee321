"""NFE per second of every method that generates, against diffusers' own pipeline.

The plain calls have the method's batch size, image size, NFE per image and guidance. Methods are
taken from the registry. Training of the generator (the phase ``fit``) is shown separately, since a
training step is not a denoising step. A ratio below 1 is what the method does besides denoising.

    python perf/denoising.py [--methods a b] [--images-per-class 2]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from generation import plain_pipeline
from rich.console import Console
from rich.table import Table

from benchmark.contract import Provenance, Shots
from benchmark.errors import BudgetStop
from benchmark.home import find_root
from benchmark.meter import Budget, Meter, Spend
from benchmark.protocol import load_protocol
from benchmark.registry import MethodCall, load_registry
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import budget_of, seed_everything
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.generator import denoiser


@dataclass
class Run:
    """One method under a budget.

    Attributes:
        spent: by phase.
        images: provenance of the images that it yielded.
        batches: number of denoiser calls by batch size, outside of training.
        note: why it ended, where it did not end by itself.
    """

    spent: dict[str, Spend] = field(default_factory=dict)
    images: list[Provenance] = field(default_factory=list)
    batches: Counter[int] = field(default_factory=Counter)
    note: str = ""

    def phase(self, name: str) -> Spend:
        """Spend of a phase; zero where it was never entered."""
        return self.spent.get(name, Spend())


def run(call: MethodCall, shots: Shots, upstream: Upstream, budget: Budget) -> Run:
    """Run the method until it ends, reaches its number of images, or has spent its budget."""
    result, meter = Run(), Meter(budget, len(shots.classes))
    cap = budget.images_per_class * len(shots.classes)
    seed_everything(0)
    try:
        with upstream.metered(meter), meter.watching(), _counted(upstream, result.batches):
            rng = np.random.default_rng(0)
            for images in call.method.augment(shots, upstream, meter, rng, call.params) or ():
                result.images += images.provenance
                if len(result.images) >= cap:
                    break
    except BudgetStop as stop:
        result.note = f"stopped: {stop.unit}"
    except Exception as error:  # of any kind: the other methods are still measured
        result.note = f"{type(error).__name__}: {error}"
    result.spent = meter.spent()
    return result


@contextmanager
def _counted(upstream: Upstream, batches: Counter[int]) -> Iterator[None]:
    """Count the denoiser's calls by batch size. Calls of a copy that a method trains are counted
    too, but not while it is trained."""

    def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            inputs = [*args, *kwargs.values()]
            batches[next(len(x) for x in inputs if isinstance(x, torch.Tensor) and x.ndim)] += 1

    module = denoiser(upstream.generator.pipeline)
    handle = module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def plain(pipeline: Any, size: int, result: Run, seconds: float) -> dict[str, float]:
    """NFE per second of the pipeline called as the method called it: the better of two runs after
    a warm-up. A run makes as many calls as fit into ``seconds``, at least one."""
    image = next(image for image in result.images if image.nfe)
    guided = 2 if (image.guidance_scale or 0) > 1 else 1
    largest = max(result.batches, key=lambda rows: rows * result.batches[rows])
    batch, steps = max(1, largest // guided), max(1, image.nfe // guided)

    def call() -> float:
        started = time.perf_counter()
        pipeline(
            [image.prompt or ""] * batch, height=size, width=size, num_inference_steps=steps,
            guidance_scale=image.guidance_scale or 0, output_type="pt",
            generator=[torch.Generator().manual_seed(seed) for seed in range(batch)],
        )  # fmt: skip
        return time.perf_counter() - started

    calls = max(1, int(seconds / call()))
    best = min(sum(call() for _ in range(calls)) for _ in range(2))
    return {"batch": batch, "steps": steps, "rate": calls * batch * steps * guided / best}


def measure(
    call: MethodCall, shots: Shots, upstream: Upstream, budget: Budget, pipeline: Any
) -> dict[str, Any]:
    """One row of the table: the method's second run, since the first fills caches."""
    run(call, shots, upstream, budget)
    result = run(call, shots, upstream, budget)
    fit, generate = result.phase("fit"), result.phase("generate")
    facts: dict[str, Any] = {
        "method": call.label,
        "fit_nfe": fit.nfe,
        "fit_seconds": fit.seconds,
        "nfe": generate.nfe,
        "seconds": generate.seconds,
        "note": result.note,
    }
    if not generate.nfe or not any(image.nfe for image in result.images):
        return facts | {"note": result.note or "no generated image"}
    reference = plain(pipeline, upstream.generator.size, result, generate.seconds)
    rate = generate.nfe / generate.seconds
    return facts | {"rate": rate, "plain": reference, "ratio": rate / reference["rate"]}


def main() -> None:
    options = _arguments()
    torch.set_num_threads(options.threads)
    root = find_root()
    protocol = load_protocol(root)
    registry = load_registry(root, protocol)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, options.device)
    generating = [
        name for name, method in registry.methods.items() if "generator" in method.facts.uses
    ]
    calls = [registry.call(name) for name in options.methods or generating]
    task = registry.task(options.task)
    trial = Trial(task, calls[0], name, options.budget, Seeds(0), protocol, root)
    shots, declared = trial.split.as_shots(), budget_of(trial, upstream)
    budget = replace(
        declared,
        images_per_class=options.images_per_class,
        tflops=declared.tflops * options.share,
    )
    own = upstream.generator.pipeline
    pipeline = plain_pipeline(
        str(root / upstream.spec.generator.model), upstream.generator.device, own.dtype
    )
    rows = []
    for call in calls:
        upstream.load(call.method.facts.uses)
        rows.append(measure(call, shots, upstream, budget, pipeline))
    Console(width=140).print(_table(rows))
    print(json.dumps({"denoising": rows, **vars(options)}))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="NFE per second, and as a share of diffusers' own pipeline")
    heads = ("fit NFE", "fit s", "generate NFE", "generate s", "batch", "NFE/s", "plain", "ratio")
    table.add_column("method")
    for head in heads:
        table.add_column(head, justify="right")
    table.add_column("")
    for row in rows:
        reference = row.get("plain", {})
        table.add_row(
            row["method"],
            f"{row['fit_nfe']}",
            f"{row['fit_seconds']:.2f}",
            f"{row['nfe']}",
            f"{row['seconds']:.2f}",
            *([f"{reference['batch']}", f"{row['rate']:.0f}", f"{reference['rate']:.0f}"]
              if reference else ["", "", ""]),
            f"{row['ratio']:.2f}" if reference else "",
            row["note"],
        )  # fmt: skip
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", help="default: all that use the generator")
    parser.add_argument("--task", default="fashion-1shot")
    parser.add_argument("--budget", default="S", help="its TFLOPs")
    parser.add_argument("--share", type=float, default=0.25, help="of its TFLOPs")
    parser.add_argument("--images-per-class", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()

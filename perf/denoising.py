"""NFE per second of every method that generates, against diffusers' own pipeline.

The plain calls have the method's batch size, image size, NFE per image and guidance. Methods are
found in the registry; what training the generator takes (the phase ``fit``) is shown apart, since
a training step is no denoising step. Ratios below 1 are what the method does beside denoising.

    python perf/denoising.py [--methods a b] [--images-per-class 2]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from generation import plain_pipeline
from rich.console import Console
from rich.table import Table

from benchmark.contract import Provenance, Shots
from benchmark.data.split import load_split
from benchmark.errors import BudgetStop
from benchmark.home import find_root
from benchmark.meter import Meter, Spend
from benchmark.protocol import BudgetSpec, load_protocol
from benchmark.registry import MethodCall, load_registry
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.generator import denoiser


@dataclass
class Run:
    """One method under a budget: what it spent by phase, what it yielded, and how many rows its
    denoiser was given at a time outside of training."""

    spent: dict[str, Spend] = field(default_factory=dict)
    images: list[Provenance] = field(default_factory=list)
    rows: Counter[int] = field(default_factory=Counter)
    note: str = ""

    def phase(self, name: str) -> Spend:
        """What a phase took, nothing where it was never entered."""
        return self.spent.get(name, Spend())


def run(call: MethodCall, shots: Shots, upstream: Upstream, budget: BudgetSpec) -> Run:
    """Lets the method work until it ends, has its images, or has spent its budget."""
    made, meter = Run(), Meter(budget, len(shots.classes))
    wanted = budget.images_per_class * len(shots.classes)
    torch.manual_seed(0)
    try:
        with upstream.metered(meter), meter.alarm(), _counted(upstream, made.rows):
            rng = np.random.default_rng(0)
            for images in call.method.augment(shots, upstream, meter, rng, call.params) or ():
                made.images += images.provenance
                if len(made.images) >= wanted:
                    break
    except BudgetStop as stop:
        made.note = f"stopped: {stop.unit}"
    except Exception as error:  # whatever it is, the other methods are measured
        made.note = f"{type(error).__name__}: {error}"
    made.spent = meter.spent()
    return made


@contextmanager
def _counted(upstream: Upstream, rows: Counter[int]) -> Iterator[None]:
    """Counts the denoiser's calls by their rows; a copy of it that a method trains is counted,
    too, but not while it is trained."""

    def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            inputs = [*args, *kwargs.values()]
            rows[next(len(x) for x in inputs if isinstance(x, torch.Tensor) and x.ndim)] += 1

    module = denoiser(upstream.generator.pipeline)
    handle = module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def plain(pipeline: Any, size: int, made: Run, seconds: float) -> dict[str, float]:
    """NFE per second of the pipeline called as the method called it, the better of two runs
    after one to warm up. A run takes as many calls as fill ``seconds``, at least one."""
    image = next(told for told in made.images if told.nfe)
    guided = 2 if (image.guidance_scale or 0) > 1 else 1
    rows = max(made.rows, key=lambda count: count * made.rows[count])
    batch, steps = max(1, rows // guided), max(1, image.nfe // guided)

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
    call: MethodCall, shots: Shots, upstream: Upstream, budget: BudgetSpec, pipeline: Any
) -> dict[str, Any]:
    """One row of the table; the method's second run counts, the first fills caches."""
    run(call, shots, upstream, budget)
    made = run(call, shots, upstream, budget)
    fit, generate = made.phase("fit"), made.phase("generate")
    facts: dict[str, Any] = {
        "method": call.label,
        "fit_nfe": fit.nfe,
        "fit_seconds": fit.seconds,
        "nfe": generate.nfe,
        "seconds": generate.seconds,
        "note": made.note,
    }
    if not generate.nfe or not any(told.nfe for told in made.images):
        return facts | {"note": made.note or "no generated image"}
    beside = plain(pipeline, upstream.generator.size, made, generate.seconds)
    rate = generate.nfe / generate.seconds
    return facts | {"rate": rate, "plain": beside, "ratio": rate / beside["rate"]}


def main() -> None:
    options = _arguments()
    torch.set_num_threads(options.threads)
    root = find_root()
    protocol = load_protocol(root)
    registry = load_registry(root, protocol)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, options.device)
    found = [name for name, method in registry.methods.items() if "generator" in method.facts.uses]
    calls = [registry.call(name) for name in options.methods or found]
    shots = load_split(registry.task(options.task), 0, root).as_shots()
    declared = protocol.budget_named(options.budget)
    budget = declared.model_copy(
        update={
            "images_per_class": options.images_per_class,
            "tflops": declared.tflops * options.share,
            "seconds": options.seconds,
        }
    )
    own = upstream.generator.pipeline
    pipeline = plain_pipeline(
        str(root / upstream.spec.generator.model), upstream.generator.device, own.dtype
    )
    rows = []
    for call in calls:
        for part in call.method.facts.uses:
            getattr(upstream, part)
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
        beside = row.get("plain", {})
        table.add_row(
            row["method"],
            f"{row['fit_nfe']}",
            f"{row['fit_seconds']:.2f}",
            f"{row['nfe']}",
            f"{row['seconds']:.2f}",
            *([f"{beside['batch']}", f"{row['rate']:.0f}", f"{beside['rate']:.0f}"]
              if beside else ["", "", ""]),
            f"{row['ratio']:.2f}" if beside else "",
            row["note"],
        )  # fmt: skip
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", help="default: all that use the generator")
    parser.add_argument("--task", default="fashion-1shot")
    parser.add_argument("--budget", default="S", help="its TFLOPs and NFE")
    parser.add_argument("--share", type=float, default=0.25, help="of its TFLOPs")
    parser.add_argument("--images-per-class", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120.0, help="most that a run may take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Overhead of the harness: the share of a trial that is not spent in model calls, and its peak
memory. Targets: under 5 % of the trial, under 3 GiB.

A model call is a forward pass of an outermost module, its loss, a backward pass, an optimizer
step, the training of a linear probe (which is not a module), or a search of the index. Everything
else is overhead: counting FLOPs, train-time augmentation, schedulers, decoding, hashing,
contamination, ledger, files. A trial is measured when those before it have filled the caches.

On a CPU the share is of CPU time, which does not depend on what else the machine does; waiting for
a disk is not in it. On a GPU it is of wall-clock time, and every model call waits for its kernels,
so that their time is counted as its own.

    python perf/overhead.py [--task fashion-5shot] [--budget S] [--methods a,b] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmark import flops
from benchmark.classify import _training, probe
from benchmark.home import find_root
from benchmark.images import decode, encode_png
from benchmark.meter import Meter
from benchmark.protocol import load_protocol
from benchmark.records.environment import environment
from benchmark.records.store import Store
from benchmark.registry import load_registry
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import augment
from benchmark.trial.evaluate import evaluate
from benchmark.upstream import Upstream, open_upstream


class ModelClock:
    """Seconds inside model calls, without what the harness does inside them.

    Attributes:
        now: CPU time of the process, or wall-clock time where models run on another device.
        seconds: so far.
    """

    def __init__(self, device: str) -> None:
        self.on_gpu = device.startswith("cuda")
        self.now = time.process_time if device == "cpu" else time.perf_counter
        self.seconds, self._since = 0.0, 0.0
        self._inside = [False]  # innermost last: whether it is a model
        self._restore: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, name: str, is_model: bool = True) -> None:
        """Count ``owner.name`` as a model, or as the harness, until the clock is closed."""
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside[-1] == is_model:
                return original(*args, **kwargs)
            self._tick()
            self._inside.append(is_model)
            try:
                return original(*args, **kwargs)
            finally:
                self._tick()
                self._inside.pop()

        setattr(owner, name, call)
        self._restore.append((owner, name, original))

    def _tick(self) -> None:
        if self._inside[-1]:
            if self.on_gpu:
                torch.cuda.synchronize()
            self.seconds += self.now() - self._since
        self._since = self.now()

    def __enter__(self) -> ModelClock:
        self.wrap(torch.nn.Module, "__call__")
        self.wrap(torch.Tensor, "backward")
        self.wrap(_training, "target_loss")
        self.wrap(probe, "train_probes")
        for optimizer in (torch.optim.AdamW, torch.optim.SGD):
            self.wrap(optimizer, "step")
        self.wrap(flops, "count_flops", is_model=False)
        self.wrap(Meter, "charge", is_model=False)
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, original in reversed(self._restore):
            setattr(owner, name, original)


def measure(trial: Trial, classifiers: list[str], upstream: Upstream) -> dict[str, float]:
    """Both stages of one trial, by way of a temporary folder, as a worker runs them."""
    where = environment(trial.root, upstream.device, torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder, ModelClock(upstream.device) as clock:
        clock.wrap(upstream.index, "search")
        store, started, wall = Store(Path(folder)), clock.now(), time.perf_counter()
        fresh = replace(trial)  # every stage computes the hashes of its trial
        made = augment(fresh, upstream, where, lambda *_: None)
        store.write_augmented(fresh.place, made, encode_png)
        for name in classifiers:
            fresh = replace(trial)
            stored, record_id = store.read_augmented(fresh.place, decode), fresh.record_id(name)
            record, table = evaluate(fresh, name, stored, upstream, record_id, lambda *_: None)
            store.write_record(fresh.place, record, table)
        spent = {"seconds": clock.now() - started, "wall": time.perf_counter() - wall}
    return spent | {"models": clock.seconds, "peak_mb": made.facts.peak_memory_mb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="fashion-5shot")
    parser.add_argument("--budget", default="S")
    parser.add_argument("--methods", default="retrieve_text,prompt_simple")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = find_root()
    protocol = load_protocol(root)
    registry = load_registry(root, protocol)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, options.device)
    upstream.load(("corpus", "encoder", "index", "generator"))
    overhead = {}
    for method in options.methods.split(","):
        call, task = registry.call(method), registry.task(options.task)
        trial = Trial(task, call, name, options.budget, Seeds(0), protocol, root)
        measure(trial, protocol.defaults.classifiers, upstream)  # fills caches: FLOP counts, splits
        spent = measure(trial, protocol.defaults.classifiers, upstream)
        share = 1 - spent["models"] / spent["seconds"]
        overhead[method] = {"overhead": round(share, 4), **spent}
        print(
            f"{method:20} {spent['seconds']:6.2f} s, models {spent['models']:6.2f} s, "
            f"overhead {share:.1%}, peak {spent['peak_mb'] / 1024:.2f} GiB"
        )
    print(json.dumps({"overhead": overhead}))


if __name__ == "__main__":
    main()

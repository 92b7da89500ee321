"""Overhead of the harness: the share of a trial that is not spent in model calls, and its peak
memory. Targets: under 5 % of the trial, under 3 GiB.

A model call is a forward pass of an outermost module, its loss, a backward pass, an optimizer
step, the training of a linear probe (which is not a module), or a search of the index. Everything
else is overhead: train-time augmentation, schedulers, decoding, hashing, contamination, ledger,
files. On a GPU every model call waits for its kernels, so that their time is counted as its own.

    python perf/overhead.py [--task fashion-5shot] [--budget S] [--methods a,b] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmark.classify import _training, probe
from benchmark.home import find_root
from benchmark.images import encode_png
from benchmark.protocol import load_protocol
from benchmark.records.environment import environment
from benchmark.records.store import Store
from benchmark.registry import load_registry
from benchmark.trial import Trial
from benchmark.trial.augment import augment
from benchmark.trial.evaluate import classify
from benchmark.upstream import open_upstream


class ModelClock:
    """Seconds inside model calls; nested calls are counted once."""

    def __init__(self) -> None:
        self.seconds, self.depth, self.restore = 0.0, 0, []

    def timed(self, owner: Any, name: str) -> None:
        """Wrap ``owner.name`` until the clock is closed."""
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:
                    if torch.cuda.is_available():
                        torch.cuda.synchronize()
                    self.seconds += time.perf_counter() - started

        setattr(owner, name, call)
        self.restore.append((owner, name, original))

    def __enter__(self) -> ModelClock:
        self.timed(torch.nn.Module, "__call__")
        self.timed(torch.Tensor, "backward")
        self.timed(_training, "target_loss")
        self.timed(probe, "train_probes")
        for optimizer in (torch.optim.AdamW, torch.optim.SGD):
            self.timed(optimizer, "step")
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, original in self.restore:
            setattr(owner, name, original)


def measure(trial: Trial, classifiers: list[str], upstream: Any) -> dict[str, float]:
    """Both stages of one trial, written to a temporary folder."""
    facts = environment(trial.root, upstream.device, torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder, ModelClock() as clock:
        clock.timed(upstream.index, "search")
        store, started = Store(Path(folder)), time.perf_counter()
        augmented = augment(trial, upstream, facts.model_dump(mode="json"), lambda *_: None)
        store.write_augmented(Path(folder) / "t", augmented, encode_png)
        for name in classifiers:
            record, table = classify(
                trial, name, augmented, upstream, trial.record_id(name), lambda *_: None
            )
            store.write_record(Path(folder) / "t", record, table)
        seconds = time.perf_counter() - started
    peak_mb = augmented.facts["peak_memory_mb"]
    return {"seconds": seconds, "models": clock.seconds, "peak_mb": peak_mb}


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
    upstream = open_upstream(name, protocol.pick("upstream", name), root, options.device)
    for part in ("corpus", "encoder", "index", "generator"):
        getattr(upstream, part)
    overhead = {}
    for method in options.methods.split(","):
        call, task = registry.call(method), registry.task(options.task)
        trial = Trial(task, call, name, options.budget, 0, protocol, root)
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

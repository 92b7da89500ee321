"""Does a method that trains the generator learn? The denoising loss of held-out images, before and
after training.

    python docs/scripts/adaptation.py [--task fashion-5shot] [--budget S] [--seed 100] [METHOD ...]

A METHOD may have parameters: ``dreambooth[lr=1e-5]``. It is run up to the point where it would
generate. There the loss is measured on unused training images of the task (no method saw them, and
none is a test image), with the conditioning that the method made for their class and with that of
another class. Default learning rates and numbers of steps were chosen by the first of these losses,
on splits that no published record uses.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmark.contract import Shots
from benchmark.home import find_root
from benchmark.meter import Budget, Meter
from benchmark.protocol import load_protocol
from benchmark.registry import MethodCall, load_registry
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import budget_of, seed_everything
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.conditioning import Conditioning
from benchmark.upstream.generator import Generator
from benchmark.upstream.training import denoising_loss


@dataclass(frozen=True)
class HeldOut:
    """Mean denoising loss of held-out images, and what the training cost.

    Attributes:
        own: with the conditioning of their class.
        other: with the conditioning of the next class.
        plain: with their class prompt, by the untrained generator.
        tflops: of the training.
        seconds: of the training.
    """

    own: float
    other: float
    plain: float
    tflops: float
    seconds: float


class _Trained(Exception):
    """Raised where the method has trained and begins to generate."""


def held_out(
    call: MethodCall,
    shots: Shots,
    upstream: Upstream,
    budget: Budget,
    seed: int = 0,
    per_class: int = 8,
) -> HeldOut:
    """Run a method up to its first image and measure what it has learned.

    Args:
        shots: with the unused training images, which are held out: the method does not see them.
        per_class: held-out images of each class, each at 8 noise levels.
    """
    generator, unused = upstream.generator, shots.real()
    rows = [row for label in range(len(shots.classes)) for row in unused.rows(label)[:per_class]]
    labels_held = unused.labels[rows]
    latents = generator.encode(unused.images[rows])
    losses: list[float] = []

    def measure(prompts, labels, conditioning=None, **_) -> None:
        label_of = [int(np.argmax(label)) if np.ndim(label) else int(label) for label in labels]
        first = [label_of.index(label) for label in range(len(shots.classes))]
        if conditioning is None:
            of_class = generator.condition([prompts[row] for row in first])
        else:
            of_class = conditioning.rows(first)
        losses.append(_loss(generator, latents, of_class.rows(labels_held)))
        losses.append(_loss(generator, latents, of_class.rows((labels_held + 1) % len(first))))
        raise _Trained

    plain = generator.condition([entry.prompts[0] for entry in shots.classes])
    before = _loss(generator, latents, plain.rows(labels_held))
    meter = Meter(budget, len(shots.classes))
    seed_everything(seed)
    started = time.perf_counter()
    rng, seen = np.random.default_rng(seed), replace(shots, unused=None)
    with (
        upstream.metered(meter),
        _intercepted(generator, "text_to_image", meter, measure),
        _intercepted(generator, "image_to_image", meter, measure),
        suppress(_Trained),
    ):
        list(call.method.augment(seen, upstream, meter, rng, call.params))
    own, other = losses
    spent = meter.spent()["fit"]
    return HeldOut(own, other, before, spent.tflops, time.perf_counter() - started)


def _loss(generator: Generator, latents: Tensor, conditions: Conditioning) -> float:
    """Mean over the images and 8 noise levels; the same noise and levels every time."""
    rng = np.random.default_rng(0)
    levels = generator.noise_scheduler.config.num_train_timesteps
    total = 0.0
    with torch.no_grad():
        for level in range(8):
            timesteps = torch.full((len(latents),), (2 * level + 1) * levels // 16)
            each = denoising_loss(generator, latents, conditions, rng, timesteps=timesteps)
            total += float(each.mean()) / 8
    return total


@contextmanager
def _intercepted(generator: Any, name: str, meter: Meter, measure: Any) -> Iterator[None]:
    """Call ``measure`` instead of ``generator.<name>``, except in phase ``fit``, where a method
    generates images to train on."""
    original = getattr(generator, name)
    signature = inspect.signature(original)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        if meter.current != "fit":
            measure(**signature.bind(*args, **kwargs).arguments)
        return original(*args, **kwargs)

    setattr(generator, name, replacement)
    try:
        yield
    finally:
        delattr(generator, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="default: all that train the generator")
    parser.add_argument("--task", default="fashion-5shot")
    parser.add_argument("--budget", default="S")
    parser.add_argument("--seed", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = find_root()
    protocol, registry = load_protocol(root), load_registry(root)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, "cpu")
    trained = [name for name, m in registry.methods.items() if m.facts.adaptation != "none"]
    task = registry.task(options.task)
    calls = [registry.call(text) for text in options.methods or trained]
    seeds = Seeds(options.seed, options.seed, options.seed)
    table = Table(title=f"Held-out denoising loss, {options.task}, tier {options.budget}")
    for title in ("method", "plain", "own", "gain %", "other", "TFLOPs", "seconds"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for call in calls:
        trial = Trial(task, call, name, options.budget, seeds, protocol, root)
        shots, budget = trial.split.as_shots(with_unused=True), budget_of(trial, upstream)
        loss = held_out(call, shots, upstream, budget, options.seed)
        gain = 100 * (1 - loss.own / loss.plain)
        values = [loss.plain, loss.own, gain, loss.other, loss.tflops]
        row = [call.label, *(f"{value:.4f}" for value in values), f"{loss.seconds:.1f}"]
        table.add_row(*row)
        print(*row, flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()

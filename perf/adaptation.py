"""Does personalization learn? The denoising loss of held-out images, before and after.

    python perf/adaptation.py [--task fashion-5shot] [--budget S] [--seed 100] [method[lr=...] ...]

For every method that trains a part of the generator: it is run up to the point where it would
generate, and there the task's unused training images (no method saw them, none is a test image) are
noised and denoised under the conditioning that the method made for their class, and under that of
another class. The defaults of learning rates and steps were chosen by the first
of these numbers, on splits that no published record uses.
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
from benchmark.data.split import load_split
from benchmark.home import find_root
from benchmark.meter import Budget, Meter
from benchmark.protocol import load_protocol
from benchmark.registry import MethodCall, load_registry
from benchmark.trial.augment import seed_everything
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.conditioning import Conditioning
from benchmark.upstream.generator import Generator
from benchmark.upstream.training import denoising_loss


@dataclass(frozen=True)
class HeldOut:
    """Mean denoising loss of held-out images, and what was spent to get there.

    Attributes:
        own: under the condition of their class.
        other: under the condition of the next class.
        plain: under their class prompt, by the generator as it is.
        tflops: of the fit.
        seconds: of the fit.
    """

    own: float
    other: float
    plain: float
    tflops: float
    seconds: float


class _Reached(Exception):
    """The method has trained and wants to generate."""


def held_out(
    call: MethodCall,
    shots: Shots,
    upstream: Upstream,
    budget: Budget,
    seed: int = 0,
    per_class: int = 8,
) -> HeldOut:
    """Runs a method up to its first image and measures what it has learned.

    Args:
        shots: with the unused training images, which the method does not see.
        per_class: held-out images of each class, each at 8 noise levels.
    """
    generator, unused = upstream.generator, shots.real()
    rows = [row for label in range(len(shots.classes)) for row in unused.rows(label)[:per_class]]
    labels_held = unused.labels[rows]
    latents = generator.encode(unused.images[rows])
    found: list[float] = []

    def reached(prompts, labels, conditioning=None, **_) -> None:
        label_of = [int(np.argmax(label)) if np.ndim(label) else int(label) for label in labels]
        first = [label_of.index(label) for label in range(len(shots.classes))]
        told = generator.condition([prompts[place] for place in first])
        if conditioning is not None:
            told = conditioning.rows(first)
        found.append(_loss(generator, latents, told.rows(labels_held)))
        found.append(_loss(generator, latents, told.rows((labels_held + 1) % len(first))))
        raise _Reached

    plain = generator.condition([entry.prompts[0] for entry in shots.classes])
    before = _loss(generator, latents, plain.rows(labels_held))
    meter = Meter(budget, len(shots.classes))
    seed_everything(seed)
    started = time.perf_counter()
    rng, seen = np.random.default_rng(seed), replace(shots, unused=None)
    with (
        upstream.metered(meter),
        _intercepted(generator, "text_to_image", meter, reached),
        _intercepted(generator, "image_to_image", meter, reached),
        suppress(_Reached),
    ):
        list(call.method.augment(seen, upstream, meter, rng, call.params))
    spent = meter.spent()["fit"]
    return HeldOut(found[0], found[1], before, spent.tflops, time.perf_counter() - started)


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
def _intercepted(generator: Any, name: str, meter: Meter, reached: Any) -> Iterator[None]:
    """``reached`` is called where a method generates its images; what it generates to train on
    (phase ``fit``) is generated."""
    real = getattr(generator, name)
    given = inspect.signature(real)

    def called(*args: Any, **kwargs: Any) -> Any:
        if meter.current != "fit":
            reached(**given.bind(*args, **kwargs).arguments)
        return real(*args, **kwargs)

    setattr(generator, name, called)
    try:
        yield
    finally:
        delattr(generator, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="default: all that train and then prompt")
    parser.add_argument("--task", default="fashion-5shot")
    parser.add_argument("--budget", default="S")
    parser.add_argument("--seed", type=int, default=100)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    root = find_root()
    protocol, registry = load_protocol(root), load_registry(root)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, "cpu")
    shots = load_split(registry.task(asked.task), asked.seed, root).as_shots(with_unused=True)
    tier = protocol.budget_named(asked.budget)
    plain = upstream.generator.estimate_tflops(tier.images_per_class * len(shots.classes))
    budget = Budget(tier.images_per_class, tier.compute * plain)
    trained = [name for name, m in registry.methods.items() if m.facts.adaptation != "none"]
    table = Table(title=f"Held-out denoising loss, {asked.task}, tier {asked.budget}")
    for title in ("method", "plain", "own", "gain %", "other", "TFLOPs", "seconds"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for text in asked.methods or trained:
        call = registry.call(text)
        got = held_out(call, shots, upstream, budget, asked.seed)
        row = [got.plain, got.own, 100 * (1 - got.own / got.plain), got.other, got.tflops]
        table.add_row(text, *(f"{value:.4f}" for value in row), f"{got.seconds:.1f}")
        print(text, *(f"{value:.4f}" for value in row), f"{got.seconds:.1f}", flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()

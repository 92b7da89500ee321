"""What a trial does with a method, in small: a budget, a few shots, one run."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.contract import Params, Shots
from benchmark.data.split import Split, load_split
from benchmark.errors import BudgetStop
from benchmark.meter import Budget, Meter
from benchmark.registry import Method, load_registry
from benchmark.trial.augment import seed_everything
from benchmark.trial.ledger import Ledger
from benchmark.upstream import Upstream

PER_CLASS = 2  # images that a run may add


def budget(images_per_class: int = 2, tflops: float = 100) -> Budget:
    """Caps that a small trial does not reach, unless they are given."""
    return Budget(images_per_class, tflops)


def fashion(root: Path, seed: int = 0) -> Shots:
    """One shot of each of ten classes of clothes."""
    return load_split(load_registry(root).task("fashion-1shot"), seed, root).as_shots()


def of_classes(shots: Shots, chosen: range) -> Shots:
    """The shots, and unused images, of a range of classes alone: fewer to compute."""

    def cut(part: Shots) -> Shots:
        rows = np.flatnonzero(np.isin(part.labels, chosen))
        return replace(
            part,
            images=part.images[rows],
            labels=part.labels[rows] - chosen.start,
            ids=tuple(part.ids[row] for row in rows),
            classes=part.classes[chosen.start : chosen.stop],
        )

    unused = cut(shots.unused) if shots.unused is not None else None
    return replace(cut(shots), unused=unused)


def quick(method: Method) -> Params:
    """Parameters with every number of steps, and of neighbours to learn from, at 2."""
    ends = ("steps", "neighbours")
    steps = [name for name in method.params.model_fields if name.split("_")[-1] in ends]
    return method.params(**dict.fromkeys(steps, 2))


def shots_for(method: Method, split: Split) -> Shots:
    """What a trial gives the method: by its facts no images, or the unused ones too."""
    oracle = method.facts.family == "oracle"
    return split.as_shots(method.facts.uses_shots, with_unused=oracle)


def run_method(
    method: Method,
    upstream: Upstream,
    split: Split,
    seed: int,
    shots: Shots | None = None,
    params: Params | None = None,
    tflops: float | None = None,
) -> tuple[Ledger, Meter]:
    """What a trial does with a method: ledger and meter afterwards. A method may be stopped where
    ``tflops`` are given, and nowhere else. Default: the ``quick`` parameters."""
    seed_everything(seed)
    caps = budget(PER_CLASS) if tflops is None else budget(PER_CLASS, tflops)
    meter = Meter(caps, len(split.task.classes))
    ledger = Ledger(method.name, split, meter.budget, method.facts.filters)
    shots = shots or shots_for(method, split)
    given = fingerprint(shots)
    with upstream.metered(meter), nullcontext() if tflops is None else suppress(BudgetStop):
        rng = np.random.default_rng(seed)
        made = method.augment(shots, upstream, meter, rng, params or quick(method))
        for images in made:
            ledger.add(images)
            if ledger.full:
                made.close()
                break
    assert fingerprint(shots) == given, "the method changed its shots"
    return ledger, meter


def fingerprint(shots: Shots) -> str:
    """A hash of all images and labels."""
    arrays = [shots.images, shots.labels, *([shots.unused.images] if shots.unused else [])]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

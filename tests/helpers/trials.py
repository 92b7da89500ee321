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
from benchmark.meter import Meter
from benchmark.protocol import BudgetSpec
from benchmark.registry import Method, load_registry
from benchmark.trial.augment import seed_everything
from benchmark.trial.ledger import Ledger
from benchmark.upstream import Upstream

PER_CLASS = 2  # images that a run may add


def budget(images_per_class: int = 2, **caps: float) -> BudgetSpec:
    """Caps that a small trial does not reach, unless they are given."""
    return BudgetSpec(
        **{"images_per_class": images_per_class, "tflops": 100, "nfe": 10**6, "seconds": 600} | caps
    )


def fashion(root: Path, seed: int = 0, with_reserve: bool = False) -> Shots:
    """One shot of each of ten classes of clothes."""
    return load_split(load_registry(root).task("fashion-1shot"), seed, root).as_shots(with_reserve)


def of_classes(shots: Shots, chosen: range) -> Shots:
    """The shots, and their reserve, of a range of classes alone: fewer to compute."""

    def cut(part: Shots) -> Shots:
        rows = np.flatnonzero(np.isin(part.labels, chosen))
        return replace(
            part,
            images=part.images[rows],
            labels=part.labels[rows] - chosen.start,
            ids=tuple(part.ids[row] for row in rows),
            classes=part.classes[chosen.start : chosen.stop],
        )

    reserve = cut(shots.reserve) if shots.reserve is not None else None
    return replace(cut(shots), reserve=reserve)


def quick(method: Method) -> Params:
    """Parameters with every number of steps, and of neighbours to learn from, at 2."""
    ends = ("steps", "neighbours")
    steps = [name for name in method.params.model_fields if name.split("_")[-1] in ends]
    return method.params(**dict.fromkeys(steps, 2))


def run_method(
    method: Method,
    upstream: Upstream,
    split: Split,
    seed: int,
    shots: Shots | None = None,
    params: Params | None = None,
    **caps: float,
) -> tuple[Ledger, Meter]:
    """What a trial does with a method: ledger and meter afterwards. A method may be stopped where
    ``caps`` are given, and nowhere else. Default: the ``quick`` parameters."""
    seed_everything(seed)
    meter = Meter(budget(PER_CLASS, **caps), len(split.task.classes))
    ledger = Ledger(method.name, split, meter.budget, method.facts.filters)
    shots = shots or split.as_shots(with_reserve=method.facts.family == "oracle")
    given = fingerprint(shots)
    with upstream.metered(meter), suppress(BudgetStop) if caps else nullcontext():
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
    """A hash of all images and labels, read past ``__getattribute__``: a test may watch it."""
    given = vars(shots)["images"]
    arrays = [given, shots.labels, *([shots.reserve.images] if shots.reserve else [])]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

"""Which recipe shall a classifier have? Candidates are judged without test images.

The images that judge are those of the training pool that a split leaves in reserve, on seeds that
no published record uses; the split's own test images are replaced by them before anything runs,
so none can be read. A candidate's score is its mean over methods (nothing added, retrieved
images, generated images: each counts the same), tasks and seeds.

The rule, fixed beforehand: of a grid at the fewest steps the best is taken, then the fewest steps
that come within half a point of the most. Every trial of every user pays for steps.

    python perf/recipes.py --classifier linear-probe --seeds 100 101
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmark.classify import train
from benchmark.data.split import Split, TestSplit, load_split
from benchmark.home import find_root
from benchmark.protocol import Protocol, load_protocol
from benchmark.records.store import Augmented
from benchmark.registry import load_registry
from benchmark.trial import Trial
from benchmark.trial.augment import augment
from benchmark.trial.evaluate import score
from benchmark.upstream import Upstream, open_upstream

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "resnet-scratch": {"lr": (3e-3, 1e-2), "weight_decay": (0.05, 0.2)},
    "linear-probe": {"lr": (3e-3, 1e-2, 3e-2), "label_smoothing": (0.0, 0.1)},
}
STEPS = (200, 300, 400)
CLOSE = 0.005  # of accuracy: what more steps must be worth

Candidate = tuple[tuple[str, float], ...]  # what it changes of the declared recipe


class OnReserve(Trial):
    """A trial whose test images are the reserve of its split."""

    @cached_property
    def split(self) -> Split:
        drawn = load_split(self.task, self.seed, self.root)
        return replace(drawn, test=TestSplit(drawn.unused), unused=drawn.unused.select([]))


@dataclass
class Judge:
    """Scores of candidates; each is trained once, on images made once."""

    classifier: str
    protocol: Protocol
    trials: list[tuple[Trial, Augmented]]
    upstream: Upstream
    scores: dict[Candidate, np.ndarray] = field(default_factory=dict)  # [trials] in 0..1
    seconds: dict[Candidate, float] = field(default_factory=dict)  # mean of one training

    def score(self, candidate: Candidate) -> float:
        """Mean over the trials, which are as many for every method and task."""
        if candidate not in self.scores:
            found = [self._judged(candidate, *pair) for pair in self.trials]
            self.scores[candidate] = np.array([value for value, _ in found])
            self.seconds[candidate] = float(np.mean([seconds for _, seconds in found]))
            print(f"{label(candidate)}: {self.scores[candidate].mean():.4f}", flush=True)
        return float(self.scores[candidate].mean())

    def _judged(self, candidate: Candidate, trial: Trial, made: Augmented) -> tuple[float, float]:
        """The task's metric on the reserve, and seconds of the training."""
        declared = self.protocol.classifier_named(self.classifier)
        recipe = type(declared).model_validate(declared.model_dump() | dict(candidate))
        added = made.pixels, made.targets(len(trial.task.classes))
        split = trial.split.fresh()
        judged = train(recipe, split, added, self.upstream, trial.seed, self.upstream.device)
        test, predicted = split.test, judged.predictions
        table = pd.DataFrame({"id": test.ids, "label": test.labels, "prediction": predicted})
        return score(table, trial, made.flagged["test_id"])["value"], judged.seconds

    def choose(self) -> Candidate:
        """By the rule above."""
        grid = GRIDS[self.classifier]
        few = [
            (*zip(grid, values, strict=True), ("steps", STEPS[0]))
            for values in product(*grid.values())
        ]
        best = max(few, key=self.score)
        longer = [(*best[:-1], ("steps", steps)) for steps in STEPS]
        most = max(map(self.score, longer))
        return next(one for one in longer if self.score(one) >= most - CLOSE)

    def table(self, chosen: Candidate) -> Table:
        """Points of accuracy; the difference to the chosen is paired, with its standard error."""
        cells = [{"method": t.call.label, "task": t.task.name} for t, _ in self.trials]
        frame = pd.DataFrame(cells).join(100 * pd.DataFrame(self.scores.values()).T)
        means = [frame.groupby(by, sort=False).mean(numeric_only=True) for by in ("method", "task")]
        parts = pd.concat(means)
        table = Table(box=MARKDOWN, title=self.classifier)
        table.add_column("candidate")
        for name in (*parts.index, "mean", "less the chosen's", "seconds"):
            table.add_column(name, justify="right")
        for column, (candidate, scores) in enumerate(self.scores.items()):
            paired = 100 * (scores - self.scores[chosen])
            error = paired.std(ddof=1) / np.sqrt(len(paired))
            table.add_row(
                label(candidate),
                *[f"{value:.1f}" for value in parts[column]],
                f"{100 * scores.mean():.1f}",
                "chosen" if candidate == chosen else f"{paired.mean():+.1f} ± {error:.1f}",
                f"{self.seconds[candidate]:.1f}",
            )
        return table


def label(candidate: Candidate) -> str:
    """As ``bench.toml`` would have it."""
    return ", ".join(f"{name} {value:g}" for name, value in candidate)


def make(
    protocol: Protocol, upstream: Upstream, options: argparse.Namespace
) -> Iterable[tuple[Trial, Augmented]]:
    """Augmented images of every task, method and seed, under one budget."""
    root = find_root()
    registry = load_registry(root, protocol)
    for task, method, seed in product(options.tasks, options.methods, options.seeds):
        if seed in protocol.defaults.seeds:
            raise SystemExit(f"seed {seed} is one of the protocol's: records are made with it")
        trial = OnReserve(
            registry.task(task),
            registry.call(method),
            upstream.name,
            options.budget,
            seed,
            protocol,
            root,
        )
        yield trial, augment(trial, upstream, {}, lambda *_: None)


def main() -> None:
    options = _arguments()
    torch.set_num_threads(options.threads)
    root = find_root()
    protocol = load_protocol(root)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, options.device)
    trials = list(make(protocol, upstream, options))
    for classifier in options.classifier:
        judge = Judge(classifier, protocol, trials, upstream)
        chosen = judge.choose()
        Console(width=160).print(judge.table(chosen))
        scores = {label(one): values.tolist() for one, values in judge.scores.items()}
        told = {"classifier": classifier, "chosen": dict(chosen), "scores": scores}
        print(json.dumps(vars(options) | told), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classifier", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--tasks", nargs="+", default=["fashion-5shot", "openmoji-5shot"])
    parser.add_argument("--methods", nargs="+", default=["none", "retrieve_text", "prompt_simple"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101])
    parser.add_argument("--budget", default="S")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Choose the recipe of a classifier (docs/recipes.md) without test images.

    python docs/scripts/recipes.py --classifier linear-probe --seeds 100 101

Candidates are evaluated on unused training images (neither shots nor validation) of seeds that no
published record uses. These take the place of the split's test images before anything runs, so no
test image can be read. A candidate's score is its mean over methods (nothing added, retrieved
images, generated images: each with the same weight), tasks and seeds.

The rule, fixed beforehand: the best of a grid at the fewest steps, then the fewest steps whose
score is within half a point of the highest, since every trial of every user pays for steps.
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
from benchmark.records.augmented import Augmented
from benchmark.records.environment import environment
from benchmark.records.score import score
from benchmark.registry import load_registry
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import augment
from benchmark.upstream import Upstream, open_upstream

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "resnet-scratch": {"lr": (3e-3, 1e-2), "weight_decay": (0.05, 0.2)},
    "linear-probe": {"lr": (3e-3, 1e-2, 3e-2), "label_smoothing": (0.0, 0.1)},
}
STEPS = (200, 300, 400)
TOLERANCE = 0.005  # of accuracy: by which fewer steps may score lower

Candidate = tuple[tuple[str, float], ...]  # the values that it changes in the declared recipe


class UnusedImagesTrial(Trial):
    """A trial with the unused training images of its split in the place of the test images: none
    of them is left unused."""

    @cached_property
    def split(self) -> Split:
        split = load_split(self.task, self.seeds.split, self.root)
        return replace(split, test=TestSplit(split.unused), unused=split.unused.select([]))


@dataclass
class Search:
    """Scores of candidates. Each is trained once; the augmented images are the same for all."""

    classifier: str
    protocol: Protocol
    trials: list[tuple[Trial, Augmented]]
    upstream: Upstream
    scores: dict[Candidate, np.ndarray] = field(default_factory=dict)  # [trials] in 0..1
    seconds: dict[Candidate, float] = field(default_factory=dict)  # mean of one training

    def score(self, candidate: Candidate) -> float:
        """Mean over the trials; every method and every task has the same number of them."""
        if candidate not in self.scores:
            results = [self._evaluate(candidate, *pair) for pair in self.trials]
            self.scores[candidate] = np.array([value for value, _ in results])
            self.seconds[candidate] = float(np.mean([seconds for _, seconds in results]))
            print(f"{label(candidate)}: {self.scores[candidate].mean():.4f}", flush=True)
        return float(self.scores[candidate].mean())

    def _evaluate(
        self, candidate: Candidate, trial: Trial, augmented: Augmented
    ) -> tuple[float, float]:
        """The task's metric on the unused images, and the seconds of the training."""
        declared = self.protocol.classifier_named(self.classifier)
        recipe = type(declared).model_validate(declared.model_dump() | dict(candidate))
        added = augmented.pixels, augmented.targets(len(trial.task.classes))
        split = trial.split.fresh()
        result = train(
            recipe, split, added, self.upstream, trial.seeds.training, self.upstream.device
        )
        test, predicted = split.test, result.predictions
        table = pd.DataFrame({"id": test.ids, "label": test.labels, "prediction": predicted})
        value = score(table, trial.task.card.metric, augmented.flagged["test_id"])["value"]
        return value, result.seconds

    def choose(self) -> Candidate:
        """By the rule above."""
        grid = GRIDS[self.classifier]
        shortest = [
            (*zip(grid, values, strict=True), ("steps", STEPS[0]))
            for values in product(*grid.values())
        ]
        best = max(shortest, key=self.score)
        longer = [(*best[:-1], ("steps", steps)) for steps in STEPS]
        highest = max(map(self.score, longer))
        return next(one for one in longer if self.score(one) >= highest - TOLERANCE)

    def table(self, chosen: Candidate) -> Table:
        """Points of accuracy; the difference to the chosen one is paired, ± its standard error."""
        cells = [{"method": t.call.label, "task": t.task.name} for t, _ in self.trials]
        frame = pd.DataFrame(cells).join(100 * pd.DataFrame(self.scores.values()).T)
        means = [frame.groupby(by, sort=False).mean(numeric_only=True) for by in ("method", "task")]
        parts = pd.concat(means)
        table = Table(box=MARKDOWN, title=self.classifier)
        table.add_column("candidate")
        for name in (*parts.index, "mean", "minus chosen", "seconds"):
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
    """The values as ``bench.toml`` names them."""
    return ", ".join(f"{name} {value:g}" for name, value in candidate)


def augmented_trials(
    protocol: Protocol, upstream: Upstream, options: argparse.Namespace
) -> Iterable[tuple[Trial, Augmented]]:
    """Augmented images of every task, method and seed, under one budget."""
    root = find_root()
    registry = load_registry(root, protocol)
    where = environment(root, upstream.device, options.threads)
    for task, method, seed in product(options.tasks, options.methods, options.seeds):
        if seed in protocol.defaults.splits:
            raise SystemExit(
                f"seed {seed} is one of the protocol's, with which records are made: choose a seed "
                f"other than {', '.join(map(str, protocol.defaults.splits))}"
            )
        trial = UnusedImagesTrial(
            registry.task(task),
            registry.call(method),
            upstream.name,
            options.budget,
            Seeds(seed, seed, seed),
            protocol,
            root,
        )
        yield trial, augment(trial, upstream, where, lambda *_: None)


def main() -> None:
    options = _arguments()
    torch.set_num_threads(options.threads)
    root = find_root()
    protocol = load_protocol(root)
    name = protocol.defaults.upstream
    upstream = open_upstream(name, protocol.upstream_named(name), root, options.device)
    trials = list(augmented_trials(protocol, upstream, options))
    for classifier in options.classifier:
        search = Search(classifier, protocol, trials, upstream)
        chosen = search.choose()
        Console(width=160).print(search.table(chosen))
        scores = {label(one): values.tolist() for one, values in search.scores.items()}
        result = {"classifier": classifier, "chosen": dict(chosen), "scores": scores}
        print(json.dumps(vars(options) | result), flush=True)


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

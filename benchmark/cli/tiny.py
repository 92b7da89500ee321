"""Trials of one method in small: on the smallest task and upstream of the root, with a tier of a
few images that exists in memory alone. Nothing is written to a results folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from benchmark.data.card import Task
from benchmark.errors import ConfigError
from benchmark.protocol import BudgetSpec, Protocol, UpstreamSpec
from benchmark.registry import MethodCall, Registry

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.records.augmented import Augmented
    from benchmark.trial import Trial
    from benchmark.upstream import Upstream

IMAGES_PER_CLASS = 1
MODELS = {"encoder", "index", "generator"}  # what is charged when it is called
_TIER = "tiny"
_STALL = 60.0  # seconds
_BATCH = 8


@dataclass
class TinyTrials:
    """Trials of the method with the smallest tier, on one task and upstream."""

    call: MethodCall
    protocol: Protocol
    registry: Registry
    task_name: str | None
    upstream_name: str | None
    device: str

    @cached_property
    def task(self) -> Task:
        """The one that was named, or the one of fewest and smallest images, local ones first."""
        if self.task_name:
            return self.registry.task(self.task_name)
        tasks = self.registry.tasks.values()
        if not tasks:
            raise ConfigError("tasks", [f"{self.registry.root} registers none"])
        return min(tasks, key=_size_of_task)

    @cached_property
    def upstream(self) -> Upstream:
        """The one that was named, or the smallest, those first that have what the method uses."""
        from benchmark.upstream import open_upstream

        uses: set[str] = {*self.call.method.facts.uses}
        known = self.protocol.upstream
        name = self.upstream_name or min(
            known, key=lambda name: _size_of_upstream(known[name], uses)
        )
        spec = self.protocol.upstream_named(name)
        return open_upstream(name, spec, self.registry.root, self.device)

    def run(self, split: int = 0, draw: int = 0) -> Augmented:
        """One trial's images; raises as ``augment``."""
        from benchmark.records.environment import environment
        from benchmark.trial.augment import augment

        where = environment(self.registry.root, str(self.upstream.device), 1)
        return augment(self.trial(split, draw), self.upstream, where, lambda *_: None)

    def trial(self, split: int, draw: int) -> Trial:
        """Under a tier of one image per class, with half the multiple of compute of the root's
        smallest: a method that trains then takes seconds."""
        from benchmark.trial import Seeds, Trial

        smallest = min(self.protocol.budget.values(), key=lambda tier: tier.images_per_class)
        tier = BudgetSpec(images_per_class=IMAGES_PER_CLASS, compute=smallest.compute / 2)
        defaults = self.protocol.defaults.model_copy(update={"stall_seconds": _STALL})
        protocol = self.protocol.model_copy(update={"budget": {_TIER: tier}, "defaults": defaults})
        seeds, root = Seeds(split, draw), self.registry.root
        return Trial(self.task, self.call, self.upstream.name, _TIER, seeds, protocol, root)

    def mixed(self) -> Iterator[Tensor]:
        """Images and targets of a few batches as the method's hook returns them; raises
        ``MethodError``."""
        import numpy as np
        import torch

        from benchmark.meter import Meter
        from benchmark.trial.augment import budget_of, seed_everything
        from benchmark.trial.mixing import Mixer

        seed_everything(0)
        size, n_classes = self.task.card.image_size, len(self.task.classes)
        budget = budget_of(self.trial(0, 0), self.upstream)
        mixer = Mixer(self.call, Meter(budget, n_classes), np.random.default_rng(0))
        images = torch.rand(_BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
        targets = torch.eye(n_classes)[torch.arange(_BATCH) % n_classes]
        for _ in range(4):
            yield from mixer(images, targets)


def _size_of_task(task: Task) -> tuple[bool, int, int, int]:
    card = task.card
    fetched = card.train.path is None or bool(card.test and card.test.path is None)
    rows = card.train.rows + (card.test.rows if card.test else 0)
    return fetched, len(card.classes) * card.image_size**2, rows, task.shots


def _size_of_upstream(spec: UpstreamSpec, uses: set[str]) -> tuple[bool, bool, int]:
    lacks = spec.corpus is None and bool(uses & {"corpus", "index"})
    lacks |= spec.generator is None and "generator" in uses
    fetched = "hf-hub:" in spec.encoder.model or bool(spec.corpus and spec.corpus.hub)
    return lacks, fetched, spec.generator.size if spec.generator else 0

"""A trial, everything resolved, and the names of one that travel to a worker process.

    split -> method (shots, upstream, meter) -> ledger -> classifier -> record

``augment`` is its first stage, ``evaluate`` its second: one set of images is evaluated by several
classifiers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.content import file_hash
from benchmark.data.card import Task
from benchmark.data.split import Split, load_split
from benchmark.protocol import PROTOCOL_VERSION, Protocol
from benchmark.registry import MethodCall, Registry
from benchmark.schema import canonical_hash
from benchmark.upstream.hashes import upstream_hash

# (what, done, total): what is being counted, e.g. ("augment", 120, 500)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trial:
    """task x method x upstream x budget x seed, everything resolved.

    ``id`` is the hash of all that decides the images; ``record_id`` adds the classifier.
    """

    task: Task
    call: MethodCall
    upstream: str
    budget: str
    seed: int
    protocol: Protocol
    root: Path

    @cached_property
    def split(self) -> Split:
        """The few-shot split of this seed; raises ``DataError``."""
        key = (self.task.hash, self.seed, self.root)
        if key not in _splits:
            _splits[key] = load_split(self.task, self.seed, self.root)
        return _splits[key]

    @cached_property
    def upstream_hash(self) -> str:
        """Content hash of corpus, encoder and generator; raises ``DataError``."""
        return upstream_hash(self.protocol.upstream_named(self.upstream), self.root)

    @cached_property
    def id(self) -> str:
        """sha256 of the resolved configuration."""
        return canonical_hash(
            {
                "protocol": PROTOCOL_VERSION,
                "task": [self.task.name, self.task.hash, self.split.hash],
                "method": [self.call.method.name, self.call.method.hash],
                "params": self.call.params.model_dump(mode="json"),
                "upstream": [self.upstream, self.upstream_hash],
                "contamination": self.protocol.upstream_named(
                    self.upstream
                ).contamination.model_dump(mode="json"),
                "budget": [
                    self.budget,
                    self.protocol.budget_named(self.budget).model_dump(mode="json"),
                ],
                "seed": self.seed,
            }
        )

    def classifier_hash(self, classifier: str) -> str:
        """sha256 of the classifier's resolved recipe, and of a file of weights it starts from;
        raises ``DataError`` where that is missing."""
        spec = self.protocol.classifier_named(classifier)
        weights = getattr(spec, "weights", None)
        content = [file_hash(self.root / weights)] if weights else []
        return canonical_hash([classifier, spec.model_dump(mode="json"), *content])

    def record_id(self, classifier: str) -> str:
        """The identity of the row this trial leaves for one classifier."""
        return canonical_hash([self.id, self.classifier_hash(classifier)])

    def with_call(self, call: MethodCall) -> Trial:
        """The same cell with another method, such as its control."""
        return Trial(
            self.task, call, self.upstream, self.budget, self.seed, self.protocol, self.root
        )


# Splits are shared by all methods of a cell: drawn once per process.
_splits: dict[tuple[str, int, Path], Split] = {}


@dataclass(frozen=True)
class Job:
    """A trial by names: what travels to a worker process."""

    root: str
    task: str
    method: str
    params: dict[str, Any]
    upstream: str
    budget: str
    seed: int

    def resolve(self, registry: Registry, protocol: Protocol) -> Trial:
        """The trial these names stand for; raises ``UnknownNameError`` or ``ConfigError``."""
        method = registry.method(self.method)
        return Trial(
            registry.task(self.task),
            MethodCall(method, method.params.model_validate(self.params)),
            self.upstream,
            self.budget,
            self.seed,
            protocol,
            Path(self.root),
        )


def job_of(trial: Trial) -> Job:
    """The names of a trial."""
    return Job(
        str(trial.root),
        trial.task.name,
        trial.call.method.name,
        trial.call.params.model_dump(mode="json"),
        trial.upstream,
        trial.budget,
        trial.seed,
    )

"""A trial, everything resolved, and the names of one that travel to a worker process.

    split -> method (shots, upstream, meter) -> ledger -> classifier -> record

``augment`` is its first stage, ``evaluate`` its second: one set of images is evaluated by several
classifiers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.content import file_hash
from benchmark.data.card import Task
from benchmark.data.split import Split, load_split
from benchmark.errors import ConfigError
from benchmark.protocol import PROTOCOL_VERSION, ClassifierSpec, FinetuneSpec, Protocol
from benchmark.records.store import Place
from benchmark.registry import MethodCall, Registry
from benchmark.schema import canonical_hash
from benchmark.upstream.hashes import upstream_hash


@dataclass(frozen=True)
class Seeds:
    """What chance there is in a trial, apart: the few-shot split, the images, the classifier."""

    split: int
    draw: int = 0
    training: int = 0


@dataclass(frozen=True)
class Trial:
    """task x method x upstream x budget x seeds, everything resolved.

    ``images_id`` is the hash of all that decides the images. It holds the split only where the
    method looks at the shots, and the draw only where it draws by chance: other trials share the
    images. ``id`` adds the split and the seed of the training, ``record_id`` the classifier.
    """

    task: Task
    call: MethodCall
    upstream: str
    budget: str
    seeds: Seeds
    protocol: Protocol
    root: Path

    @cached_property
    def split(self) -> Split:
        """The few-shot split of its seed; raises ``DataError``."""
        key = (self.task.hash, self.seeds.split, self.root)
        if key not in _splits:
            _splits[key] = load_split(self.task, self.seeds.split, self.root)
        return _splits[key]

    @cached_property
    def upstream_hash(self) -> str:
        """Content hash of corpus, encoder and generator; raises ``DataError``."""
        return upstream_hash(self.protocol.upstream_named(self.upstream), self.root)

    @cached_property
    def images_id(self) -> str:
        """sha256 of what decides the images. Task and method are in it by name too, as entries of
        the contest; of an upstream and a tier only the content is."""
        facts, split = self.call.method.facts, self.split
        upstream = self.protocol.upstream_named(self.upstream)
        return canonical_hash(
            {
                "protocol": PROTOCOL_VERSION,
                "task": [self.task.name, self.task.hash],
                "data": split.hash if facts.uses_shots else split.data_hash,
                "method": [self.call.method.name, self.call.method.hash],
                "params": self.call.params.model_dump(mode="json"),
                "upstream": self.upstream_hash,
                "contamination": upstream.contamination.model_dump(mode="json"),
                "budget": self.protocol.budget_named(self.budget).model_dump(mode="json"),
                "draw": self.seeds.draw if facts.stochastic else None,
            }
        )

    @cached_property
    def id(self) -> str:
        """sha256 of the images, the split they are trained on with, and the training's seed."""
        return canonical_hash([self.images_id, self.split.hash, self.seeds.training])

    def classifier_hash(self, classifier: str) -> str:
        """sha256 of the classifier's resolved recipe, and of a file of weights it starts from.

        Raises:
            DataError: that file is missing.
            ConfigError: published weights without a revision.
        """
        spec = self.protocol.classifier_named(classifier)
        recipe = spec.model_dump(mode="json", exclude={"weights", "revision"})
        weights = start_weights(spec, self.root)
        return canonical_hash([classifier, recipe, *([weights] if weights else [])])

    def record_id(self, classifier: str) -> str:
        """The identity of the row this trial leaves for one classifier."""
        return canonical_hash([self.id, self.classifier_hash(classifier)])

    @property
    def place(self) -> Place:
        """Where its results belong in a results folder."""
        return Place(self.task.name, self.call.label, self.images_id)

    def with_call(self, call: MethodCall) -> Trial:
        """The same cell with another method, such as its control. A method that draws nothing by
        chance has one draw, 0."""
        draw = self.seeds.draw if call.method.facts.stochastic else 0
        return replace(self, call=call, seeds=replace(self.seeds, draw=draw))


def start_weights(spec: ClassifierSpec, root: Path) -> str:
    """What a classifier's pretrained weights are: the hash of a file, or a repository at its
    revision; "" where it starts from the upstream's encoder or from nothing.

    Raises:
        DataError: the file is missing.
        ConfigError: published weights without a revision.
    """
    if not isinstance(spec, FinetuneSpec) or spec.model == "encoder":
        return ""
    if spec.weights:
        return file_hash(root / Path(spec.weights).expanduser())
    if spec.revision is None or not spec.model.startswith("timm:hf-hub:"):
        raise ConfigError(
            f"classifier model {spec.model!r}",
            ["give weights, a local file, or 'timm:hf-hub:<id>' with its 40-digit revision"],
        )
    return f"{spec.model}@{spec.revision}"


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
    seeds: tuple[int, int, int]

    def resolve(self, registry: Registry, protocol: Protocol) -> Trial:
        """The trial these names stand for; raises ``UnknownNameError`` or ``ConfigError``."""
        method = registry.method(self.method)
        return Trial(
            registry.task(self.task),
            MethodCall(method, method.params.model_validate(self.params)),
            self.upstream,
            self.budget,
            Seeds(*self.seeds),
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
        (trial.seeds.split, trial.seeds.draw, trial.seeds.training),
    )

"""One trial: a method makes images for a task under a budget, classifiers judge them.

    split -> method (shots, upstream, meter) -> ledger -> classifier -> record

The two halves are separate so that one set of images is judged by several classifiers. This is
the one place where task, method, upstream, budget and classifier meet.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.data.card import Task
from benchmark.data.split import Split, load_split
from benchmark.errors import BenchError, BudgetStop, MethodError, Unavailable
from benchmark.fingerprint import file_hash, upstream_hash
from benchmark.meter import Spend
from benchmark.mixing import Mixer
from benchmark.protocol import PROTOCOL_VERSION, Protocol
from benchmark.records.record import Environment, Record, Status
from benchmark.records.store import Augmented
from benchmark.records.tables import reject_counts, table_hash
from benchmark.registry import MethodCall, Registry
from benchmark.schema import canonical_hash

if TYPE_CHECKING:
    from benchmark.meter import Meter
    from benchmark.upstream import Upstream

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
        return upstream_hash(self.protocol.pick("upstream", self.upstream), self.root)

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
                "contamination": self.protocol.pick(
                    "upstream", self.upstream
                ).contamination.model_dump(mode="json"),
                "budget": [
                    self.budget,
                    self.protocol.pick("budget", self.budget).model_dump(mode="json"),
                ],
                "seed": self.seed,
            }
        )

    def classifier_hash(self, classifier: str) -> str:
        """sha256 of the classifier's resolved recipe, and of a file of weights it starts from;
        raises ``DataError`` where that is missing."""
        spec = self.protocol.pick("classifier", classifier)
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


def augment(
    trial: Trial, upstream: Upstream, environment: dict[str, Any], progress: Progress
) -> Augmented:
    """Runs the method under its budget. What it made up to a cap is kept.

    Raises:
        Unavailable: the method cannot work on this task.
        MethodError: it broke its contract, yielded nothing, or raised.
        BenchError: the upstream or the data is at fault.
    """
    from benchmark.contamination import examine
    from benchmark.ledger import Ledger
    from benchmark.meter import Meter

    budget = trial.protocol.pick("budget", trial.budget)
    meter = Meter(budget, len(trial.task.classes))
    ledger = Ledger(trial.call.label, trial.split, budget, trial.call.method.facts.filters)
    seed_everything(trial.seed)
    stopped = _consume(trial, upstream, meter, ledger, progress)
    _refuse_empty(trial, ledger, stopped)
    pixels, labels = ledger.accepted()
    test, thresholds = trial.split.test.for_contamination(), upstream.spec.contamination
    frame, flagged = examine(ledger.frame(), pixels, test, upstream.encoder, thresholds)
    rejects = reject_counts(frame)
    cap = stopped.unit if stopped else ("images" if "cap" in rejects else "")
    facts = {
        "trial_id": trial.id,
        "status": "capped" if cap else "ok",
        "cap": cap,
        "reason": str(stopped) if stopped else "",
        "phases": {name: spend.model_dump() for name, spend in meter.spent().items()},
        "peak_memory_mb": round(meter.peak_memory_mb, 1),
        "peak_gpu_memory_mb": round(meter.peak_gpu_memory_mb, 1),
        "images_accepted": len(labels),
        "images_rejected": sum(rejects.values()),
        "rejects": rejects,
        "ledger_hash": table_hash(frame),
        "contamination_hash": table_hash(flagged),
        "environment": environment,
    }
    return Augmented(facts, frame, pixels, labels, flagged)


def _consume(
    trial: Trial, upstream: Upstream, meter: Meter, ledger: Any, progress: Progress
) -> BudgetStop | None:
    """Iterates the method until it ends, the ledger is full, or a cap is reached."""
    method, params = trial.call.method, trial.call.params
    shots = trial.split.as_shots(with_reserve=method.facts.family == "oracle")
    rng = np.random.default_rng([trial.seed, int(trial.task.hash[:8], 16)])
    wanted = meter.budget.images_per_class * len(shots.classes)
    try:
        with upstream.metered(meter), meter.alarm():
            made = method.augment(shots, upstream, meter, rng, params)
            for images in made or ():
                ledger.add(images)
                progress("augment", min(ledger.count, wanted), wanted)
                if ledger.full:
                    break  # the generator is closed as it goes: its own `finally` runs
    except BudgetStop as stop:
        return stop
    except (Unavailable, BenchError, MemoryError):
        raise
    except Exception as error:
        raise MethodError.raised(trial.call.label, error) from error
    return None


def _refuse_empty(trial: Trial, ledger: Any, stopped: BudgetStop | None) -> None:
    """Nothing returns empty on purpose: only a method that says so may add no image."""
    if trial.call.method.facts.adds_images and not ledger.count:
        when = f" before its budget ended ({stopped})" if stopped else ""
        raise MethodError(f"method {trial.call.label!r} yielded no image{when}")
    if not trial.call.method.facts.adds_images and ledger.count:
        raise MethodError(
            f"method {trial.call.label!r} yielded {ledger.count} images, "
            "but its facts say adds_images = False"
        )


def classify(
    trial: Trial,
    classifier: str,
    made: Augmented,
    upstream: Upstream,
    control_id: str,
    progress: Progress,
) -> tuple[Record, Any]:
    """Trains one classifier on shots and ledger images, reads the test split once.

    Returns:
        The record and the predictions (columns ``id``, ``label``, ``prediction``).
    """
    import pandas as pd

    from benchmark.classify import train

    spec = trial.protocol.pick("classifier", classifier)
    split = trial.split.fresh()
    started = time.perf_counter()
    seed_everything(trial.seed)
    added = made.pixels, made.targets(len(trial.task.classes))
    mixer = _mixer(trial, made)
    judged = train(spec, split, added, upstream, trial.seed, upstream.device, progress, mixer)
    facts = mixer.told(made.facts) if mixer else made.facts
    predictions = pd.DataFrame(
        {
            "id": list(split.test.ids),
            "label": split.test.labels,
            "prediction": judged.predictions.astype("int64"),
        }
    )
    record = Record(
        **identity(trial, classifier, control_id),
        **score(predictions, trial, made.flagged["test_id"]),
        flagged_pairs=len(made.flagged),
        **_spend(facts),
        status=facts["status"],
        reason=facts["reason"],
        cap=facts["cap"],
        val_value=judged.val_value,
        selected=judged.selected,
        train_seconds=round(time.perf_counter() - started, 3),
        ledger_hash=made.facts["ledger_hash"],
        contamination_hash=made.facts["contamination_hash"],
        predictions_hash=table_hash(predictions),
        created=_now(),
        environment=Environment(**made.facts["environment"]),
    )
    return record, predictions


def _mixer(trial: Trial, made: Augmented) -> Mixer | None:
    """The method's batch hook, on what the first half left of the budget."""
    from benchmark.meter import Meter

    if trial.call.method.mix is None:
        return None
    budget = trial.protocol.pick("budget", trial.budget)
    spent = {name: Spend(**spend) for name, spend in made.facts["phases"].items()}
    meter = Meter(budget, len(trial.task.classes), spent)
    rng = np.random.default_rng([trial.seed, int(trial.task.hash[:8], 16), 1])
    return Mixer(trial.call, meter, rng)


def failure(
    trial: Trial,
    classifier: str,
    control_id: str,
    status: Status,
    reason: str,
    environment: dict[str, Any],
) -> Record:
    """The row of a trial that gave no score."""
    return Record(
        **identity(trial, classifier, control_id),
        status=status,
        reason=reason,
        created=_now(),
        environment=Environment(**environment),
    )


def identity(trial: Trial, classifier: str, control_id: str) -> dict[str, Any]:
    """The columns that are known before anything has run."""
    budget = trial.protocol.pick("budget", trial.budget)
    method = trial.call.method
    return {
        "record_id": trial.record_id(classifier),
        "trial_id": trial.id,
        "control_id": control_id,
        "task": trial.task.name,
        "method": trial.call.label,
        "method_name": method.name,
        "family": method.facts.family,
        "params": trial.call.params.model_dump(mode="json"),
        "upstream": trial.upstream,
        "budget": trial.budget,
        "classifier": classifier,
        "seed": trial.seed,
        "shots": trial.task.shots,
        "n_classes": len(trial.task.classes),
        "metric": trial.task.card.metric,
        "images_per_class_cap": budget.images_per_class,
        "tflops_cap": budget.tflops,
        "nfe_cap": budget.nfe,
        "seconds_cap": budget.seconds,
        "task_hash": trial.task.hash,
        "method_hash": method.hash,
        "upstream_hash": trial.upstream_hash,
        "split_hash": trial.split.hash,
        "classifier_hash": trial.classifier_hash(classifier),
    }


def score(predictions: Any, trial: Trial, flagged: Collection[str]) -> dict[str, Any]:
    """The metric of the task card from a prediction table: anyone can recompute it.

    Args:
        flagged: ids of the test images of which an augmented image is a copy: the clean value is
            the metric on the others, None where there are none.
    """
    metric = trial.task.card.metric
    clean = predictions[~predictions["id"].isin(flagged)]
    return {
        "n_test": len(predictions),
        "n_correct": int((predictions["label"] == predictions["prediction"]).sum()),
        "value": _metric(predictions, metric),
        "n_clean": len(clean),
        "value_clean": _metric(clean, metric) if len(clean) else None,
    }


def _metric(predictions: Any, metric: str) -> float:
    """``top1``, or ``mean_per_class`` recall over the classes that have images."""
    correct = predictions["label"] == predictions["prediction"]
    if metric == "mean_per_class":
        return float(correct.groupby(predictions["label"]).mean().mean())
    return float(correct.mean())


def _spend(facts: dict[str, Any]) -> dict[str, Any]:
    phases = {name: Spend(**spend) for name, spend in facts["phases"].items()}
    return {
        "phases": phases,
        "images_accepted": facts["images_accepted"],
        "images_rejected": facts["images_rejected"],
        "rejects": facts["rejects"],
        "tflops": sum(spend.tflops for spend in phases.values()),
        "nfe": sum(spend.nfe for spend in phases.values()),
        "seconds": round(sum(spend.seconds for spend in phases.values()), 3),
        "peak_memory_mb": facts["peak_memory_mb"],
        "peak_gpu_memory_mb": facts["peak_gpu_memory_mb"],
    }


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's global generators, for methods that draw from them."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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

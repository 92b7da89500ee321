"""The second stage of a trial: a classifier is trained on shots and ledger images, and scored once."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.meter import Spend
from benchmark.records.record import Environment, Record, Status
from benchmark.records.store import Augmented
from benchmark.records.tables import table_hash
from benchmark.trial.mixing import Mixer

if TYPE_CHECKING:
    from benchmark.upstream import Upstream
from benchmark.trial import Progress, Trial
from benchmark.trial.augment import seed_everything


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

    spec = trial.protocol.classifier_named(classifier)
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
    budget = trial.protocol.budget_named(trial.budget)
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
    budget = trial.protocol.budget_named(trial.budget)
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

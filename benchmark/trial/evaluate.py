"""The second stage of a trial: a classifier is trained on shots and ledger images, scored once."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.records.augmented import Augmented, AugmentFacts
from benchmark.records.record import Environment, Record, Status
from benchmark.records.score import score
from benchmark.records.tables import table_hash
from benchmark.trial import Trial
from benchmark.trial.augment import seed_everything
from benchmark.trial.mixing import Mixer

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.data.split import Split
    from benchmark.meter import Progress
    from benchmark.upstream import Upstream


def evaluate(
    trial: Trial,
    classifier: str,
    made: Augmented,
    upstream: Upstream,
    control_id: str,
    progress: Progress,
    stall_report: Path | None = None,
) -> tuple[Record, pd.DataFrame]:
    """Trains one classifier on shots and ledger images, reads the test split once.

    Args:
        stall_report: see ``StallGuard``, which watches the method's batch hook.

    Returns:
        The record and the predictions (columns ``id``, ``label``, ``prediction``).
    """
    from benchmark.classify import train

    spec, seed = trial.protocol.classifier_named(classifier), trial.seeds.training
    split = trial.split.fresh()
    started = time.perf_counter()
    seed_everything(seed)
    added = made.pixels, made.targets(len(trial.task.classes))
    mixer = _mixer(trial, made.facts, stall_report)
    trained = train(spec, split, added, upstream, seed, upstream.device, progress, mixer)
    facts = mixer.added_to(made.facts) if mixer else made.facts
    predictions = _table(split, trained.predictions)
    record = Record(
        **identity(trial, classifier, control_id),
        **score(predictions, trial.task.card.metric, made.flagged["test_id"]),
        flagged_pairs=len(made.flagged),
        **_spend(facts),
        **facts.model_dump(
            include={"status", "reason", "cap", "ledger_hash", "contamination_hash"}
        ),
        val_value=trained.val_value,
        selected=trained.selected,
        train_seconds=round(time.perf_counter() - started, 3),
        predictions_hash=table_hash(predictions),
        created=_now(),
        environment=facts.environment,
    )
    return record, predictions


def _table(split: Split, predictions: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    columns = {
        "id": list(split.test.ids),
        "label": split.test.labels,
        "prediction": predictions.astype("int64"),
    }
    return pd.DataFrame(columns)


def _mixer(trial: Trial, facts: AugmentFacts, stall_report: Path | None) -> Mixer | None:
    """The method's batch hook, on what the first stage left of the budget; it draws from the seed
    of the training."""
    from benchmark.meter import Budget, Meter
    from benchmark.stall import StallGuard

    if trial.call.method.mix is None:
        return None
    spec = trial.protocol.budget_named(trial.budget)
    cap = math.inf if facts.tflops_cap is None else facts.tflops_cap
    defaults = trial.protocol.defaults
    guard = StallGuard(defaults.stall_seconds, stall_report, defaults.stall_grace_seconds)
    budget = Budget(spec.images_per_class, cap)
    meter = Meter(budget, len(trial.task.classes), facts.phases, guard)
    rng = np.random.default_rng([trial.seeds.training, int(trial.task.hash[:8], 16), 1])
    return Mixer(trial.call, meter, rng)


def failure(
    trial: Trial,
    classifier: str,
    control_id: str,
    status: Status,
    reason: str,
    environment: Environment,
) -> Record:
    """The row of a trial that gave no score."""
    return Record(
        **identity(trial, classifier, control_id),
        status=status,
        reason=reason,
        created=_now(),
        environment=environment,
    )


def identity(trial: Trial, classifier: str, control_id: str) -> dict[str, Any]:
    """The columns that are known before anything has run."""
    budget, method = trial.protocol.budget_named(trial.budget), trial.call.method
    return {
        "record_id": trial.record_id(classifier),
        "trial_id": trial.id,
        "images_id": trial.images_id,
        "control_id": control_id,
        "task": trial.task.name,
        "method": trial.call.label,
        "method_name": method.name,
        "family": method.facts.family,
        "params": trial.call.params.model_dump(mode="json"),
        "upstream": trial.upstream,
        "budget": trial.budget,
        "classifier": classifier,
        **vars(trial.seeds),
        "shots": trial.task.shots,
        "n_classes": len(trial.task.classes),
        "metric": trial.task.card.metric,
        "images_per_class_cap": budget.images_per_class,
        "compute_cap": budget.compute,
        "task_hash": trial.task.hash,
        "method_hash": method.hash,
        "upstream_hash": trial.upstream_hash,
        "split_hash": trial.split.hash,
        "classifier_hash": trial.classifier_hash(classifier),
    }


def _spend(facts: AugmentFacts) -> dict[str, Any]:
    """What a trial spent: by phase, and in all."""
    totals = {
        name: sum(getattr(spend, name) for spend in facts.phases.values())
        for name in ("tflops", "nfe", "seconds")
    }
    same = {"images_accepted", "images_rejected", "rejects", "tflops_cap", "phases"}
    memory = {"peak_memory_mb", "peak_gpu_memory_mb"}
    seconds = {"seconds": round(totals["seconds"], 3)}
    return facts.model_dump(include=same | memory) | totals | seconds


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""The first stage of a trial: a method makes images under a budget, and each is written down."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import BenchError, BudgetStop, MethodError, Unavailable
from benchmark.records.store import Augmented
from benchmark.records.tables import reject_counts, table_hash

if TYPE_CHECKING:
    from benchmark.meter import Meter
    from benchmark.upstream import Upstream
from benchmark.trial import Progress, Trial


def augment(
    trial: Trial, upstream: Upstream, environment: dict[str, Any], progress: Progress
) -> Augmented:
    """Runs the method under its budget. What it made up to a cap is kept.

    Raises:
        Unavailable: the method cannot work on this task.
        MethodError: it broke its contract, yielded nothing, or raised.
        BenchError: the upstream or the data is at fault.
    """
    from benchmark.meter import Meter
    from benchmark.trial.contamination import examine
    from benchmark.trial.ledger import Ledger

    budget = trial.protocol.budget_named(trial.budget)
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


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's global generators, for methods that draw from them."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

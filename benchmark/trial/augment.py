"""The first stage of a trial: a method makes images under a budget, and each is written down."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.errors import BenchError, BudgetStop, MethodError, Stalled, Unavailable
from benchmark.records.augmented import Augmented, AugmentFacts, Cap
from benchmark.records.record import Environment
from benchmark.records.tables import reject_counts, table_hash
from benchmark.registry import method_error
from benchmark.trial import Trial

if TYPE_CHECKING:
    from benchmark.meter import Budget, Meter, Progress
    from benchmark.trial.ledger import Ledger
    from benchmark.upstream import Upstream


def augment(
    trial: Trial,
    upstream: Upstream,
    environment: Environment,
    progress: Progress,
    stall_report: Path | None = None,
) -> Augmented:
    """Runs the method under its budget. What it made up to a cap is kept.

    Args:
        stall_report: see ``StallGuard``.

    Raises:
        Unavailable: the method cannot work on this task, or the upstream lacks a part.
        MethodError: it broke its contract, yielded nothing, made no progress, or raised.
        BenchError: the upstream or the data is at fault.
    """
    from benchmark.meter import Meter
    from benchmark.stall import StallGuard
    from benchmark.trial.contamination import examine
    from benchmark.trial.ledger import Ledger

    facts = trial.call.method.facts
    upstream.load(facts.uses)
    defaults = trial.protocol.defaults
    guard = StallGuard(defaults.stall_seconds, stall_report, defaults.stall_grace_seconds)
    meter = Meter(budget_of(trial, upstream), len(trial.task.classes), guard=guard)
    ledger = Ledger(trial.call.label, trial.split, meter.budget, facts.filters)
    seed_everything(trial.seeds.draw)
    stopped = _consume(trial, upstream, meter, ledger, progress)
    _refuse_empty(trial, ledger, stopped)
    pixels, labels = ledger.accepted()
    test, thresholds = trial.split.test.for_contamination(), upstream.spec.contamination
    frame, flagged = examine(ledger.frame(), pixels, test, upstream.encoder, thresholds)
    rejects = reject_counts(frame)
    cap: Cap = "tflops" if stopped else "images" if "cap" in rejects else ""
    made = AugmentFacts(
        images_id=trial.images_id,
        status="capped" if cap else "ok",
        cap=cap,
        reason=str(stopped) if stopped else "",
        tflops_cap=meter.budget.tflops if math.isfinite(meter.budget.tflops) else None,
        phases=meter.spent(),
        peak_memory_mb=round(meter.peak_memory_mb, 1),
        peak_gpu_memory_mb=round(meter.peak_gpu_memory_mb, 1),
        images_accepted=len(labels),
        images_rejected=sum(rejects.values()),
        rejects=rejects,
        ledger_hash=table_hash(frame),
        contamination_hash=table_hash(flagged),
        environment=environment,
    )
    return Augmented(made, frame, pixels, labels, flagged)


def budget_of(trial: Trial, upstream: Upstream) -> Budget:
    """The caps of a trial as numbers: its multiple of plain generation in TFLOPs, no cap where
    there is no generator to measure against."""
    from benchmark.meter import Budget
    from benchmark.upstream.cost import image_tflops

    spec, once = trial.protocol.budget_named(trial.budget), image_tflops(upstream)
    images = spec.images_per_class * len(trial.task.classes)
    tflops = math.inf if once is None else spec.compute * images * once
    return Budget(spec.images_per_class, tflops)


def _consume(
    trial: Trial, upstream: Upstream, meter: Meter, ledger: Ledger, progress: Progress
) -> BudgetStop | None:
    """Iterates the method until it ends, the ledger is full, or a cap is reached. Writing an image
    down is the harness' work: neither charged nor watched."""
    method, params, facts = trial.call.method, trial.call.params, trial.call.method.facts
    shots = trial.split.as_shots(facts.uses_shots, with_unused=facts.family == "oracle")
    rng = np.random.default_rng([trial.seeds.draw, int(trial.task.hash[:8], 16)])
    wanted = meter.budget.images_per_class * len(shots.classes)
    try:
        with upstream.metered(meter), meter.watching():
            for images in method.augment(shots, upstream, meter, rng, params) or ():
                before = ledger.count
                with meter.paused():
                    ledger.add(images)
                    progress("augment", min(ledger.count, wanted), wanted)
                if ledger.count > before:  # images that are all rejected could go on for ever
                    meter.progressed()
                if meter.stalled:
                    raise Stalled(trial.protocol.defaults.stall_seconds)
                if ledger.full:
                    break  # the generator is closed as it goes: its own `finally` runs
    except BudgetStop as stop:
        return stop
    except Stalled as stall:
        raise MethodError(f"method {trial.call.label!r} was ended: {stall}") from None
    except (Unavailable, BenchError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise method_error(trial.call.label, error) from error
    return None


def _refuse_empty(trial: Trial, ledger: Ledger, stopped: BudgetStop | None) -> None:
    """Nothing returns empty on purpose: only a method that says so may add no image."""
    if trial.call.method.facts.adds_images and not ledger.count:
        when = f" before its budget ended ({stopped})" if stopped else ""
        raise MethodError(f"method {trial.call.label!r} yielded no image{when}") from stopped
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

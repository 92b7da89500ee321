"""``bench check``: one method's contract, tried in small."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import names
from benchmark.cli.arguments import Device, Json, load_entries
from benchmark.cli.checks import Check, report
from benchmark.cli.tiny import IMAGES_PER_CLASS, MODELS, TinyTrials
from benchmark.contract import Facts
from benchmark.errors import BenchError, BudgetStop, ConfigError, Unavailable
from benchmark.registry import MethodCall, Registry, split_call
from benchmark.schema import declare

if TYPE_CHECKING:
    from benchmark.records.augmented import Augmented

_SLOW = (
    "torch torchvision diffusers transformers timm open_clip datasets peft pandas scipy numpy PIL"
)


def check(
    method: Annotated[
        str, typer.Argument(help="name or name[key=value,...]", autocompletion=names.methods)
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task", "-t", help="Task [default: the smallest].", autocompletion=names.tasks
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(help="Upstream [default: the smallest].", autocompletion=names.upstreams),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Try a method's contract in small: facts, a tiny trial, the same seed, another seed; exit
    code 1 with what to mend."""
    from benchmark.cli.console import err

    protocol, registry = load_entries()
    name, _ = split_call(method)
    broken = [entry for entry in registry.broken if (entry.kind, entry.name) == ("method", name)]
    if broken:
        faults = broken[0].reason.splitlines()
        report(
            [Check("loads", "wrong", fault, f"mend {broken[0].path}") for fault in faults], as_json
        )
        return
    call = registry.call(method)
    if task:
        registry.task(task)
    if upstream:
        protocol.upstream_named(upstream)
    checks = [*_facts(call), *_import(call, registry)]
    trials = TinyTrials(call, protocol, registry, task, upstream, device)
    with err.status(f"trying {call.label} in small"):
        checks += _guarded(trials)
    report(checks, as_json)


# --- what can be seen without running it ---------------------------------------------------------


def _facts(call: MethodCall) -> Iterator[Check]:
    facts, model = call.method.facts, call.method.params
    yield Check("loads", "ok", f"{call.method.path}: {facts.title} ({facts.family})")
    if facts.family not in ("control", "oracle") and not (facts.paper and facts.citation):
        yield Check(
            "paper",
            "note",
            f"family {facts.family!r} without paper and citation",
            "state paper=... and citation=... in FACTS before you offer it to others",
        )
    try:
        declare(model, model().model_dump(), "Params")
    except ConfigError as error:
        remedy = "choose a default inside its own limits"
        yield from (Check("parameters", "wrong", fault, remedy) for fault in error.faults)
    else:
        fields = ", ".join(f"{key}={value}" for key, value in call.params.model_dump().items())
        yield Check("parameters", "ok", fields or "none")


def _import(call: MethodCall, registry: Registry) -> Iterator[Check]:
    """In a process of its own: here others may have been imported before."""
    code = (
        "import sys, importlib, benchmark; before = set(sys.modules)\n"
        f"importlib.import_module('benchmark.entries.methods.{call.method.name}')\n"
        f"print(*[name for name in {_SLOW.split()} if name in set(sys.modules) - before])"
    )
    environment = os.environ | {"BENCH_ROOT": str(registry.root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.splitlines() or [""])[-1]
        yield Check("imports", "wrong", f"alone in a process: {reason}", f"mend {call.method.path}")
    elif slow := done.stdout.split():
        yield Check(
            "imports",
            "note",
            f"the file imports {', '.join(slow)} at its top, and every command waits for it",
            "import it inside the function that needs it",
        )
    else:
        yield Check("imports", "ok", "nothing slow before it runs")


# --- what tiny trials show ------------------------------------------------------------------------


def _guarded(trials: TinyTrials) -> Iterator[Check]:
    """What trials show, up to the first that fails."""
    try:
        yield from _tried(trials)
    except Unavailable as reason:
        yield Check("trial", "note", f"skipped: {reason}", "try another --task or --upstream")
    except BenchError as error:
        if isinstance(error.__cause__, BudgetStop):
            remedy = "yield early, and leave compute for the images; or try a real tier: bench run"
            yield Check("trial", "note", f"{error}; the tier of this check is tiny", remedy)
        else:
            yield Check("trial", "wrong", str(error), f"mend {trials.call.method.path}")


def _tried(trials: TinyTrials) -> Iterator[Check]:
    facts, first = trials.call.method.facts, trials.run()
    yield _made(trials, first)
    yield from _spent(facts, first)
    yield _repeats(first, trials.run())
    yield _follows("stochastic", facts.stochastic, "draw seed", first, trials.run(draw=1))
    if facts.uses_shots:
        yield _follows("uses_shots", True, "few-shot split", first, trials.run(split=1))
    else:
        yield Check("uses_shots", "ok", "False: it ran with shots without images")
    if facts.mixes_batches:
        yield _mixes(trials)


def _made(trials: TinyTrials, made: Augmented) -> Check:
    facts = made.facts
    seconds = sum(phase.seconds for phase in facts.phases.values())
    rejected = ", ".join(f"{count} rejected: {why}" for why, count in facts.rejects.items())
    finding = (
        f"{trials.task.name}, {trials.upstream.name}: {facts.images_accepted} images"
        f"{f' ({rejected})' if rejected else ''} of at most "
        f"{IMAGES_PER_CLASS * len(trials.task.classes)} in {seconds:.1f} s"
    )
    if facts.cap == "tflops":
        return Check(
            "trial", "note", f"{finding}; {facts.reason}", "yield early, class after class"
        )
    return Check("trial", "ok", finding)


def _spent(facts: Facts, made: Augmented) -> Iterator[Check]:
    """What is charged is what the facts say is used."""
    phases = made.facts.phases
    tflops = sum(phase.tflops for phase in phases.values())
    parts = [f"{name} {phase.tflops:.3g}" for name, phase in phases.items() if phase.tflops]
    finding = f"{tflops:.3g} TFLOPs" + (f" ({', '.join(parts)})" if parts else "")
    if tflops and not MODELS & set(facts.uses):
        remedy = "name the parts that it calls: uses=(...) in FACTS"
        yield Check("uses", "wrong", f"{finding}, but FACTS says uses={facts.uses}", remedy)
    elif not tflops and MODELS & set(facts.uses):
        remedy = "leave out of FACTS.uses what it does not call"
        yield Check("uses", "wrong", f"nothing charged, but FACTS says uses={facts.uses}", remedy)
    else:
        yield Check("uses", "ok", finding)
    if ("fit" in phases) != (facts.adaptation != "none"):
        yield Check(
            "adaptation",
            "wrong",
            f"FACTS says adaptation={facts.adaptation!r}, its phases are {', '.join(phases)}",
            'train inside `with meter.phase("fit")`, and say in FACTS what is trained',
        )


def _repeats(first: Augmented, again: Augmented) -> Check:
    if first.facts.ledger_hash == again.facts.ledger_hash:
        return Check("same seed", "ok", "the same images, twice")
    return Check(
        "same seed",
        "wrong",
        "other images the second time",
        "draw from rng alone, and leave the upstream's weights as they are: train a copy",
    )


def _follows(fact: str, stated: bool, what: str, first: Augmented, other: Augmented) -> Check:
    """Whether images depend on a seed is what the facts say."""
    differs = first.facts.ledger_hash != other.facts.ledger_hash
    finding = f"another {what} gives {'other' if differs else 'the same'} images"
    if differs == stated:
        return Check(fact, "ok", f"{stated}: {finding}")
    return Check(fact, "wrong", f"FACTS says {stated}, but {finding}", f"say {fact}={differs}")


def _mixes(trials: TinyTrials) -> Check:
    """Batches as the classifiers give them, mixed twice from one seed."""
    import torch

    first, again = ([*trials.mixed()] for _ in range(2))
    if all(torch.equal(*pair) for pair in zip(first, again, strict=True)):
        return Check("mix", "ok", "batches of the same shape, the same from one seed")
    remedy = "draw from rng alone"
    return Check("mix", "wrong", "other batches from the same seed", remedy)

"""Counts what methods cost: the augmentation stage of one trial each, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchError, Unavailable
from benchmark.files import to_json, write_file
from benchmark.records.cost import CostTable, MethodCost, PhaseCost
from benchmark.records.environment import environment
from benchmark.registry import Method, MethodCall, Registry
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import augment
from benchmark.upstream.cost import image_tflops

if TYPE_CHECKING:
    from benchmark.protocol import Protocol
    from benchmark.records.augmented import AugmentFacts
    from benchmark.upstream import Upstream


def measure(
    path: Path,
    cell: CostTable,
    methods: Sequence[Method],
    registry: Registry,
    protocol: Protocol,
    upstream: Upstream,
    tell: Callable[[str, MethodCost], None],
) -> CostTable:
    """Measures what is missing of ``methods``, with their defaults, and writes the file after
    each of them. A method that failed is tried again. The images made meanwhile are of no use,
    and are not kept: see ``stub_denoiser``.

    Args:
        cell: task, upstream, budget and seed, with what is known already.
        tell: called with every method's name and spend.

    Raises:
        UnknownNameError: a task, upstream or budget that does not exist.
        StorageError: the file cannot be written.
    """
    task = registry.task(cell.task)
    images = protocol.budget_named(cell.budget).images_per_class * len(task.classes)
    plain = (image_tflops(upstream) or 0.0) * images
    cell = cell.model_copy(update={"plain_tflops": plain})
    known = {name: spent for name, spent in cell.methods.items() if name in registry.methods}
    for method in methods:
        name, found = method.name, known.get(method.name)
        if not found or found.method_hash != method.hash or found.status == "failed":
            call = MethodCall(method, method.params())
            seeds = Seeds(cell.seed, cell.seed if method.facts.stochastic else 0)
            trial = Trial(task, call, cell.upstream, cell.budget, seeds, protocol, registry.root)
            known[name] = _spent(trial, upstream)
            cell = cell.model_copy(update={"methods": dict(sorted(known.items()))})
            write_file(path, to_json(cell.model_dump(mode="json")))
        tell(name, known[name])
    return cell


def _spent(trial: Trial, upstream: Upstream) -> MethodCost:
    """One method; whatever a method may raise is its own result."""
    identity: dict[str, Any] = {
        "method_hash": trial.call.method.hash,
        "version": trial.call.method.facts.version,
        "params": trial.call.params.model_dump(mode="json"),
    }
    try:
        facts = _facts(trial, upstream)
    except Unavailable as reason:
        return MethodCost(**identity, status="skipped", reason=str(reason))
    except BenchError as error:
        return MethodCost(**identity, status="failed", reason=str(error))
    except MemoryError as error:
        return MethodCost(**identity, status="failed", reason=f"out of memory: {error}")
    phases = {
        name: PhaseCost(tflops=spend.tflops, nfe=spend.nfe)
        for name, spend in sorted(facts.phases.items())
        if spend.tflops or spend.nfe
    }
    same = {"status", "cap", "reason", "images_accepted", "images_rejected"}
    return MethodCost(**identity, **facts.model_dump(include=same), phases=phases)


def _facts(trial: Trial, upstream: Upstream) -> AugmentFacts:
    """``augment.json`` as the trial would leave it."""
    import torch

    uses = trial.call.method.facts.uses
    upstream.load(uses)
    where = environment(trial.root, str(upstream.device), torch.get_num_threads())
    with stub_denoiser(upstream) if "generator" in uses else nullcontext():
        return augment(trial, upstream, where, lambda *_: None).facts


@contextmanager
def stub_denoiser(upstream: Upstream) -> Iterator[None]:
    """Where it is not trained, the denoiser answers with zeros at once. What a call costs is
    counted before it and depends on shapes alone, so the counts are those of a real trial."""
    import torch

    from benchmark.upstream.generator import denoiser

    module: Any = denoiser(upstream.generator.pipeline)
    real = module.forward

    def forward(sample: Any, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        counting = sample.device.type == "meta"
        if torch.is_grad_enabled() or counting:
            return real(sample, *args, return_dict=return_dict, **kwargs)
        zeros = torch.zeros_like(sample)
        return SimpleNamespace(sample=zeros) if return_dict else (zeros,)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward

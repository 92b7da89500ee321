"""A contest in a small root, planned and run as ``bench run`` does it, in one worker process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmark.protocol import load_protocol
from benchmark.registry import load_registry
from benchmark.run.engines.local import LocalEngine
from benchmark.run.plan import Cell, Conditions, plan
from benchmark.run.scheduler import Listener, Outcome, run


class Silent(Listener):
    """Shows nothing."""


def plan_in(root: Path, methods: Sequence[str], **conditions: object) -> list[Cell]:
    """The rows of some methods on one shot of shapes, by the linear probe alone."""
    registry, protocol = load_registry(root), load_protocol(root)
    assert not registry.broken, registry.broken
    calls = [registry.call(name) for name in methods]
    chosen = Conditions(classifiers=["linear-probe"], **conditions)
    return plan(registry, protocol, calls, [registry.task("shapes-1shot")], chosen)


def run_in(root: Path, cells: Sequence[Cell], results: Path) -> Outcome:
    """Runs what is missing of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_ROOT", str(root))  # the engine sets it: so it is put back
        return run(cells, results, Silent(), LocalEngine(1), device="cpu")

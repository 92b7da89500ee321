"""What methods cost, in a file that is committed: counted once, true on every machine.

TFLOPs and NFE are kept; seconds would hold on one machine only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from benchmark.errors import ConfigError
from benchmark.records.record import Status
from benchmark.registry import Method
from benchmark.schema import Declared, declare


class PhaseCost(Declared):
    """What one phase used."""

    tflops: float = Field(ge=0)
    nfe: int = Field(ge=0)


class MethodCost(Declared):
    """What one method used, or why it could not be measured.

    Attributes:
        method_hash: of the file that was run; another one is measured again.
        version, params: of the method as it was run, to tell whether the numbers still hold.
    """

    method_hash: str
    version: int
    params: dict[str, Any]
    status: Status
    cap: str = ""
    reason: str = ""
    images_accepted: int = 0
    images_rejected: int = 0
    phases: dict[str, PhaseCost] = {}

    def holds_for(self, method: Method) -> bool:
        """Whether it was measured of this version with these defaults."""
        params = method.params().model_dump(mode="json")
        return self.version == method.facts.version and self.params == params


class CostTable(Declared):
    """The file: one cell, and every method that was measured in it.

    Attributes:
        plain_tflops: what the cell's images cost from plain prompts, the unit of budgets.
    """

    task: str
    upstream: str
    budget: str
    seed: int = Field(ge=0)
    plain_tflops: float = Field(default=0.0, ge=0)
    methods: dict[str, MethodCost] = {}

    def multiple(self, name: str) -> float | None:
        """What a method spends, as a multiple of plain generation of its images; None where that
        is not known."""
        cost = self.methods.get(name)
        if cost is None or cost.status not in ("ok", "capped") or not self.plain_tflops:
            return None
        return sum(phase.tflops for phase in cost.phases.values()) / self.plain_tflops


def read_costs(path: Path) -> CostTable:
    """The file's content; raises ``ConfigError`` where it is missing or does not validate."""
    import json

    try:
        return declare(CostTable, json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError) as error:
        raise ConfigError(path, [f"cannot be read: {error}"]) from None

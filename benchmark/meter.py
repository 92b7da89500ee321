"""The budget as an object that counts: FLOPs, denoiser evaluations (NFE), images, seconds.

FLOPs are counted, not timed: once per model and input shape on the ``meta`` device, then added
per call, so they are exact (a multiply-add is 2) and the same on every machine. A count is
charged before the work, so a cap is reached but never overspent.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmark.errors import BudgetStop
from benchmark.schema import Declared
from benchmark.stall import StallGuard

# (what, done, total): what is being counted, such as ("augment", 120, 500)
Progress = Callable[[str, int, int], None]

DEFAULT_PHASE = "augment"
_ROUNDING = 1e-12  # of a cap, which is a product of numbers that are not whole


@dataclass(frozen=True)
class Budget:
    """The caps of one trial, as numbers.

    Attributes:
        images_per_class: images accepted; kept by the image ledger, not by the meter.
        tflops: of all phases; infinite where the upstream has no generator to measure against.
    """

    images_per_class: int
    tflops: float = math.inf


class Spend(Declared):
    """What one phase used. FLOPs count a multiply-add as 2; NFE are denoiser evaluations of one
    image; seconds are wall-clock."""

    tflops: float = Field(default=0.0, ge=0)
    nfe: int = Field(default=0, ge=0)
    images: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)


@dataclass
class _Tally:
    """What one phase used; FLOPs as an integer, so that sums are exact."""

    flops: int = 0
    nfe: int = 0
    images: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, spend: Spend) -> _Tally:
        return cls(round(spend.tflops * 1e12), spend.nfe, spend.images, spend.seconds)

    def spend(self) -> Spend:
        return Spend(
            tflops=self.flops / 1e12, nfe=self.nfe, images=self.images, seconds=self.seconds
        )


class Meter:
    """What one trial may use, and has used, phase by phase.

    The clock runs inside ``watching`` and ``phase``; what lies inside ``paused`` is free.

    Args:
        spent: what the trial used before this meter was made, by phase; part of every sum.
        guard: hears of every charge and phase.

    Attributes:
        budget: the caps.
        n_classes: number of classes of the task.
    """

    def __init__(
        self,
        budget: Budget,
        n_classes: int,
        spent: Mapping[str, Spend] | None = None,
        guard: StallGuard | None = None,
    ) -> None:
        self.budget, self.n_classes = budget, n_classes
        self._guard = guard or StallGuard()
        self._tallies = {name: _Tally.of(spend) for name, spend in (spent or {}).items()}
        self._phases: list[str | None] = []  # innermost last; None while paused
        self._since = 0.0
        _reset_peak_memory()

    def charge(self, flops: int = 0, nfe: int = 0, images: int = 0) -> None:
        """Adds to the innermost phase what is about to be done.

        Args:
            flops: floating-point operations, 2 per multiply-add.
            nfe: evaluations of the denoiser for one image, for information; a step with
                classifier-free guidance is two, an evaluation of a batch of B rows is B.
            images: images generated or fetched, for information.

        Raises:
            BudgetStop: the FLOPs would exceed the cap (nothing is added then).
        """
        if self._is_paused:
            return
        used = self._sum()
        if used.flops + flops > self.budget.tflops * 1e12 * (1 + _ROUNDING):
            raise BudgetStop("tflops", used.flops / 1e12, self.budget.tflops)
        self._guard.progressed()  # a refused charge is none: who swallows the stop is ended
        tally = self._tally(self._phases[-1] if self._phases else None)
        tally.flops += int(flops)
        tally.nfe += nfe
        tally.images += images

    def progressed(self) -> None:
        """Says that the method is not hanging, as when an image of it was accepted."""
        self._guard.progressed()

    @property
    def stalled(self) -> bool:
        """Whether the method was ended for making no progress, and went on all the same."""
        return self._guard.stalled

    @property
    def current(self) -> str:
        """The innermost phase; "" while nothing is charged."""
        return "" if self._is_paused or not self._phases else str(self._phases[-1])

    @property
    def tflops_left(self) -> float:
        """What remains of the cap."""
        return self.budget.tflops - self.total().tflops

    def spent(self) -> dict[str, Spend]:
        """What each phase used so far."""
        self._tick()
        return {name: tally.spend() for name, tally in self._tallies.items()}

    def total(self) -> Spend:
        """What all phases used so far."""
        return self._sum().spend()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charges to ``name`` (``fit``, ``generate``, ``retrieve``, ``filter``) what happens
        inside. Phases nest; the innermost is charged."""
        self._guard.progressed()
        with self._entered(name):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Off the clock: nothing inside is charged, timed or interrupted."""
        with self._entered(None), self._guard.paused():
            yield

    @contextmanager
    def watching(self, phase: str = DEFAULT_PHASE) -> Iterator[None]:
        """Runs the clock, and ends what is inside where it makes no progress. What happens
        inside is charged to ``phase``, as the method's own ``meter.phase`` allows.

        Raises:
            Stalled: neither a charge nor an image for too long.
        """
        with self._entered(phase), self._guard.watching():
            yield

    @property
    def peak_memory_mb(self) -> float:
        """Largest resident memory of this process since the meter was made, in MiB (where the
        system cannot reset it: since the process started)."""
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM"))
            return int(peak.split()[1]) / 1024
        import resource

        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

    @property
    def peak_gpu_memory_mb(self) -> float:
        """Largest memory that torch allocated on one CUDA device since then, in MiB."""
        if not (torch := _torch_with_cuda()):
            return 0.0
        devices = range(torch.cuda.device_count())
        return float(max(torch.cuda.max_memory_allocated(device) for device in devices)) / 1024**2

    @property
    def _is_paused(self) -> bool:
        return None in self._phases

    def _sum(self) -> _Tally:
        self._tick()
        tallies = self._tallies.values()
        return _Tally(
            sum(tally.flops for tally in tallies),
            sum(tally.nfe for tally in tallies),
            sum(tally.images for tally in tallies),
            sum(tally.seconds for tally in tallies),
        )

    def _tally(self, name: str | None) -> _Tally:
        return self._tallies.setdefault(name or DEFAULT_PHASE, _Tally())

    def _tick(self) -> None:
        """Charges the time since the last tick to the innermost phase."""
        now = time.perf_counter()
        if self._phases and not self._is_paused:
            self._tally(self._phases[-1]).seconds += now - self._since
        self._since = now

    @contextmanager
    def _entered(self, name: str | None) -> Iterator[None]:
        depth = len(self._phases)
        self._tick()
        self._phases.append(name)
        try:
            yield
        finally:
            self._tick()
            del self._phases[depth:]  # also what an abandoned generator left on top


def _torch_with_cuda() -> Any:
    """torch, where it is loaded and has used CUDA."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def _reset_peak_memory() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (Linux, proc(5))
    if torch := _torch_with_cuda():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)

"""A method's batch hook as the classifiers call it: metered, checked, and ended at a cap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import BenchError, BudgetStop, MethodError, Stalled, Unavailable
from benchmark.labels import checked
from benchmark.meter import Meter
from benchmark.records.augmented import AugmentFacts
from benchmark.registry import MethodCall, method_error

if TYPE_CHECKING:
    from torch import Tensor

PHASE = "mix"
_SLACK = 1e-4  # by which a pixel may miss 0..1: it is clipped


class Mixer:
    """Applies ``mix`` of one method to batches, until the budget of its trial is used up.

    Args:
        call: a method with ``mix``.
        meter: with what the trial has spent already.
        rng: the hook's only source of chance.

    Attributes:
        stopped: the cap that ended the hook, where one did; batches pass unmixed from then on.
    """

    def __init__(self, call: MethodCall, meter: Meter, rng: np.random.Generator) -> None:
        self.call, self.meter, self.rng = call, meter, rng
        self.stopped: BudgetStop | None = None
        self._batches = 0

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, 3, S, S] in 0..1 and float [B, C] to the same, mixed.

        Raises:
            MethodError: the hook raised, or what it returned is not a batch like the one given.
        """
        mix = self.call.method.mix
        if mix is None or self.stopped:
            return images, targets
        try:
            with self.meter.watching(PHASE):
                copies = images.clone(), targets.clone()  # a cap must not leave a half-mixed batch
                mixed = mix(*copies, self.meter, self.rng, self.call.params)
        except BudgetStop as stop:
            self.stopped = stop
            return images, targets
        except Stalled as stall:
            raise MethodError(f"method {self.call.label!r}, mix, was ended: {stall}") from None
        except (Unavailable, BenchError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise method_error(self.call.label, error) from error
        where = f"method {self.call.label!r}, mix, batch {self._batches}"
        self._batches += 1
        return _checked_batch(mixed, images, targets, where)

    def added_to(self, facts: AugmentFacts) -> AugmentFacts:
        """The facts of the trial's first stage, with what the hook spent and, where a cap ended it,
        that it did."""
        found: dict[str, Any] = {"phases": self.meter.spent()}
        if self.stopped is not None:
            found |= {"status": "capped", "cap": self.stopped.unit, "reason": str(self.stopped)}
        return facts.model_copy(update=found)


def _checked_batch(
    mixed: Any, images: Tensor, targets: Tensor, where: str
) -> tuple[Tensor, Tensor]:
    """What the hook returned, as type, device and shape of what it was given."""
    import torch

    pair = isinstance(mixed, tuple) and len(mixed) == 2
    if not pair or not all(isinstance(part, torch.Tensor) for part in mixed):
        raise MethodError(f"{where}: expected (images, targets), two tensors, got {_kind(mixed)}")
    for name, given, found in zip(("images", "targets"), (images, targets), mixed, strict=True):
        if found.shape != given.shape or not found.is_floating_point():
            raise MethodError(
                f"{where}: {name}: expected float {list(given.shape)}, "
                f"got {found.dtype} {list(found.shape)}"
            )
    pixels, rows = (part.detach() for part in mixed)
    low, high = (value.item() for value in pixels.aminmax())
    if not (-_SLACK <= low and high <= 1 + _SLACK):  # NaN is neither
        raise MethodError(f"{where}: images: expected 0..1, got {low:.4g}..{high:.4g}")
    rows = torch.from_numpy(checked(rows.double().cpu().numpy(), f"{where}: targets"))
    return pixels.to(images).clamp(0, 1), rows.to(targets)


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(type(part).__name__ for part in value)}"
    return type(value).__name__

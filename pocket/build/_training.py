"""One resumable, seeded training run, shared by the three training scripts.

The state (weights, their moving average, optimizer moments, step, random generator, loss history)
is one file, replaced atomically, so that a run that is cut off goes on where it last saved and
ends with the same numbers as one that was not.

Learning rate: linear warm-up, constant, then a half cosine to zero over the last steps. Because
the constant part has no planned end, a run can be ended at any time: create the file ``FINISH``
in its work folder, and the final decay begins at the next step (over the number of steps that the
file holds, or ``decay_steps`` if it is empty). SIGTERM and SIGINT save the state and stop.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from benchmark.home import cache_folder

#: (step, series, loss): one point of a training curve.
Point = tuple[int, str, float]
#: Default folder of the states of all trainings: in the user's cache, outside the repository.
STATES = cache_folder() / "pocket-training"
WorkOption = Annotated[Path, typer.Option(help="Folder of the training state.")]

Loss = Callable[[nn.Module, torch.Generator], Tensor]
Evaluate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a run; steps are counted from the first ever taken."""

    learning_rate: float
    until_step: int
    warmup_steps: int = 300
    decay_steps: int = 600
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    ema_decay: float = 0.9995
    max_grad_norm: float = 1.0


@dataclass
class Run:
    """A model in training; `resume` then `fit`.

    Args:
        model: trained in place.
        recipe: hyper-parameters.
        work: folder of the state, the loss history and the FINISH file.
        seed: of the generator of all random numbers of the loss.
        start_step: number of steps the given weights were trained before, without their
            optimizer moments; warm-up counts from here.
        history: the loss curve up to `start_step`.
        ema: the moving average to go on from; a copy of `model` by default.
    """

    model: nn.Module
    recipe: Recipe
    work: Path
    seed: int = 0
    start_step: int = 0
    history: list[Point] = field(default_factory=list)
    ema: nn.Module | None = None

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self.step = self.start_step
        self.decay_from = max(self.start_step, self.recipe.until_step - self.recipe.decay_steps)
        self.decay_until = self.recipe.until_step
        self.averaged = (self.ema or copy.deepcopy(self.model)).eval().requires_grad_(False)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.recent: list[float] = []
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.model, self.recipe.weight_decay),
            lr=self.recipe.learning_rate,
            betas=self.recipe.betas,
        )

    @property
    def state_file(self) -> Path:
        return self.work / "state.pt"

    def resume(self) -> bool:
        """Load the saved state, if there is one; return whether there was."""
        if not self.state_file.exists():
            return False
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["raw"])
        self.averaged.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.start_step = state["step"], state["start_step"]
        self.history, self.recent = state["history"], state["recent"]
        if state["decay_from"] < self.step:  # a decay once begun is carried through as it began
            self.decay_from, self.decay_until = state["decay_from"], state["decay_until"]
        return True

    def save(self) -> None:
        """Replace the state file and the loss history atomically."""
        state = {
            "raw": self.model.state_dict(),
            "ema": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "start_step": self.start_step,
            "history": self.history,
            "recent": self.recent,
            "decay_from": self.decay_from,
            "decay_until": self.decay_until,
        }
        partial = self.state_file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.state_file)
        write_history(self.history, self.work / "training-loss.csv")

    def learning_rate(self) -> float:
        """Rate of the next step."""
        warm = min(1.0, (self.step - self.start_step + 1) / max(1, self.recipe.warmup_steps))
        done = (self.step - self.decay_from) / max(1, self.decay_until - self.decay_from)
        cool = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
        return self.recipe.learning_rate * warm * cool

    def fit(
        self,
        loss: Loss,
        evaluate: Evaluate,
        *,
        log_every: int = 200,
        save_seconds: float = 300,
        compile_model: bool = False,
    ) -> None:
        """Train to the last step or a signal; save on the way and at the end.

        Args:
            loss: (model, generator) -> scalar to minimize, random by that generator alone.
            evaluate: (model) -> losses by name, the same number for the same weights.
            log_every: steps between two points of the loss curve.
            save_seconds: wall-clock seconds between two saved states.
            compile_model: pass `loss` the model through torch.compile.
        """
        network = torch.compile(self.model) if compile_model else self.model
        if self.step == self.start_step:
            self._record(evaluate)
        saved, stop = time.monotonic(), _StopSignal()
        with stop:
            while self.step < self.decay_until and not stop.received:
                self._heed_finish_file()
                self._step(loss, network)
                if self.step % log_every == 0 or self.step == self.decay_until:
                    self._record(evaluate)
                if time.monotonic() - saved > save_seconds:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def _step(self, loss: Loss, network: nn.Module) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        value = loss(network, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.recent.append(value.item())
        # A short average while the weights still move fast: (1 + n) / (10 + n).
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay
            )

    def _record(self, evaluate: Evaluate) -> None:
        points: list[Point] = []
        if self.recent:
            points.append((self.step, "training", sum(self.recent) / len(self.recent)))
            self.recent = []
        for kind, model in (("raw", self.model), ("ema", self.averaged)):
            model.eval()
            with torch.no_grad():
                points += [(self.step, f"{k} ({kind})", v) for k, v in evaluate(model).items()]
        self.history += points
        shown = "  ".join(f"{name} {value:.4f}" for _, name, value in points)
        print(f"{time.strftime('%H:%M:%S')} step {self.step}  {shown}", flush=True)

    def _heed_finish_file(self) -> None:
        finish = self.work / "FINISH"
        if self.step % 10 or self.step >= self.decay_from or not finish.exists():
            return
        steps = int(finish.read_text().strip() or self.recipe.decay_steps)
        self.decay_from, self.decay_until = self.step, self.step + steps
        print(f"FINISH: learning rate falls to zero over steps {self.step}..{self.decay_until}")


class _StopSignal:
    """Context in which SIGTERM and SIGINT only set `received`."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> _StopSignal:
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups: weight decay on matrices and kernels, none on biases, norms and scales."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def write_history(history: Iterable[Point], path: Path) -> None:
    """Write a loss curve as csv: step, series, loss."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("step", "series", "loss"))
        rows.writerows((step, series, f"{loss:.5f}") for step, series, loss in history)
    os.replace(partial, path)


def read_history(path: Path, until_step: int) -> list[Point]:
    """The points of a loss curve csv that lie at or before `until_step`."""
    with path.open(newline="") as file:
        points = [(int(r["step"]), r["series"], float(r["loss"])) for r in csv.DictReader(file)]
    return [p for p in points if p[0] <= until_step]


def pick_device() -> torch.device:
    """The GPU, if torch sees one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Precision(StrEnum):
    """What the forward passes of a training compute in; weights and moments are always float32."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


PrecisionOption = Annotated[
    Precision, typer.Option(help="Of forward passes; auto: bf16 where the processor has units.")
]

#: Instructions that multiply bfloat16, as ``torch.cpu.get_capabilities`` names them (x86, Arm).
BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def uses_bf16(
    precision: Precision, device: torch.device, capabilities: Mapping[str, object] | None = None
) -> bool:
    """Whether forward passes run under autocast to bfloat16.

    ``auto`` asks the processor: without bfloat16 units such a step takes about three times as
    long as one in single precision. It is asked and not timed, so that the same command on the
    same machine always makes the same choice, and a resumed run ends with the same numbers.

    Args:
        capabilities: of the CPU, by name; those that torch detects by default. An older torch,
            which cannot detect them, counts as a CPU without such units.
    """
    if precision is not Precision.auto:
        return precision is Precision.bf16
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if capabilities is None:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(unit) for unit in BF16_UNITS)

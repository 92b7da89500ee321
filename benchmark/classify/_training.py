"""The training loop of the networks: fixed steps, one schedule, validation chooses the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from benchmark.classify._batches import (
    Data,
    Labelled,
    plan_batches,
    random_crop_and_flip,
    to_float,
)
from benchmark.classify._loss import target_loss
from benchmark.meter import Progress
from benchmark.protocol import Recipe

# Share of the steps over which the learning rate rises linearly, before it falls as a cosine.
WARM_UP = 0.2
_PREDICT_BATCH = 256


@dataclass(frozen=True)
class Fitted:
    """A trained classifier.

    Attributes:
        predict: uint8 [N, S, S, 3] to int64 [N], the top-1 classes.
        val_value: validation accuracy, 0..1; None without validation images.
        selected: what validation chose, such as ``step 240``.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    val_value: float | None
    selected: str


class Normalise(nn.Module):
    """Float [B, 3, S, S] in 0..1 to what a network was made for: first layer of each of them.

    ``size`` is the side it reads, in pixels (bicubic, antialiased); None leaves the images'.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], size: int | None = None
    ) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    mean: torch.Tensor
    std: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.size is not None and images.shape[-1] != self.size:
            images = interpolate(images, size=self.size, mode="bicubic", antialias=True)
            images = images.clamp(0, 1)
        return (images - self.mean) / self.std


def fit_network(
    network: nn.Module,
    recipe: Recipe,
    data: Data,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Fitted:
    """Trains ``network`` (float [B, 3, S, S] in 0..1 to logits [B, C]) with AdamW.

    Validation accuracy is read at ``recipe.checkpoints`` evenly spaced steps of the second half
    of the training, the last among them; the best is kept (ties: the latest). Without
    validation images the last step is.
    """
    network = network.to(device).to(memory_format=torch.channels_last)
    optimizer = _optimizer(network, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, recipe.steps)
    )
    generator = torch.Generator().manual_seed(seed)
    batches = plan_batches(data, recipe.steps, recipe.batch_size, generator)
    targets = torch.tensor(data.targets)
    best = _Best(data.val, network, device)
    last_steps = checkpoints(recipe)
    network.train()
    for step, rows in enumerate(batches, start=1):
        images = to_float(data.pixels(rows.numpy()), device)
        images = random_crop_and_flip(images, data.flip, generator)
        shown = targets[rows].to(device)
        if data.mix is not None:
            images, shown = data.mix(images, shown)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(images)
        loss = target_loss(logits.float(), shown, recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in last_steps:
            best.offer(step)
        progress("train", step, recipe.steps)
    return best.restored(recipe.steps)


def learning_rate_factor(step: int, steps: int) -> float:
    """Of the peak learning rate, at ``step`` 0..steps-1: a linear rise over the first
    ``WARM_UP`` of the steps, then half a cosine towards 0 (Loshchilov & Hutter 2017,
    arXiv:1608.03983, without restarts)."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 + 0.5 * math.cos(math.pi * (step - rise + 1) / (steps - rise + 1))


def predict(network: nn.Module, pixels: np.ndarray, device: torch.device) -> np.ndarray:
    """Top-1 classes int64 [N] of uint8 [N, S, S, 3]. The network is left as it was found."""
    training = network.training
    network.eval()
    found = [np.zeros(0, np.int64)]
    with torch.inference_mode():
        for start in range(0, len(pixels), _PREDICT_BATCH):
            images = to_float(pixels[start : start + _PREDICT_BATCH], device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = network(images)
            found.append(logits.argmax(dim=1).cpu().numpy())
    network.train(training)
    return np.concatenate(found)


class _Best:
    """The best checkpoint so far."""

    def __init__(self, val: Labelled, network: nn.Module, device: torch.device) -> None:
        self.val, self.network, self.device = val, network, device
        self.correct, self.step = -1, 0
        self.weights: dict[str, torch.Tensor] = {}

    def offer(self, step: int) -> None:
        """Reads validation, where there is any; a tie goes to the later step."""
        if not len(self.val):
            return
        predictions = predict(self.network, self.val.pixels, self.device)
        correct = int((predictions == self.val.labels).sum())
        if correct >= self.correct:
            self.correct, self.step = correct, step
            state = self.network.state_dict()
            self.weights = {name: value.clone() for name, value in state.items()}

    def restored(self, steps: int) -> Fitted:
        """The chosen checkpoint, its weights put back into the network."""
        if self.weights:
            self.network.load_state_dict(self.weights)
        value = self.correct / len(self.val) if len(self.val) else None
        return Fitted(
            predict=lambda pixels: predict(self.network, pixels, self.device),
            val_value=value,
            selected=f"step {self.step or steps}",
        )


def checkpoints(recipe: Recipe) -> list[int]:
    """The steps at which validation is read. None lies in the first half: there the learning
    rate is high and accuracy still jumps, and among a few dozen validation images a lucky early
    step would win over all that were learned after it."""
    half = recipe.steps - recipe.steps // 2
    parts = range(1, recipe.checkpoints + 1)
    return sorted({half + recipe.steps // 2 * part // recipe.checkpoints for part in parts})


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); biases and norms do not decay."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    groups = [
        {
            "params": [weight for weight in trained if weight.ndim >= 2],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)

"""Training parts of a generator on a few images: the denoising loss and one optimiser loop whose
length is planned from the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.errors import MethodError
from benchmark.meter import Meter
from benchmark.upstream.conditioning import Conditioning
from benchmark.upstream.generator import Generator

# The loss of one step, in parts that add up: each is a scalar of a batch that fits into memory,
# made when its gradient is wanted. It draws its own images and noise.
Loss = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Examples:
    """Images to train the denoiser on.

    Attributes:
        latents: [N, c, h, w], as ``Generator.encode`` returns them.
        labels: int64 [N], in 0..C-1: which of C conditions an image belongs to.
    """

    latents: Tensor
    labels: np.ndarray

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Rows of endless batches, int64 [size]: the classes come in turn, each once before one
        comes again, and the images of a class likewise."""
        present = np.unique(self.labels)
        rows = [np.flatnonzero(self.labels == label) for label in present]
        left: list[list[int]] = [[] for _ in present]
        queue: list[int] = []
        while True:
            while len(queue) < size:
                for place in rng.permutation(len(present)):
                    left[place] = left[place] or rng.permutation(rows[place]).tolist()
                    queue.append(left[place].pop())
            yield np.array(queue[:size])
            queue = queue[size:]


def denoising_loss(
    generator: Generator,
    latents: Tensor,
    conditioning: Conditioning,
    rng: np.random.Generator,
    *,
    timesteps: Tensor | None = None,
) -> Tensor:
    """The simple loss of Ho et al. 2020 (arXiv 2006.11239, equation 14), in the target that the
    generator was trained for (its noise, or v of Salimans & Ho 2022, arXiv 2202.00512).

    Args:
        latents: [B, c, h, w].
        conditioning: of the B images.
        timesteps: int64 [B] in 0..T-1; default: drawn evenly.

    Returns:
        float32 [B], the mean squared error of every image.
    """
    noising = generator.noise_scheduler
    draw = torch.Generator().manual_seed(int(rng.integers(2**63)))
    noise = torch.randn(latents.shape, generator=draw).to(latents)
    if timesteps is None:
        last = noising.config.num_train_timesteps
        timesteps = torch.randint(0, last, (len(latents),), generator=draw)
    timesteps = timesteps.to(latents.device)
    noisy = noising.add_noise(latents, noise, timesteps)
    target = noise
    if noising.config.prediction_type == "v_prediction":
        target = noising.get_velocity(latents, noise, timesteps)
    predicted = generator.predict(noisy, timesteps, conditioning)
    return mse_loss(predicted.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))


def train(
    parameters: Sequence[Tensor],
    loss: Loss,
    meter: Meter,
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.01,
    schedule: Literal["constant", "cosine"] = "constant",
    spare: float = 0.0,
) -> int:
    """Minimises ``loss`` over ``parameters`` with AdamW, for ``steps`` steps or as many as the
    budget holds: the first step shows what one costs, and the rest is planned from that, so a
    method that asks for too much trains less instead of being stopped.

    Parameters in half precision keep a copy in single precision that the optimiser works on.

    Args:
        lr: peak learning rate.
        schedule: ``cosine`` lets it fall to 0 over the steps that are really taken.
        spare: TFLOPs to leave, for what the method does afterwards.

    Returns:
        The steps taken, at least 1.

    Raises:
        MethodError: nothing to train, or the loss is not finite.
    """
    if not parameters:
        raise MethodError("there is nothing to train: no parameter was chosen")
    masters = [weight.detach().float().clone() for weight in parameters]
    optimizer = torch.optim.AdamW(masters, lr=lr, weight_decay=weight_decay)
    planned, done = steps, 0
    with meter.phase("fit"), torch.enable_grad():
        while done < planned:
            before = meter.total().tflops
            for group in optimizer.param_groups:
                fallen = 0.5 + 0.5 * math.cos(math.pi * done / planned)
                group["lr"] = lr * (fallen if schedule == "cosine" else 1.0)
            _step(parameters, masters, optimizer, loss)
            done += 1
            if done == 1:
                cost, left = meter.total().tflops - before, meter.tflops_left
                affordable = (left - spare) / max(cost, 1e-12)
                planned = max(1, min(steps, 1 + math.floor(min(affordable, steps))))
    return done


def _step(
    parameters: Sequence[Tensor],
    masters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
) -> None:
    optimizer.zero_grad()
    for part in loss():
        if not torch.isfinite(part):
            raise MethodError(f"training diverged: the loss is {part.item()}")
        found = torch.autograd.grad(part, list(parameters), allow_unused=True)
        for master, gradient in zip(masters, found, strict=True):
            if gradient is not None:
                gradient = gradient.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
    optimizer.step()
    with torch.no_grad():
        for weight, master in zip(parameters, masters, strict=True):
            weight.copy_(master)

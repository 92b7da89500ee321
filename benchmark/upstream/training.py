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

# The loss of one step as terms to add up, each of a batch that fits into memory: a term is computed
# when it is reached and freed before the next (gradient accumulation). It draws its own images and
# noise.
Loss = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Examples:
    """Images to train the denoiser on.

    Attributes:
        latents: [N, c, h, w], as ``Generator.encode`` returns them.
        labels: int64 [N], in 0..C-1: the class of each image.
    """

    latents: Tensor
    labels: np.ndarray

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Endless batches of rows, each int64 [size]: classes are cycled in random order, every
        class once before one comes again, and so are the images of a class."""
        present = np.unique(self.labels)
        rows = [np.flatnonzero(self.labels == label) for label in present]
        unseen: list[list[int]] = [[] for _ in present]  # of each class, until it starts anew
        queue: list[int] = []
        while True:
            while len(queue) < size:
                for index in rng.permutation(len(present)):
                    unseen[index] = unseen[index] or rng.permutation(rows[index]).tolist()
                    queue.append(unseen[index].pop())
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
        timesteps: int64 [B] in 0..T-1; default: drawn uniformly.

    Returns:
        float32 [B], the mean squared error of every image.
    """
    scheduler = generator.noise_scheduler
    # on the CPU, so that a seed gives the same noise on every device
    source = torch.Generator().manual_seed(int(rng.integers(2**63)))
    noise = torch.randn(latents.shape, generator=source).to(latents)
    if timesteps is None:
        count = scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, count, (len(latents),), generator=source)
    timesteps = timesteps.to(latents.device)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
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
    reserve_tflops: float = 0.0,
) -> int:
    """Minimises ``loss`` over ``parameters`` with AdamW, for ``steps`` steps or as many as the
    budget holds: the cost of the first step is measured, and the rest is planned from that, so a
    method that asks for too much trains less instead of being stopped.

    Parameters in half precision have a master copy in single precision that the optimiser updates
    (mixed precision: Micikevicius et al. 2018, arXiv 1710.03740, section 3.1).

    Args:
        steps: at least 1.
        lr: peak learning rate.
        schedule: ``cosine`` decays it to 0 over the steps that are really taken.
        reserve_tflops: what to leave of the budget for what the method does afterwards.

    Returns:
        The steps taken, at least 1.

    Raises:
        MethodError: nothing to train, or the loss is not finite.
        BudgetStop: the budget does not hold the first step.
    """
    if not parameters:
        raise MethodError("there is nothing to train: no parameter was chosen")
    masters = [weight.detach().float().clone() for weight in parameters]
    optimizer = torch.optim.AdamW(masters, lr=lr, weight_decay=weight_decay)
    planned, done = steps, 0
    with meter.phase("fit"), torch.enable_grad():
        while done < planned:
            # Not a scheduler of torch: the number of steps is known only after the first one.
            for group in optimizer.param_groups:
                decay = 0.5 + 0.5 * math.cos(math.pi * done / planned)
                group["lr"] = lr * (decay if schedule == "cosine" else 1.0)
            before = meter.total().tflops
            _step(parameters, masters, optimizer, loss)
            done += 1
            if done == 1:
                cost = meter.total().tflops - before
                planned = min(steps, 1 + _affordable_steps(meter, reserve_tflops, cost, steps))
    return done


def _affordable_steps(meter: Meter, reserve_tflops: float, cost: float, most: int) -> int:
    """How many steps of ``cost`` TFLOPs the budget holds beside the reserve, 0..``most``."""
    if math.isinf(meter.tflops_left):  # the reserve may be infinite as well
        return most
    affordable = (meter.tflops_left - reserve_tflops) / max(cost, 1e-12)
    return max(0, math.floor(min(affordable, most)))


def _step(
    parameters: Sequence[Tensor],
    masters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
) -> None:
    optimizer.zero_grad()
    for term in loss():
        if not torch.isfinite(term):
            raise MethodError(f"training diverged: the loss is {term.item()}")
        gradients = torch.autograd.grad(term, list(parameters), allow_unused=True)
        for master, gradient in zip(masters, gradients, strict=True):
            if gradient is not None:
                gradient = gradient.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
    optimizer.step()
    with torch.no_grad():
        for weight, master in zip(parameters, masters, strict=True):
            weight.copy_(master)

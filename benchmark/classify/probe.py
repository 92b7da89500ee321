"""A linear probe: multinomial logistic regression on the encoder's frozen image features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmark.classify._batches import Data, plan_batches
from benchmark.classify._training import Fitted, Progress, learning_rate_factor
from benchmark.protocol import ProbeSpec
from benchmark.upstream import Upstream
from benchmark.upstream.features import remembered


def fit(
    spec: ProbeSpec,
    data: Data,
    upstream: Upstream,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Fitted:
    """Trains one probe for every weight decay, all at once; validation chooses.

    Ties, and a task without validation images, go to the smallest decay.
    """

    encoder = upstream.encoder

    def evaluated(pixels: np.ndarray) -> Tensor:
        """Features of validation and test images, which every trial of a task is judged on."""
        return scaled(torch.tensor(remembered(pixels, encoder))).to(device)

    trained = [encoder.encode_images(part.pixels) for part in (data.real, data.added)]
    decays = sorted(set(spec.weight_decays))
    weights, biases = train_probes(
        spec, decays, data, scaled(torch.cat(trained)).to(device), seed, progress
    )
    best, val_value = 0, None
    if len(data.val):
        logits = torch.einsum("nd,wdc->wnc", evaluated(data.val.pixels), weights) + biases
        right = logits.argmax(dim=2).cpu() == torch.tensor(data.val.labels)
        correct = right.sum(dim=1).tolist()
        best = correct.index(max(correct))
        val_value = correct[best] / len(data.val)

    def predict(pixels: np.ndarray) -> np.ndarray:
        logits = evaluated(pixels) @ weights[best] + biases[best]
        return logits.argmax(dim=1).cpu().numpy()

    return Fitted(predict, val_value, f"weight decay {decays[best]:g}")


def scaled(features: Tensor) -> Tensor:
    """L2-normalised [N, D] to a mean square of 1 per entry: then one learning rate and one set
    of decays suit encoders of every width D."""
    return features * math.sqrt(features.shape[1])


def train_probes(
    spec: ProbeSpec,
    decays: Sequence[float],
    data: Data,
    inputs: Tensor,
    seed: int,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Weights [W, D, C] and biases [W, 1, C] of W independent probes on features [N + M, D].

    Each minimises its cross-entropy plus decay / 2 times its squared weights (Radford et al.
    2021, arXiv:2103.00020, appendix A.3, choose that strength on validation too) with Adam. The
    decay is part of the loss: decoupled from it, so few steps would not show it.
    """
    count, dim, device = len(decays), inputs.shape[1], inputs.device
    weights = torch.zeros(count, dim, data.n_classes, device=device, requires_grad=True)
    biases = torch.zeros(count, 1, data.n_classes, device=device, requires_grad=True)
    decay = torch.tensor(decays, device=device)
    optimizer = torch.optim.Adam([weights, biases], lr=spec.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, spec.steps)
    )
    generator = torch.Generator().manual_seed(seed)
    batches = plan_batches(data, spec.steps, spec.batch_size, generator).to(device)
    labels = torch.tensor(data.labels).to(device)
    for step, rows in enumerate(batches, start=1):
        logits = torch.einsum("nd,wdc->wnc", inputs[rows], weights) + biases
        losses = cross_entropy(
            logits.flatten(0, 1),
            labels[rows].repeat(count),
            label_smoothing=spec.label_smoothing,
            reduction="none",
        )
        penalty = 0.5 * (decay * weights.square().sum(dim=(1, 2))).sum()
        loss = losses.view(count, -1).mean(dim=1).sum() + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress("train", step, spec.steps)
    return weights.detach(), biases.detach()

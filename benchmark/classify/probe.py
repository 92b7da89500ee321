"""A linear probe: multinomial logistic regression on the encoder's frozen image features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.classify._batches import Data, plan_batches, to_float
from benchmark.classify._loss import target_loss
from benchmark.classify._training import Fitted, learning_rate_factor
from benchmark.meter import Progress
from benchmark.protocol import ProbeSpec
from benchmark.upstream import Upstream
from benchmark.upstream.encoder import Encoder
from benchmark.upstream.features import cached_features

# Mixed batches that a probe is shown, in turn. Its inputs are features of a frozen encoder: every
# batch mixed anew would be encoded anew at each step, which costs as much as training the tower.
MIXED_BATCHES = 8


@dataclass(frozen=True)
class Shown:
    """What a probe is fitted to.

    Attributes:
        inputs: float [N, D], scaled features.
        targets: int64 [N], or float [N, C] as ``benchmark.labels`` has them.
        batches: int64 [steps, B], rows of ``inputs``.
    """

    inputs: Tensor
    targets: Tensor
    batches: Tensor


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
        """Features of validation and test images, which every trial of a task is evaluated on."""
        return scaled(torch.tensor(cached_features(pixels, encoder))).to(device)

    decays = sorted(set(spec.weight_decays))
    shown = shown_to_probes(spec, data, encoder, seed, device)
    weights, biases = train_probes(spec, decays, shown, data.n_classes, progress)
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


def shown_to_probes(
    spec: ProbeSpec, data: Data, encoder: Encoder, seed: int, device: torch.device
) -> Shown:
    """The features of every image; where the method mixes batches, those of ``MIXED_BATCHES``
    mixed ones, which come round until the steps are done."""
    generator = torch.Generator().manual_seed(seed)
    batches, targets = plan_batches(data, spec.steps, spec.batch_size, generator), data.targets
    if data.mix is None:
        features = [encoder.encode_images(part.pixels) for part in (data.real, data.added)]
    else:
        features, mixed = [], []
        for rows in batches[:MIXED_BATCHES].numpy():
            images = to_float(data.pixels(rows), device)
            images, weights = data.mix(images, torch.tensor(targets[rows]).to(device))
            pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            features.append(encoder.encode_images(pixels))
            mixed.append(weights.cpu().numpy())
        targets = np.concatenate(mixed)
        pool = torch.arange(len(targets)).view(-1, spec.batch_size)
        batches = pool[torch.arange(spec.steps) % len(pool)]
    inputs = scaled(torch.cat(features)).to(device)
    return Shown(inputs, torch.tensor(targets).to(device), batches.to(device))


def scaled(features: Tensor) -> Tensor:
    """L2-normalised [N, D] to a mean square of 1 per entry: then one learning rate and one set
    of decays suit encoders of every width D."""
    return features * math.sqrt(features.shape[1])


def train_probes(
    spec: ProbeSpec,
    decays: Sequence[float],
    shown: Shown,
    n_classes: int,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Weights [W, D, C] and biases [W, 1, C] of W independent probes.

    Each minimises its cross-entropy plus decay / 2 times its squared weights (Radford et al.
    2021, arXiv:2103.00020, appendix A.3, choose that strength on validation too) with Adam. The
    decay is part of the loss: decoupled from it, so few steps would not show it.
    """
    count, dim, device = len(decays), shown.inputs.shape[1], shown.inputs.device
    weights = torch.zeros(count, dim, n_classes, device=device, requires_grad=True)
    biases = torch.zeros(count, 1, n_classes, device=device, requires_grad=True)
    decay = torch.tensor(decays, device=device)
    optimizer = torch.optim.Adam([weights, biases], lr=spec.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, spec.steps)
    )
    for step, rows in enumerate(shown.batches, start=1):
        logits = torch.einsum("nd,wdc->wnc", shown.inputs[rows], weights) + biases
        targets = shown.targets[rows]
        losses = target_loss(
            logits.flatten(0, 1), torch.cat([targets] * count), spec.label_smoothing, "none"
        )
        penalty = 0.5 * (decay * weights.square().sum(dim=(1, 2))).sum()
        loss = losses.view(count, -1).mean(dim=1).sum() + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress("train", step, spec.steps)
    return weights.detach(), biases.detach()

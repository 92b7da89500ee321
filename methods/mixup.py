"""mixup: a batch blended with itself in another order, labels in the same proportion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FACTS = benchmark.Facts(
    title="mixup",
    family="classical",
    paper="https://arxiv.org/abs/1710.09412",
    citation="Zhang et al. (2018), ICLR",
    uses_shots=False,  # ``augment`` does not look at them, and yields nothing
    stochastic=False,  # ``mix`` draws from the seed of the classifier training
    adds_images=False,
    mixes_batches=True,
)


class Params(benchmark.Params):
    """alpha of the paper: 1 in its experiments on CIFAR, 0.2 on ImageNet (weaker mixing)."""

    alpha: float = benchmark.param(
        1.0, help="both parameters of the Beta distribution of the weight", gt=0, le=100
    )


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Yields nothing: batches are mixed while the classifier is trained."""
    yield from ()


def mix(
    images: Tensor, targets: Tensor, meter: Meter, rng: np.random.Generator, params: Params
) -> tuple[Tensor, Tensor]:
    """Section 2: one weight for the batch, whose partners are its own images shuffled.

    Args:
        images: float [B, 3, S, S] in 0..1.
        targets: float [B, C], rows of weights that sum to 1.
    """
    import torch

    weight = float(rng.beta(params.alpha, params.alpha))
    # drawn by numpy, so that a seed mixes the same images on every device
    partner = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    # images[partner] + weight * (images - images[partner])
    return images[partner].lerp(images, weight), targets[partner].lerp(targets, weight)

"""CutMix: a rectangle of each image is another image's, labels in proportion to the areas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FACTS = benchmark.Facts(
    title="CutMix",
    family="classical",
    paper="https://arxiv.org/abs/1905.04899",
    citation="Yun et al. (2019), ICCV",
    uses_shots=False,  # ``augment`` does not look at them, and yields nothing
    stochastic=False,  # ``mix`` draws from the seed of the classifier training
    adds_images=False,
    mixes_batches=True,
)


class Params(benchmark.Params):
    """alpha of the paper, and the probability that it takes on CIFAR (on ImageNet: 1)."""

    alpha: float = benchmark.param(
        1.0, help="both parameters of the Beta distribution of the area kept", gt=0, le=100
    )
    probability: float = benchmark.param(0.5, help="share of the batches mixed", ge=0, le=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Yields nothing: batches are mixed while the classifier is trained."""
    yield from ()


def mix(
    images: Tensor, targets: Tensor, meter: Meter, rng: np.random.Generator, params: Params
) -> tuple[Tensor, Tensor]:
    """Section 3.1, equations 1 and 2: one rectangle for the batch, centred anywhere.

    Args:
        images: float [B, 3, S, S] in 0..1.
        targets: float [B, C], rows of weights that sum to 1.
    """
    import torch

    if rng.random() >= params.probability:
        return images, targets
    side = images.shape[-1]
    # the side of a square whose area is 1 - lambda of the image's, lambda ~ Beta(alpha, alpha)
    half = side * (1 - rng.beta(params.alpha, params.alpha)) ** 0.5 / 2
    centre = rng.uniform(0, side, 2)
    top, left = (max(0, round(middle - half)) for middle in centre)
    bottom, right = (min(side, round(middle + half)) for middle in centre)
    # The rectangle is clipped to the image, so labels follow the area that is left of it, not the
    # share that was drawn.
    kept = 1 - (bottom - top) * (right - left) / side**2
    # drawn by numpy, so that a seed mixes the same images on every device
    partner = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    images[..., top:bottom, left:right] = images[partner][..., top:bottom, left:right]
    return images, targets[partner].lerp(targets, kept)

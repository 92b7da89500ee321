"""CutMix: a rectangle of each image is another image's, labels in proportion to the areas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FACTS = benchmark.Facts(
    title="CutMix",
    family="classical",
    paper="https://arxiv.org/abs/1905.04899",
    citation="Yun et al. (2019), ICCV",
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
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Nothing: the shots are mixed as they are trained on."""
    yield from ()


def mix(
    images: Tensor, targets: Tensor, meter, rng: np.random.Generator, params: Params
) -> tuple[Tensor, Tensor]:
    """Section 3.1, equations 1 and 2: one rectangle for the batch, centred anywhere and clipped to
    the image, so the labels follow the area that is left of it."""
    import torch

    if rng.random() >= params.probability:
        return images, targets
    side = images.shape[-1]
    half = side * (1 - rng.beta(params.alpha, params.alpha)) ** 0.5 / 2
    centre = rng.uniform(0, side, 2)
    top, left = (max(0, round(middle - half)) for middle in centre)
    bottom, right = (min(side, round(middle + half)) for middle in centre)
    kept = 1 - (bottom - top) * (right - left) / side**2
    partner = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    images[..., top:bottom, left:right] = images[partner][..., top:bottom, left:right]
    return images, targets[partner].lerp(targets, kept)

"""mixup: a batch blended with itself in another order, labels in the same proportion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FACTS = benchmark.Facts(
    title="mixup",
    family="classical",
    paper="https://arxiv.org/abs/1710.09412",
    citation="Zhang et al. (2018), ICLR",
    adds_images=False,
    mixes_batches=True,
)


class Params(benchmark.Params):
    """alpha of the paper: 1 in its experiments on CIFAR, 0.2 on ImageNet (weaker mixing)."""

    alpha: float = benchmark.param(
        1.0, help="both parameters of the Beta distribution of the weight", gt=0, le=100
    )


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Nothing: the shots are mixed as they are trained on."""
    yield from ()


def mix(
    images: Tensor, targets: Tensor, meter, rng: np.random.Generator, params: Params
) -> tuple[Tensor, Tensor]:
    """Section 2: one weight for the batch, whose partners are its own images shuffled."""
    import torch

    weight = float(rng.beta(params.alpha, params.alpha))
    partner = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    return images[partner].lerp(images, weight), targets[partner].lerp(targets, weight)

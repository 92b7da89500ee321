"""Denoiser and conditioning fine-tuned together on the shots.

    theta*, c* = argmin  E || epsilon - epsilon_theta(z_t, t, c_k) ||^2

One denoiser for all classes of the task, a tensor per class. Its weights are restored afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._conditioning import ConditioningParams, fine_tune
from ._personalize import fit_shared

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Fine-tuned diffusion model",
    family="personalize",
    adaptation="full",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: fine-tuned diffusion model and conditioning",
    uses=("generator", "encoder"),
)


class Params(ConditioningParams):
    """The classes share the denoiser, so a batch mixes them."""

    fit_steps: int = benchmark.param(150, help="optimiser steps", ge=1)
    lr: float = benchmark.param(1e-5, help="learning rate", gt=0)
    batch_size: int = benchmark.param(20, help="images in a step", ge=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns weights and tensors, then samples from the tensors of each class, cycled."""
    from benchmark.upstream.adapters import unfrozen
    from benchmark.upstream.generator import denoiser

    with unfrozen(denoiser(upstream.generator.pipeline)) as theta:
        yield from fine_tune(shots, upstream, meter, rng, params, fit_shared, theta)

"""DreamBooth: the whole denoiser fine-tuned on the shots, each class named by a rare token.

    E || x_theta(z_t, c = "a [V] dog") - x ||^2 + lambda E || x_theta(z'_t, c' = "a dog") - x' ||^2

The second term preserves the class prior: x' are images of the plain prompt, generated beforehand
by the frozen generator (equation 2). The paper trains a model per subject; here one model learns
all classes of the task, each with a [V] of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._identifiers import identifiers
from ._subjects import PriorParams, fit_subjects, generated_prior

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="DreamBooth",
    family="personalize",
    adaptation="full",
    query="class name",
    paper="https://arxiv.org/abs/2208.12242",
    citation="Ruiz et al. (2023), CVPR",
    uses=("generator", "encoder"),
)


class Params(PriorParams):
    """``published``: the paper's, for Stable Diffusion and one subject."""

    fit_steps: int = benchmark.param(100, help="optimiser steps", published=1000, ge=1)
    lr: float = benchmark.param(1e-5, help="learning rate", published=5e-6, gt=0)
    batch_size: int = benchmark.param(10, help="shots in a step", published=1, ge=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Generates the prior, trains the denoiser, samples; the weights are restored."""
    from benchmark.upstream.adapters import unfrozen
    from benchmark.upstream.generator import denoiser

    pipeline = upstream.generator.pipeline
    # Before training: the identifiers and the prior are those of the generator as it is.
    names = identifiers(shots, upstream, meter)
    prior = generated_prior(shots, upstream, meter, rng, params)
    with unfrozen(denoiser(pipeline)) as theta:
        yield from fit_subjects(
            shots, upstream, meter, rng, params, theta, identifiers=names, prior=prior
        )

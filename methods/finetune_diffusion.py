"""Denoiser and conditioning fine-tuned together on the shots.

    theta*, c* = argmin  E || epsilon - epsilon_theta(z_t, t, c_k) ||^2

One denoiser for all classes of the task, a tensor per class. Its weights are put back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._conditions import beginnings, clusters, in_turn
from ._personalize import Sampling, drawn, examples, fit_shared, spare

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


class Params(Sampling):
    """What the paper publishes of its training could not be read here: the defaults are ours."""

    clusters: int = benchmark.param(1, help="tensors per class", ge=1, le=64)
    fit_steps: int = benchmark.param(150, help="optimiser steps", ge=1)
    lr: float = benchmark.param(1e-5, help="learning rate", gt=0)
    batch_size: int = benchmark.param(20, help="images in a step", ge=1)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns weights and tensors, then draws from the tensors of each class in turn."""
    from benchmark.upstream.adapters import unfrozen
    from benchmark.upstream.generator import denoiser

    own, of_class = clusters(shots, upstream, meter, rng, params.clusters)
    c = beginnings(shots, upstream, meter, own, sum(map(len, of_class)))
    z = examples(shots, upstream, meter)
    left = spare(shots, upstream, meter, params)

    with unfrozen(denoiser(upstream.generator.pipeline)) as theta:
        weights = [*theta, *c.tensors()]
        fit_shared(upstream, z, lambda rows: c.rows(own[rows]), weights, meter, rng, params, left)
        yield from drawn(shots, upstream, meter, rng, params, conditions=in_turn(c, of_class))

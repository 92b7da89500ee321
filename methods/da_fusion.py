"""The shots edited under a pseudo-word learned for their class, at several strengths.

DA-Fusion of Trabucco et al.: a pseudo-word w_c per class by textual inversion, then for each image
x_ref its edit by SDEdit from time t_0 T, under "a photo of a w_c":

    x = sqrt(a(t_0 T)) x_ref + sqrt(1 - a(t_0 T)) epsilon,   t_0 drawn from {1/4, 1/2, 3/4, 1}

t_0 is drawn for a whole round of the classes, so that images of equal t_0 are edited in one batch:
a choice of ours. The word stands in each of the task's prompts, cycled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._edits import cycle_shots, edits, group_by_value
from ._inversion import InversionParams, inverted
from ._sampling import sampling_tflops

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="DA-Fusion: edits under learned words",
    family="edit",
    adaptation="token",
    query="class name",
    paper="https://arxiv.org/abs/2302.07944",
    citation="Trabucco et al. (2024), ICLR",
    uses=("generator",),
)

STRENGTHS = (0.25, 0.5, 0.75, 1.0)  # t_0


class Params(InversionParams):
    """``published``: for guidance those of the authors' release, for training those of DIAGen
    (Lingenberg et al. 2024, arXiv 2408.14584), which builds on it."""

    fit_steps: int = benchmark.param(100, help="optimiser steps", published=1000, ge=1)
    lr: float = benchmark.param(5e-3, help="learning rate", published=5e-4, gt=0)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns the words, then edits the shots of each class, cycled."""
    count, generator = meter.budget.images_per_class, upstream.generator
    # one t_0 per turn, repeated for its classes
    t0 = rng.choice(STRENGTHS, size=count).repeat(len(shots.classes))
    # what images from noise alone cost: most edits cost less
    reserve = sampling_tflops(shots, upstream, meter, params)
    with inverted(shots, upstream, meter, rng, params, reserve) as texts:
        rows, prompts = cycle_shots(shots, count, rng, texts)
        for strength, positions in group_by_value(t0):
            with meter.phase("generate"):
                yield from edits(
                    generator,
                    shots,
                    rows[positions],
                    [prompts[position] for position in positions],
                    rng,
                    strength=strength,
                    guidance_scale=params.guidance_scale,
                    steps=params.steps,
                )

"""The shots guide generation: class prompts, denoised from noised shots, filtered by CLIP.

Real Guidance of He et al.: instead of from pure noise, the reverse process starts from a shot
noised to step t_s; the more shots there are, the less noise. Their CLIP filter removes images of
low zero-shot confidence: the softmax over the classes of the image's cosines to their texts.
Where they cut at a threshold, here the best of every few is kept, so that the budget of images is
filled: a choice of ours. The sentences that they write from class names with a language model are
left out; the prompts are the task's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._edits import cycle_shots, edits
from ._filters import best_of, joined
from ._queries import template_ensemble, zero_shot

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Real Guidance: shots edited under class prompts",
    family="edit",
    query="class name",
    paper="https://arxiv.org/abs/2210.07574",
    citation="He et al. (2023), ICLR: Real Guidance with the CLIP filter",
    uses=("generator", "encoder"),
    filters=("score",),
)

# t_s / T by shots per class: 15, 20, 35, 40, 50 of 100 steps in the authors' release
# (https://github.com/CVMI-Lab/SyntheticData)
STRENGTH = {16: 0.15, 8: 0.20, 4: 0.35, 2: 0.40, 1: 0.50}


class Params(benchmark.Params):
    """``published``: those of the release, for GLIDE."""

    strength: float = benchmark.param(
        0.0, help="t_s / T; at 0 as published for as many shots per class", ge=0, le=1
    )
    candidates: int = benchmark.param(2, help="edits for each one kept", ge=1, le=100)
    guidance_scale: float = benchmark.param(
        3.0, help="classifier-free guidance; at 1 there is none", ge=0, le=30
    )
    steps: int = benchmark.param(20, help="denoising steps from T", published=100, ge=1, le=1000)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The shots of each class, cycled; of the candidates from one shot the most certain is kept."""
    import numpy as np

    n, generator = params.candidates, upstream.generator
    rows, prompts = cycle_shots(shots, meter.budget.images_per_class, rng)
    # 0 would not change the shots, so it stands for the published table
    strength = params.strength or published(len(shots.labels) / len(shots.classes))
    with meter.phase("filter"):
        class_features = template_ensemble(upstream.encoder, shots.classes)
    group = max(1, generator.batch_size // n)  # shots whose candidates fill a batch
    for start in range(0, len(rows), group):
        chosen = np.repeat(rows[start : start + group], n)
        repeated = [text for text in prompts[start : start + group] for _ in range(n)]
        with meter.phase("generate"):
            images = joined(
                edits(
                    generator,
                    shots,
                    chosen,
                    repeated,
                    rng,
                    strength=strength,
                    guidance_scale=params.guidance_scale,
                    steps=params.steps,
                )
            )
        with meter.phase("filter"):
            probabilities = zero_shot(upstream.encoder, images.pixels, class_features)
        # of the probabilities, those of the image's own class; candidates of one shot side by side
        own = probabilities[np.arange(len(chosen)), shots.labels[chosen]].reshape(-1, n)
        yield replace(images, rejected=[reason for scores in own for reason in best_of(scores)])


def published(shots: float) -> float:
    """The strength for so many shots per class: that of the next smaller number in the table."""
    return STRENGTH[max(listed for listed in STRENGTH if listed <= max(shots, 1))]

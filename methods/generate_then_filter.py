"""Several candidates generated for each image; the most certain of its class is kept.

The CLIP filter of He et al. removes generated images of low zero-shot confidence: the softmax
over the classes of the image's cosines to their texts. Where they cut at a threshold, here the
best of every few is kept, so that the budget of images is filled: a choice of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._filters import best_of, joined
from ._queries import template_ensemble, zero_shot
from ._sampling import Sampling, affordable_steps, cycle_prompts

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Generated, then filtered by CLIP",
    family="hybrid",
    query="class name",
    paper="https://arxiv.org/abs/2210.07574",
    citation="He et al. (2023), ICLR: the CLIP filter",
    uses=("generator", "encoder"),
    filters=("score",),
    uses_shots=False,
)


class Params(Sampling):
    candidates: int = benchmark.param(2, help="images generated for each one kept", ge=1, le=100)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Turn by turn, one image of every class; the prompts of each class, cycled."""
    n, classes = params.candidates, range(len(shots.classes))
    with meter.phase("filter"):
        class_features = template_ensemble(upstream.encoder, shots.classes)
    prompts, labels, seeds = cycle_prompts(shots, n * meter.budget.images_per_class, rng)
    # Candidates multiply the cost: fewer steps for all rather than fewer images.
    steps = affordable_steps(upstream, meter, len(prompts), params)
    # n rounds of the classes are the candidates of one turn
    for start in range(0, len(prompts), n * len(classes)):
        turn = slice(start, start + n * len(classes))
        with meter.phase("generate"):
            images = joined(
                upstream.generator.text_to_image(
                    prompts[turn],
                    labels[turn],
                    seeds[turn],
                    size=shots.image_size,
                    guidance_scale=params.guidance_scale,
                    steps=steps,
                )
            )
        with meter.phase("filter"):
            probabilities = zero_shot(upstream.encoder, images.pixels, class_features)
        scores = probabilities.reshape(n, len(classes), -1)  # candidate, its class, every class
        reasons = [best_of(scores[:, label, label]) for label in classes]
        yield replace(images, rejected=[reasons[label][c] for c in range(n) for label in classes])

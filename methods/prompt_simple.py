"""Images generated from the class prompts. Copy this file to add a method.

A method is one file, ``methods/<name>.py``; ``bench run --method <name>`` runs it. It states its
facts, declares its parameters, and yields images from one function. It is registered nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

# Files with an underscore are helpers. This one holds the parameters of all that sample from the
# generator, each with its default here, the one that was published, and its limits:
#
#     steps: int | None = benchmark.param(None, help="denoising steps", published=50, ge=1, le=1000)
#
# A method without parameters has no class Params, and imports benchmark.Params for its signature.
from ._sampling import Sampling

# Only a type checker imports what stands here: `bench list` reads the facts of every method, and
# numpy or torch would make it wait. What the code itself needs is imported inside the function.
if TYPE_CHECKING:
    import numpy as np

# What the method is: shown by `bench show` and on the page, which contrasts families. The harness
# takes it at its word, and the tests check it.
FACTS = benchmark.Facts(
    title="Generated from class prompts",
    family="prompt",
    query="class name",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: the simple-prompt baseline",
    uses=("generator",),  # loaded before the meter runs; without it, this method is skipped
    uses_shots=False,  # so it is given none, and its images are shared by all few-shot splits
    # stochastic=False would say that the images do not depend on ``rng``; here they do
)


class Params(Sampling):
    """`bench run --method "prompt_simple[steps=20]"` changes one, and the record says so."""


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The prompts of each class, cycled, every image from a seed of its own.

    The harness calls this once per trial and takes images until the budget is used up.

    Args:
        shots: from the few-shot split: ``images`` uint8 [N, S, S, 3], ``labels`` [N] and ``ids``;
            and from the task's card: ``classes``, each with its name, prompts and queries.
        upstream: from ``bench.toml``: its ``generator``, ``encoder`` and ``corpus``, and
            ``nearest()`` and ``retrieve()`` to search that. What they compute is charged.
        meter: the budget. ``budget.images_per_class`` is what may be yielded, ``tflops_left`` what
            may be computed; at that cap the method is stopped and what it yielded is kept.
        rng: seeded by the harness, the only source of chance: a seed gives its images again.
        params: checked against their limits before.

    Yields:
        Batches of any size and any mixture of classes. Each image has ``shots.image_size`` pixels a
        side, a label, and its provenance, which becomes its row of the ledger. ``benchmark.Images``
        says what else a label may be, and how to reject an image by a filter.
    """
    prompts, labels = [], []
    # Every class once before one comes again: a cap reached half-way leaves the classes balanced.
    for turn in range(meter.budget.images_per_class):
        for label, entry in enumerate(shots.classes):
            prompts.append(entry.prompts[turn % len(entry.prompts)])
            labels.append(label)
    seeds = rng.integers(2**63, size=len(prompts)).tolist()
    # The name says under what the cost is shown: fit, generate, retrieve or filter.
    with meter.phase("generate"):
        # The generator yields batches of Images with their provenance. What you compute yourself:
        #     source = benchmark.Provenance("transformed", "mirror", parents=(shots.ids[row],))
        #     yield Images(shots.images[row : row + 1, :, ::-1], [shots.labels[row]], [source])
        yield from upstream.generator.text_to_image(
            prompts,
            labels,
            seeds,
            size=shots.image_size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
        )

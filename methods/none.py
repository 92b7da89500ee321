"""No augmentation: the control that every gain is paired with. Copy this file to add a method.

A method is one file, ``methods/<name>.py``; its name is what ``bench run --method <name>`` takes.
It states its facts, declares its parameters, and yields images from one function. Nothing is
registered anywhere else, and files that start with an underscore are helpers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

if TYPE_CHECKING:  # whatever is slow to import is imported inside the function: lists stay instant
    import numpy as np

# What the method is. Read without running it: shown by `bench show`, contrasted on the page.
# A method that uses models or the corpus says so, to have them loaded before the clock starts:
# uses=("generator",), or "corpus", "encoder", "index".
FACTS = benchmark.Facts(
    title="No augmentation",
    family="control",  # or classical, prompt, edit, personalize, retrieve, hybrid, oracle
    adds_images=False,  # it yields none: leave the line out where yours does
)


# Parameters, each with its default here, the default its paper published, and its limits.
# `bench run --method "name[strength=0.7]"` changes one, and the record says so.
#
#     class Params(benchmark.Params):
#         strength: float = benchmark.param(0.5, help="...", published=0.8, gt=0, le=1)


def augment(
    shots: Shots,  # .images uint8 [N, S, S, 3], .labels [N], .ids, .classes with name and prompts
    upstream,  # .generator, .encoder, .corpus; .nearest(), .retrieve()
    meter,  # .budget.images_per_class, .phase("fit"), .tflops_left
    rng: np.random.Generator,  # the only source of chance: the same seed, the same images
    params: benchmark.Params,
) -> Iterator[Images]:
    """Yields batches of any size and any mixture of classes. Go round the classes, so that a cap
    reached half-way leaves them balanced. An image comes with its label and its provenance:

        for _ in range(meter.budget.images_per_class):
            for label in range(len(shots.classes)):
                row = rng.choice(shots.rows(label))
                mirrored = shots.images[row][:, ::-1]
                told = benchmark.Provenance("transformed", "mirror", parents=(shots.ids[row],))
                yield Images(mirrored[None], [label], [told])

    A label may also be a row of weights over the classes, and an image that a filter of yours
    turned down is yielded with its reason: see `benchmark.Images`. A method that acts on the
    classifier's batches (as mixup.py does) says mixes_batches=True and defines `mix` as well.
    """
    yield from ()

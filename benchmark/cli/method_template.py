"""One sentence on what the method does; then, in a few more, whose idea it is and what differs.

Written by ``bench new method``, and it runs as it is: every shot, moved by some pixels. Edit it
from the top down, and run ``bench check`` after each step. A method is this one file: it is
registered nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

# What is slow to import (numpy, torch) is imported where it is used: `bench list` reads the facts
# of every method, and would wait for it.
if TYPE_CHECKING:
    import numpy as np

# 1. What the method is; shown by `bench show` and on the page.
FACTS = benchmark.Facts(
    title="Shots moved by some pixels",  # a few words for tables
    # control, classical, prompt, edit, personalize, retrieve, hybrid or oracle; all but control and
    # oracle state paper="https://..." and citation="Authors (year), venue" as well
    family="control",
    adaptation="none",  # what of the generator is trained: none, token, conditioning, LoRA, full
    query="none",  # what it generates or retrieves with: class name, templates, caption, image
    uses=(),  # parts of the upstream, loaded beforehand: "corpus", "encoder", "index", "generator"
    uses_shots=True,  # False: given shots without images, and run once for all splits
    stochastic=True,  # False: the images do not depend on rng, and one draw seed is run
)


# 2. What can be set: `bench run --method "name[shift=2]"`. Each with the default here, limits and,
#    where it is another, the default that was published (published=...).
class Params(benchmark.Params):
    """Leave the class out where there is nothing to set."""

    shift: int = benchmark.param(4, help="largest move, in pixels", ge=1, le=64)


# 3. The images.
def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Class after class, so that a cap that is reached leaves the classes balanced.

    Args:
        shots: ``images`` uint8 [N, S, S, 3], ``labels`` [N], ``ids``; ``classes`` with their name,
            prompts and queries.
        upstream: ``upstream.generator.text_to_image(...)``, ``upstream.encoder``,
            ``upstream.nearest(...)``, ``upstream.retrieve(...)``; what they compute is charged.
        meter: ``meter.budget.images_per_class`` may be yielded for each class, and
            ``meter.tflops_left`` be computed; what was yielded before a cap is kept.
        rng: the only source of chance: the same seed, the same images.
    """
    import numpy as np

    for _ in range(meter.budget.images_per_class):
        for label in range(len(shots.classes)):
            row = int(rng.choice(shots.rows(label)))
            moves = rng.integers(-params.shift, params.shift + 1, 2).tolist()
            image = np.roll(shots.images[row], moves, axis=(0, 1))
            # Where the image came from: its row of the ledger.
            source = benchmark.Provenance("transformed", "shift", parents=(shots.ids[row],))
            yield Images(image[None], [label], [source])

"""What the classical transforms share: cycling the shots, and seeds for global generators."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmark import Images, Meter, Provenance, Shots

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


def transformed(
    shots: Shots,
    meter: Meter,
    rng: np.random.Generator,
    transform: Callable[[Image.Image], Image.Image],
    source: str,
) -> Iterator[Images]:
    """The shots of each class, cycled, each time through ``transform`` anew.

    Args:
        source: the transform's name, for the ledger.
    """
    import numpy as np
    from PIL import Image

    # A class with three shots and a budget of ten uses each three times before one a fourth.
    order = [rng.permutation(shots.rows(label)) for label in range(len(shots.classes))]
    for turn in range(meter.budget.images_per_class):
        rows = [int(of_class[turn % len(of_class)]) for of_class in order]
        # drawn anew for every turn, so that a shot is transformed otherwise when it comes again
        with seeded(int(rng.integers(2**32))):
            pixels = [np.asarray(transform(Image.fromarray(shots.images[row]))) for row in rows]
        provenance = [Provenance("transformed", source, parents=(shots.ids[row],)) for row in rows]
        yield Images(np.stack(pixels), shots.labels[rows], provenance)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, numpy and torch inside, and restores them: timm draws
    from the first two, torchvision from the third."""
    import numpy as np
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # that of the CPU alone
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)

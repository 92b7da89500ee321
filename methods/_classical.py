"""What the classical transforms share: going round the shots, and seeding who draws globally."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmark import Images, Provenance, Shots

if TYPE_CHECKING:
    import numpy as np


def transformed(
    shots: Shots, meter, rng: np.random.Generator, transform: Callable[[Any], Any], source: str
) -> Iterator[Images]:
    """The shots of each class in turn, each time through ``transform`` anew (PIL to PIL)."""
    import numpy as np
    from PIL import Image

    order = [rng.permutation(shots.rows(label)) for label in range(len(shots.classes))]
    for rank in range(meter.budget.images_per_class):
        rows = [int(rows[rank % len(rows)]) for rows in order]
        with seeded(int(rng.integers(2**32))):
            made = [np.asarray(transform(Image.fromarray(shots.images[row]))) for row in rows]
        told = [Provenance("transformed", source, parents=(shots.ids[row],)) for row in rows]
        yield Images(np.stack(made), shots.labels[rows], told)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """timm draws from the global generators of Python and numpy, torchvision from torch's: seeded
    inside, put back after."""
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])

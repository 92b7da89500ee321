"""RandAugment: random chains of colour and geometry operations on the shots themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Provenance, Shots

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="RandAugment",
    family="classical",
    paper="https://arxiv.org/abs/1909.13719",
    citation="Cubuk et al. (2020), CVPR Workshops",
)


class Params(benchmark.Params):
    """N and M of the paper."""

    operations: int = benchmark.param(2, help="operations in a chain (N)", ge=1, le=10)
    magnitude: int = benchmark.param(9, help="strength of each, 0..10 (M)", ge=0, le=10)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The shots of each class in turn, each time through another chain."""
    import numpy as np
    from PIL import Image
    from timm.data.auto_augment import rand_augment_transform

    # p1: every operation of a chain is applied, as in the paper (timm's own default is half)
    chain = f"rand-m{params.magnitude}-n{params.operations}-p1"
    transform = rand_augment_transform(chain, {})
    order = [rng.permutation(shots.rows(label)) for label in range(len(shots.classes))]
    for rank in range(meter.budget.images_per_class):
        rows = [int(rows[rank % len(rows)]) for rows in order]
        with seeded(int(rng.integers(2**32))):
            made = [np.asarray(transform(Image.fromarray(shots.images[row]))) for row in rows]
        told = [
            Provenance("transformed", f"timm {chain}", parents=(shots.ids[row],)) for row in rows
        ]
        yield Images(np.stack(made), shots.labels[rows], told)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """timm draws from the global generators of Python and numpy: seeded inside, put back after."""
    import numpy as np

    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])

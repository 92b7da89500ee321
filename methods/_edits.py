"""Editing the shots of each class in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from benchmark import Images, Shots

from ._rounds import rounds

if TYPE_CHECKING:
    import numpy as np


def in_turn(
    shots: Shots,
    count: int,
    rng: np.random.Generator,
    texts: Sequence[Sequence[str]] | None = None,
) -> tuple[np.ndarray, list[str]]:
    """The shot and the prompt of ``count`` edits per class, class by class in turn: the shots of
    a class in an order drawn by chance, again and again, its prompts in their own order.

    Args:
        texts: the prompts of each class; default: those of its card.

    Returns:
        Rows of ``shots``, int64 [count * C], and as many texts.
    """
    import numpy as np

    texts = texts or [entry.prompts for entry in shots.classes]
    order = [rng.permutation(shots.rows(label)) for label in range(len(texts))]
    turns = rounds(count, len(texts))
    rows = [order[label][turn % len(order[label])] for turn, label in turns]
    return np.array(rows), [texts[label][turn % len(texts[label])] for turn, label in turns]


def alike(values: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Each value that occurs, in the order of first occurrence, with its places, int64 [n]:
    ``image_to_image`` makes images of one strength at a time."""
    import numpy as np

    for value in dict.fromkeys(values.tolist()):
        yield value, np.flatnonzero(values == value)


def edits(
    generator: Any,
    shots: Shots,
    rows: np.ndarray,
    prompts: Sequence[str],
    rng: np.random.Generator,
    **how: Any,
) -> Iterator[Images]:
    """``image_to_image`` of these shots, each from a seed of its own, under its own label.

    Args:
        how: further arguments: strength, guidance_scale, steps, perhaps conditioning or labels.
    """
    return generator.image_to_image(
        shots.images[rows],
        prompts,
        **{"labels": shots.labels[rows].tolist()} | how,
        seeds=rng.integers(2**63, size=len(rows)).tolist(),
        size=shots.image_size,
        parents=[(shots.ids[row],) for row in rows],
    )

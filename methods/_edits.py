"""Editing the shots: which shot under which prompt, and the edits themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmark import Images, Shots

from ._sampling import rounds
from ._shots import originals

if TYPE_CHECKING:
    import numpy as np

    from benchmark.upstream.generator import Generator


def cycle_shots(
    shots: Shots,
    count: int,
    rng: np.random.Generator,
    texts: Sequence[Sequence[str]] | None = None,
) -> tuple[np.ndarray, list[str]]:
    """The shot and the prompt of ``count`` edits per class: the shots of a class are cycled in
    random order, its prompts in their own.

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


def group_by_value(values: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Each value that occurs, in the order of first occurrence, with its positions, int64 [n]:
    ``image_to_image`` edits at one strength at a time."""
    import numpy as np

    for value in dict.fromkeys(values.tolist()):
        yield value, np.flatnonzero(values == value)


def edits(
    generator: Generator,
    shots: Shots,
    rows: np.ndarray,
    prompts: Sequence[str],
    rng: np.random.Generator,
    *,
    strength: float,
    guidance_scale: float | None,
    steps: int | None,
) -> Iterator[Images]:
    """``image_to_image`` of these shots, each from a seed of its own, under its own label."""
    seeds = rng.integers(2**63, size=len(rows)).tolist()
    # Batch by batch, as the generator works: thousands of originals of 512 px fill a memory.
    for start in range(0, len(rows), generator.batch_size):
        batch = slice(start, start + generator.batch_size)
        chosen = rows[batch]
        yield from generator.image_to_image(
            originals(shots, chosen, generator.size),
            prompts[batch],
            shots.labels[chosen].tolist(),
            seeds[batch],
            size=shots.image_size,
            strength=strength,
            guidance_scale=guidance_scale,
            steps=steps,
            parents=[(shots.ids[row],) for row in chosen],
        )

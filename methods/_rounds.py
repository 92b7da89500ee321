"""Going round the classes, so that a cap reached half-way leaves them balanced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark import Shots

if TYPE_CHECKING:
    import numpy as np


def rounds(count: int, classes: int) -> list[tuple[int, int]]:
    """The (turn, label) of ``count`` images per class: each class once before any comes again."""
    return [(turn, label) for turn in range(count) for label in range(classes)]


def requests(
    shots: Shots,
    count: int,
    rng: np.random.Generator,
    texts: Sequence[Sequence[str]] | None = None,
) -> tuple[list[str], list[int], list[int]]:
    """The prompts, labels and seeds of ``count`` images per class, as the generator's
    ``text_to_image`` takes them.

    Args:
        texts: the prompts of each class, gone through in turn; default: those of its card.
    """
    texts = texts or [entry.prompts for entry in shots.classes]
    order = rounds(count, len(shots.classes))
    prompts = [texts[label][turn % len(texts[label])] for turn, label in order]
    return prompts, [label for _, label in order], rng.integers(2**63, size=len(order)).tolist()


def affordable(upstream: Any, meter: Any, count: int, params: Any, share: float = 0.8) -> int:
    """The denoising steps of each of ``count`` images: those asked for, or as many as a share of
    what is left of the budget pays for (at least 1). For methods that make more images than
    they keep.

    Args:
        params: ``steps`` and ``guidance_scale``.
        share: the rest is left for judging the images.
    """

    def price(steps: int) -> float:
        cost: float = upstream.generator.estimate_tflops(count, steps, params.guidance_scale)
        return cost

    steps: int = params.steps
    while steps > 1 and price(steps) > share * meter.tflops_left:
        steps -= 1
    return steps

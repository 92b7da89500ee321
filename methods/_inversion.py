"""Textual inversion (Gal et al. 2023, arXiv 2208.01618) of all classes of a task in one loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmark import Shots

from ._personalize import examples, fit_per_class

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def invert(
    shots: Shots, upstream: Any, meter: Any, rng: np.random.Generator, params: Any, left: float
) -> Iterator[list[list[str]]]:
    """Learns ``params.tokens`` vectors per class. Inside, the generator understands them.

    A pseudo-word is written with rare words of the tokenizer, one per vector; it starts as the
    class name.

    Args:
        params: ``tokens``, ``fit_steps``, ``lr``, ``batch_size`` (images of each class in a
            step).
        left: TFLOPs to leave for what follows.

    Yields:
        The prompts of each class, the class name replaced by its pseudo-word.
    """
    from benchmark.upstream.adapters import pseudo_words, rare_words

    generator, classes = upstream.generator, shots.classes
    known = [text for entry in classes for text in entry.prompts]
    words = rare_words(generator.pipeline, params.tokens * len(classes), known)
    named = [" ".join(words[label :: len(classes)]) for label in range(len(classes))]
    texts = [
        [template.format(name=word) for template in entry.templates]
        for entry, word in zip(classes, named, strict=True)
    ]
    beginnings = [entry.name for entry in classes] * params.tokens
    z = examples(shots, upstream, meter)

    def condition(rows: np.ndarray) -> Any:
        asked = [texts[z.labels[row]] for row in rows]
        return generator.condition([of_class[rng.integers(len(of_class))] for of_class in asked])

    with pseudo_words(generator.pipeline, words, beginnings) as vectors:
        fit_per_class(upstream, z, condition, vectors, meter, rng, params, left)
        yield texts

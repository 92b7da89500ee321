"""Textual inversion (Gal et al. 2023, arXiv 2208.01618) of all classes of a task in one loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._personalize import FitParams, examples, fit_per_class
from ._sampling import sample_images, sampling_tflops

if TYPE_CHECKING:
    import numpy as np

    from benchmark.upstream.conditioning import Conditioning


class InversionParams(FitParams):
    """``published``: section 4 and appendix of the paper, for one word."""

    tokens: int = benchmark.param(1, help="embeddings of a pseudo-word", ge=1, le=16)
    fit_steps: int = benchmark.param(100, help="optimiser steps", published=5000, ge=1)
    lr: float = benchmark.param(5e-3, help="learning rate", gt=0)
    batch_size: int = benchmark.param(1, help="images of each class in a step", published=4, ge=1)


@contextmanager
def inverted(
    shots: Shots,
    upstream: Upstream,
    meter: Meter,
    rng: np.random.Generator,
    params: InversionParams,
    reserve_tflops: float,
) -> Iterator[list[list[str]]]:
    """Learns a pseudo-word of ``params.tokens`` embeddings per class. Inside, the generator's text
    encoders know them.

    A pseudo-word is written with rare words of the tokenizer, one per embedding; every embedding
    starts as that of the class name.

    Args:
        reserve_tflops: what to leave of the budget for what follows.

    Yields:
        The prompts of each class, its pseudo-word in place of the class name.
    """
    from benchmark.upstream.adapters import placeholder_embeddings, rare_words

    generator, classes = upstream.generator, shots.classes
    # A placeholder must not stand for a word that the prompts use themselves.
    avoid = [text for entry in classes for text in entry.prompts]
    words = rare_words(generator.pipeline, params.tokens * len(classes), avoid)
    # every C-th word belongs to one class, so that no class has the rarest of all
    pseudo_words = [" ".join(words[label :: len(classes)]) for label in range(len(classes))]
    texts = [
        [template.format(name=word) for template in entry.templates]
        for entry, word in zip(classes, pseudo_words, strict=True)
    ]
    init_texts = [entry.name for entry in classes] * params.tokens  # in the order of ``words``
    z = examples(shots, upstream, meter)

    def condition(rows: np.ndarray) -> Conditioning:
        """A random prompt of each class, as the paper draws its templates."""
        prompts = [texts[z.labels[row]] for row in rows]
        return generator.condition([of_class[rng.integers(len(of_class))] for of_class in prompts])

    with placeholder_embeddings(generator.pipeline, words, init_texts) as embeddings:
        fit_per_class(
            upstream, z, condition, embeddings, meter, rng, params, reserve_tflops=reserve_tflops
        )
        yield texts


def invert_and_sample(
    shots: Shots,
    upstream: Upstream,
    meter: Meter,
    rng: np.random.Generator,
    params: InversionParams,
) -> Iterator[Images]:
    """Learns the pseudo-words, then samples from the prompts they stand in."""
    reserve = sampling_tflops(shots, upstream, meter, params)
    with inverted(shots, upstream, meter, rng, params, reserve) as texts:
        yield from sample_images(shots, upstream, meter, rng, params, texts)

"""A shot of one class translated toward another, labelled as both.

Diff-Mix of Wang et al.: the generator learns a word V_c for every class c, and low-rank adapters,
from "a photo of a [V_c] [metaclass]": here the task's first template, filled with the word and what
the class is a kind of. Then an image of class i is noised to s T and denoised under the prompt of
class j, which keeps its background and changes its subject, with the label

    y = (1 - s^gamma) e_i + s^gamma e_j,   s drawn from {0.5, 0.7, 0.9}

Two choices of ours: the classes j of a turn are a permutation of its classes i, so that every
class is the target equally often (as in the authors' release, i = j may occur); and s is drawn for
a whole turn, so that images of equal s are edited in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._edits import cycle_shots, edits, group_by_value
from ._personalize import FitParams, examples, fit_shared
from ._sampling import sampling_tflops
from ._subjects import encode_each_step

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Diff-Mix: shots translated between classes",
    family="edit",
    adaptation="LoRA",
    query="class name",
    paper="https://arxiv.org/abs/2403.19600",
    citation="Wang et al. (2024), CVPR",
    uses=("generator",),
)

STRENGTHS = (0.5, 0.7, 0.9)  # s


class Params(FitParams):
    """``published``: those of the authors' release (https://github.com/Zhicaiwww/Diff-Mix)."""

    gamma: float = benchmark.param(0.8, help="how slowly a label follows s", gt=0, lt=1)
    rank: int = benchmark.param(10, help="rank of the adapters", ge=1)
    fit_steps: int = benchmark.param(100, help="optimiser steps", published=35000, ge=1)
    lr: float = benchmark.param(3e-4, help="learning rate", published=5e-5, gt=0)
    batch_size: int = benchmark.param(10, help="shots in a step", published=2, ge=1)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Learns words and adapters, then translates the shots of each class, cycled."""
    import numpy as np

    from benchmark.upstream.adapters import (
        UNET_ATTENTION,
        lora,
        placeholder_embeddings,
        rare_words,
    )
    from benchmark.upstream.generator import denoiser

    generator, classes = upstream.generator, shots.classes
    count, pipeline, seed = meter.budget.images_per_class, generator.pipeline, rng.integers(2**31)
    avoid = [text for entry in classes for text in (*entry.prompts, entry.hypernym)]
    words = rare_words(pipeline, len(classes), avoid)
    texts = [
        entry.templates[0].format(name=f"{word} {entry.hypernym}".rstrip())
        for word, entry in zip(words, classes, strict=True)
    ]
    with (
        placeholder_embeddings(pipeline, words, [entry.name for entry in classes]) as v,
        lora(denoiser(pipeline), params.rank, targets=UNET_ATTENTION, seed=int(seed)) as theta,
    ):
        z = examples(shots, upstream, meter)
        c = encode_each_step(generator, [texts[label] for label in shots.labels])
        # what images from noise alone cost: edits cost less
        reserve = sampling_tflops(shots, upstream, meter, params)
        fit_shared(upstream, z, c, [*v, *theta], meter, rng, params, reserve)
        rows, _ = cycle_shots(shots, count, rng)
        # a permutation per turn: every class is a target once
        target = np.concatenate([rng.permutation(len(classes)) for _ in range(count)])
        s = rng.choice(STRENGTHS, size=count).repeat(len(classes))
        y = mixed_labels(shots.labels[rows], target, s**params.gamma, len(classes))
        for strength, positions in group_by_value(s):
            done = 0
            with meter.phase("generate"):
                for images in edits(
                    generator,
                    shots,
                    rows[positions],
                    [texts[j] for j in target[positions]],
                    rng,
                    strength=strength,
                    guidance_scale=params.guidance_scale,
                    steps=params.steps,
                ):
                    # an edit comes with the label of its shot; here it has two
                    batch = positions[done : done + len(images.pixels)]
                    done += len(images.pixels)
                    yield replace(images, labels=y[batch])


def mixed_labels(
    source: np.ndarray, target: np.ndarray, share: np.ndarray, classes: int
) -> np.ndarray:
    """y: of each image 1 - share of its source class and share of its target, float [N, C]."""
    import numpy as np

    one_hot = np.eye(classes)
    y: np.ndarray = (1 - share)[:, None] * one_hot[source] + share[:, None] * one_hot[target]
    return y

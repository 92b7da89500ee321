"""What the methods share that train the generator on the shots.

The symbols are those of latent diffusion (Rombach et al. 2022, arXiv 2112.10752): latents z,
condition c, denoiser epsilon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import benchmark
from benchmark import Images, Shots
from benchmark.errors import BudgetStop

from ._rounds import requests

if TYPE_CHECKING:
    import numpy as np

    from benchmark.upstream.conditioning import Conditioning
    from benchmark.upstream.training import Examples


class Sampling(benchmark.Params):
    """How images are drawn from the trained generator; ``published`` as in ``prompt_simple``."""

    guidance_scale: float = benchmark.param(
        3.0, help="classifier-free guidance; at 1 there is none", published=7.5, ge=0, le=30
    )
    steps: int = benchmark.param(12, help="denoising steps", published=50, ge=1, le=1000)


def examples(shots: Shots, upstream: Any, meter: Any) -> Examples:
    """The shots as latents z, with their labels."""
    from benchmark.upstream.training import Examples

    with meter.phase("fit"):
        return Examples(upstream.generator.encode(shots.images), shots.labels)


def captions(shots: Shots, upstream: Any, meter: Any) -> list[tuple[str, str]]:
    """The template and the member of its class that describe each shot best, by the encoder: a
    class such as "mammal" is trained on as the "horse" or the "cow" that a shot shows."""
    chosen: dict[int, tuple[str, str]] = {}
    with meter.phase("fit"):
        seen = upstream.encoder.encode_images(shots.images)
        for label, entry in enumerate(shots.classes):
            pairs = [(text, name) for text in entry.templates for name in entry.members]
            rows, best = shots.rows(label), [0] * len(shots.rows(label))
            if len(pairs) > 1:
                texts = upstream.encoder.encode_texts([text.format(name=n) for text, n in pairs])
                best = (seen[rows] @ texts.T).argmax(dim=1).tolist()
            chosen |= {row: pairs[place] for row, place in zip(rows, best, strict=True)}
    return [chosen[row] for row in range(len(shots.labels))]


def spare(shots: Shots, upstream: Any, meter: Any, params: Any) -> float:
    """TFLOPs that generating all images afterwards will cost."""
    count = meter.budget.images_per_class * len(shots.classes)
    cost: float = upstream.generator.estimate_tflops(count, params.steps, params.guidance_scale)
    return cost


def fit_per_class(
    upstream: Any,
    z: Examples,
    condition: Callable[[np.ndarray], Conditioning],
    weights: Sequence[Any],
    meter: Any,
    rng: np.random.Generator,
    params: Any,
    left: float,
) -> int:
    """Trains the weights of all classes in one loop, where each class has its own (a word, a
    condition): every step sees ``params.batch_size`` images of every class, and AdamW works on
    each number apart, so this is a loop per class, done at once.

    Args:
        condition: from the rows of a batch to their conditions.
        left: TFLOPs to leave for what follows.

    Returns:
        The steps taken.
    """
    from benchmark.upstream.training import denoising_loss, train

    present = len(set(z.labels.tolist()))
    batches = z.batches(params.batch_size * present, rng)

    def loss() -> Iterator[Any]:
        rows = next(batches)
        for start in range(0, len(rows), upstream.generator.batch_size):
            some = rows[start : start + upstream.generator.batch_size]
            each = denoising_loss(upstream.generator, z.latents[some], condition(some), rng)
            yield each.sum() / params.batch_size

    return train(
        weights, loss, meter, steps=params.fit_steps, lr=params.lr, weight_decay=0.0, spare=left
    )


def fit_shared(
    upstream: Any,
    z: Examples,
    condition: Callable[[np.ndarray], Conditioning],
    weights: Sequence[Any],
    meter: Any,
    rng: np.random.Generator,
    params: Any,
    left: float,
    *,
    prior: tuple[Examples, Callable[[np.ndarray], Conditioning]] | None = None,
    schedule: Literal["constant", "cosine"] = "constant",
) -> int:
    """Trains weights that all classes share on batches of ``params.batch_size`` images.

    Args:
        prior: images and conditions of what must not be forgotten; their loss, weighted by
            ``params.prior_weight``, is added (DreamBooth, equation 2).
    """
    from benchmark.upstream.training import denoising_loss, train

    generator = upstream.generator
    parts = [(z, condition, 1.0)] + ([(*prior, params.prior_weight)] if prior else [])
    drawn = [(part, part.batches(params.batch_size, rng), *more) for part, *more in parts]

    def loss() -> Iterator[Any]:
        for part, batches, told, weight in drawn:
            rows = next(batches)
            each = denoising_loss(generator, part.latents[rows], told(rows), rng)
            yield weight * each.mean()

    return train(
        weights,
        loss,
        meter,
        steps=params.fit_steps,
        lr=params.lr,
        schedule=schedule,
        spare=left,
    )


def drawn(
    shots: Shots,
    upstream: Any,
    meter: Any,
    rng: np.random.Generator,
    params: Any,
    texts: Sequence[Sequence[str]] | None = None,
    conditions: Callable[[list[int], list[int]], Conditioning] | None = None,
) -> Iterator[Images]:
    """Generates the images of the budget, class by class in turn.

    Args:
        texts: prompts of each class; default: those of its card.
        conditions: from turns and labels to the conditions used in place of the prompts.
    """
    prompts, labels, seeds = requests(shots, meter.budget.images_per_class, rng, texts)
    told = None
    if conditions is not None:
        turns = [place // len(shots.classes) for place in range(len(labels))]
        told = conditions(turns, labels)
    with meter.phase("generate"):
        yield from upstream.generator.text_to_image(
            prompts,
            labels,
            seeds,
            size=shots.image_size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
            conditioning=told,
        )


def class_by_class(
    shots: Shots, make: Callable[[int, Shots], Iterator[Images]]
) -> Iterator[Images]:
    """What ``make`` yields for each class by itself (its label, and shots of it alone), put in
    turns. Nothing is yielded before the last class is made; where the budget ends before, what
    was made is kept.

    Raises:
        BudgetStop: after that.
    """
    import numpy as np

    made: list[list[tuple[Any, int, Any]]] = []
    stopped: BudgetStop | None = None
    for label, entry in enumerate(shots.classes):
        rows = shots.rows(label)
        one = replace(
            shots,
            images=shots.images[rows],
            labels=np.zeros(len(rows), np.int64),
            ids=tuple(shots.ids[row] for row in rows),
            classes=(entry,),
        )
        made.append([])
        try:
            for images in make(label, one):
                made[-1] += zip(
                    images.pixels, [label] * len(images.pixels), images.provenance, strict=True
                )
        except BudgetStop as stop:
            stopped = stop
            break
    for turn in zip_longest(*made):
        pixels, labels, told = zip(*(image for image in turn if image is not None), strict=True)
        yield Images(np.stack(pixels), list(labels), list(told))
    if stopped is not None:
        raise stopped

"""What the methods share that train the generator on the shots.

The symbols are those of latent diffusion (Rombach et al. 2022, arXiv 2112.10752): latents z,
conditioning c, denoiser epsilon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from benchmark import BudgetStop, Images, Meter, Provenance, Shots, Upstream

from ._sampling import Sampling
from ._shots import subset

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from benchmark.upstream.conditioning import Conditioning
    from benchmark.upstream.training import Examples

    # from the rows of a batch to their conditioning
    Condition = Callable[[np.ndarray], Conditioning]


class FitParams(Sampling):
    """Of every method that trains: each states its own defaults."""

    fit_steps: int
    lr: float
    batch_size: int


def examples(shots: Shots, upstream: Upstream, meter: Meter) -> Examples:
    """The shots as latents z, encoded at the generator's own size, with their labels."""
    from benchmark.upstream.training import Examples

    with meter.phase("fit"):
        # from the files: what the classifier sees may be smaller
        pixels = shots.originals(upstream.generator.size)
        return Examples(upstream.generator.encode(pixels), shots.labels)


def captions(shots: Shots, upstream: Upstream, meter: Meter) -> list[tuple[str, str]]:
    """The template and the member of its class that describe each shot best, by the encoder: a
    shot of a class such as "mammal" is trained on as the "horse" or the "cow" it shows."""
    best_pair: dict[int, tuple[str, str]] = {}
    with meter.phase("fit"):
        features = upstream.encoder.encode_images(shots.images)
        for label, entry in enumerate(shots.classes):
            pairs = [(text, name) for text in entry.templates for name in entry.members]
            rows, best = shots.rows(label), [0] * len(shots.rows(label))
            if len(pairs) > 1:  # most classes have one prompt: nothing to compare
                texts = upstream.encoder.encode_texts([text.format(name=n) for text, n in pairs])
                best = (features[rows] @ texts.T).argmax(dim=1).tolist()
            best_pair |= {row: pairs[index] for row, index in zip(rows, best, strict=True)}
    return [best_pair[row] for row in range(len(shots.labels))]


def fit_per_class(
    upstream: Upstream,
    z: Examples,
    condition: Condition,
    weights: Sequence[Tensor],
    meter: Meter,
    rng: np.random.Generator,
    params: FitParams,
    reserve_tflops: float,
) -> int:
    """Trains the weights of all classes in one loop, where each class has its own (a pseudo-word, a
    conditioning): every step sees ``params.batch_size`` images of every class. AdamW scales every
    number by its own gradients, so this equals one loop per class.

    Args:
        reserve_tflops: what to leave of the budget for what follows.

    Returns:
        The steps taken.
    """
    from benchmark.upstream.training import denoising_loss, train

    generator, present = upstream.generator, len(set(z.labels.tolist()))
    batches = z.batches(params.batch_size * present, rng)

    def loss() -> Iterator[Tensor]:
        rows = next(batches)
        # with many classes a step is larger than a batch that fits into memory
        for start in range(0, len(rows), generator.batch_size):
            some = rows[start : start + generator.batch_size]
            each = denoising_loss(generator, z.latents[some], condition(some), rng)
            # the mean over the images of a class, summed over classes: a class' gradient does not
            # depend on how many others there are
            yield each.sum() / params.batch_size

    return train(
        weights,
        loss,
        meter,
        steps=params.fit_steps,
        lr=params.lr,
        weight_decay=0.0,  # it would pull embeddings to 0, where no word lies
        reserve_tflops=reserve_tflops,
    )


def fit_shared(
    upstream: Upstream,
    z: Examples,
    condition: Condition,
    weights: Sequence[Tensor],
    meter: Meter,
    rng: np.random.Generator,
    params: FitParams,
    reserve_tflops: float,
    *,
    prior: tuple[Examples, Condition, float] | None = None,
    schedule: Literal["constant", "cosine"] = "constant",
) -> int:
    """Trains weights that all classes share on batches of ``params.batch_size`` images.

    Args:
        reserve_tflops: what to leave of the budget for what follows.
        prior: images whose class must not be forgotten, their conditioning, and the weight of
            their loss, which is added (DreamBooth, equation 2).

    Returns:
        The steps taken.
    """
    from benchmark.upstream.training import denoising_loss, train

    sources = [(z, condition, 1.0), *([prior] if prior else [])]
    # each with an order of its own: a prior has more images than there are shots
    batches = [part.batches(params.batch_size, rng) for part, _, _ in sources]

    def loss() -> Iterator[Tensor]:
        for (part, condition_of, weight), rows_of in zip(sources, batches, strict=True):
            rows = next(rows_of)
            each = denoising_loss(upstream.generator, part.latents[rows], condition_of(rows), rng)
            yield weight * each.mean()

    return train(
        weights,
        loss,
        meter,
        steps=params.fit_steps,
        lr=params.lr,
        schedule=schedule,
        reserve_tflops=reserve_tflops,
    )


def class_by_class(
    shots: Shots, generate: Callable[[int, Shots], Iterator[Images]]
) -> Iterator[Images]:
    """What ``generate`` yields for each class by itself, reordered so that the classes are
    balanced. Nothing is yielded before the last class is done; where the budget ends before, what
    was generated is kept.

    Args:
        generate: given a label, and the shots of that class alone, as class 0.

    Raises:
        BudgetStop: after that.
    """
    import numpy as np

    # The budget's stop is held back until what was generated before it is yielded.
    of_class: list[list[tuple[np.ndarray, int, Provenance]]] = []
    stopped: BudgetStop | None = None
    for label, entry in enumerate(shots.classes):
        alone = subset(shots, shots.rows(label))
        alone = replace(alone, labels=np.zeros_like(alone.labels), classes=(entry,))
        own: list[tuple[np.ndarray, int, Provenance]] = []
        of_class.append(own)
        try:
            for images in generate(label, alone):
                labels = [label] * len(images.pixels)
                own += zip(images.pixels, labels, images.provenance, strict=True)
        except BudgetStop as stop:
            stopped = stop
            break
    for turn in zip_longest(*of_class):
        # a class that the budget did not reach has fewer
        present = [one for one in turn if one is not None]
        pixels, of, provenance = zip(*present, strict=True)
        yield Images(np.stack(pixels), of, provenance)
    if stopped is not None:
        raise stopped

"""Each class as a subject with an identifier of its own, and prior preservation (DreamBooth, Ruiz
et al. 2023, arXiv 2208.12242)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._personalize import FitParams, captions, examples, fit_shared
from ._sampling import cycle_prompts, sample_images, sampling_tflops

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from benchmark.upstream.generator import Generator
    from benchmark.upstream.training import Examples

    from ._personalize import Condition


class PriorParams(FitParams):
    """Of the methods that preserve a prior."""

    prior_per_class: int = benchmark.param(
        4, help="prior images of each class; 0 for none", published=200, ge=0
    )
    prior_weight: float = benchmark.param(1.0, help="weight of the prior loss (lambda)", ge=0)


def subject_prompts(shots: Shots, identifiers: Sequence[str]) -> list[list[str]]:
    """The prompts of each class with its identifier before the noun: "a photo of a [V] dog"."""
    return [
        [
            template.format(name=f"{word} {member}")
            for template in entry.templates
            for member in entry.members
        ]
        for entry, word in zip(shots.classes, identifiers, strict=True)
    ]


def subject_captions(
    shots: Shots, upstream: Upstream, meter: Meter, identifiers: Sequence[str]
) -> list[str]:
    """The prompt that each shot is trained with: the identifier of its class, and the noun that
    describes it best."""
    return [
        template.format(name=f"{identifiers[label]} {member}")
        for label, (template, member) in zip(
            shots.labels, captions(shots, upstream, meter), strict=True
        )
    ]


def encode_once(generator: Generator, texts: Sequence[str]) -> Condition:
    """The conditioning of examples while the text encoder stays as it is."""
    conditioning = generator.condition(texts)
    return lambda rows: conditioning.rows(rows)


def encode_each_step(generator: Generator, texts: Sequence[str]) -> Condition:
    """The conditioning of examples while the text encoder, or a placeholder, is trained."""
    return lambda rows: generator.condition([texts[row] for row in rows])


def generated_prior(
    shots: Shots,
    upstream: Upstream,
    meter: Meter,
    rng: np.random.Generator,
    params: PriorParams,
) -> tuple[Examples, list[str]] | None:
    """Images of the classes' plain prompts, generated before the generator is trained, and their
    prompts. As many as ``params`` says, or as half of what the budget holds beside the images to
    yield; None where that is none."""
    import numpy as np

    from benchmark.upstream.training import Examples

    generator = upstream.generator
    one_each = generator.estimate_tflops(len(shots.classes), params.steps, params.guidance_scale)
    available = meter.tflops_left - sampling_tflops(shots, upstream, meter, params)
    # half: the other half is for training on them
    count = int(min(params.prior_per_class, available / 2 / one_each))
    if count < 1:
        return None
    prompts, labels, seeds = cycle_prompts(shots, count, rng)
    # charged to the fit: these images are trained on, not yielded
    with meter.phase("fit"):
        batches = generator.text_to_image(
            prompts,
            labels,
            seeds,
            size=generator.size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
        )
        pixels = np.concatenate([images.pixels for images in batches])
        return Examples(generator.encode(pixels), np.array(labels)), prompts


def retrieved_prior(
    shots: Shots, upstream: Upstream, meter: Meter, params: PriorParams
) -> tuple[Examples, list[str]] | None:
    """Real images in place of generated ones: the nearest to each class's queries, each with the
    query it is nearest to as its prompt; None where ``params`` asks for none (Kumari et al. 2023,
    arXiv 2212.04488, section 3.1, retrieve 200 by caption)."""
    import numpy as np

    from benchmark.upstream.training import Examples

    if not params.prior_per_class:
        return None
    batches = nearest_images(shots, upstream, meter, params.prior_per_class)
    prompts = [str(row.prompt) for images in batches for row in images.provenance]
    labels = np.concatenate([images.labels for images in batches])
    with meter.phase("fit"):
        pixels = np.concatenate([images.pixels for images in batches])
        return Examples(upstream.generator.encode(pixels), labels), prompts


def with_neighbours(shots: Shots, upstream: Upstream, meter: Meter, count: int) -> Shots:
    """The shots, and after them ``count`` images of each class retrieved by its queries, all at the
    generator's size."""
    import numpy as np

    batches = nearest_images(shots, upstream, meter, count)
    own = shots.originals(upstream.generator.size)
    ids = [str(row.corpus_id) for images in batches for row in images.provenance]
    return replace(
        shots,
        images=np.concatenate([own, *(images.pixels for images in batches)]),
        labels=np.concatenate([shots.labels, *(images.labels for images in batches)]),
        ids=(*shots.ids, *ids),
        load=None,  # the data set does not hold them, and they have the size already
    )


def nearest_images(shots: Shots, upstream: Upstream, meter: Meter, count: int) -> list[Images]:
    """The nearest ``count`` images of each class to its queries, at the generator's size."""
    texts = [entry.queries for entry in shots.classes]
    with meter.phase("retrieve"):
        queries = [upstream.encoder.encode_texts(of_class) for of_class in texts]
        nearest = upstream.nearest(queries, count)
        return list(upstream.retrieve(nearest, texts, upstream.generator.size))


def fit_subjects(
    shots: Shots,
    upstream: Upstream,
    meter: Meter,
    rng: np.random.Generator,
    params: PriorParams,
    weights: Sequence[Tensor],
    *,
    identifiers: Sequence[str],
    prior: tuple[Examples, list[str]] | None = None,
    encode: Callable[[Generator, Sequence[str]], Condition] = encode_once,
) -> Iterator[Images]:
    """Trains ``weights`` on the shots under their identifiers, then samples from the prompts with
    the identifiers.

    Args:
        encode: ``encode_once``, or ``encode_each_step`` where training changes the embeddings.
    """
    generator = upstream.generator
    z = examples(shots, upstream, meter)
    texts = subject_captions(shots, upstream, meter, identifiers)
    reserve = sampling_tflops(shots, upstream, meter, params)
    with meter.phase("fit"):  # encoding texts is charged, too
        c = encode(generator, texts)
        kept = (prior[0], encode(generator, prior[1]), params.prior_weight) if prior else None
    fit_shared(upstream, z, c, weights, meter, rng, params, reserve, prior=kept)
    prompts = subject_prompts(shots, identifiers)
    yield from sample_images(shots, upstream, meter, rng, params, prompts)

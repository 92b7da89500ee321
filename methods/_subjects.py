"""Naming each class as a subject of its own, and what must not be forgotten meanwhile (DreamBooth,
Ruiz et al. 2023, arXiv 2208.12242)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import benchmark
from benchmark import Images, Shots

from ._personalize import Sampling, captions, drawn, examples, fit_shared, spare
from ._rounds import requests

if TYPE_CHECKING:
    import numpy as np

    from benchmark.upstream.conditioning import Conditioning
    from benchmark.upstream.training import Examples


class PriorParams(Sampling):
    """Of the methods that preserve a prior."""

    prior_per_class: int = benchmark.param(
        4, help="prior images of each class; 0 for none", published=200, ge=0
    )
    prior_weight: float = benchmark.param(1.0, help="weight of the prior loss (lambda)", ge=0)


def named(shots: Shots, identifiers: Sequence[str]) -> list[list[str]]:
    """The prompts of each class with its identifier before the noun: "a photo of a [V] dog"."""
    return [
        [
            template.format(name=f"{word} {member}")
            for template in entry.templates
            for member in entry.members
        ]
        for entry, word in zip(shots.classes, identifiers, strict=True)
    ]


def described(shots: Shots, upstream: Any, meter: Any, identifiers: Sequence[str]) -> list[str]:
    """The prompt that each shot is trained with: the identifier of its class, and the noun that
    describes it best."""
    return [
        template.format(name=f"{identifiers[label]} {member}")
        for label, (template, member) in zip(
            shots.labels, captions(shots, upstream, meter), strict=True
        )
    ]


def fixed(generator: Any, texts: Sequence[str]) -> Callable[[np.ndarray], Conditioning]:
    """The conditions of examples whose texts and text encoder do not change: embedded once."""
    told = generator.condition(texts)
    return lambda rows: told.rows(rows)


def asked_anew(generator: Any, texts: Sequence[str]) -> Callable[[np.ndarray], Conditioning]:
    """The conditions of examples while the text encoder, or a word, is trained."""
    return lambda rows: generator.condition([texts[row] for row in rows])


def generated_prior(
    shots: Shots, upstream: Any, meter: Any, rng: np.random.Generator, params: Any
) -> tuple[Examples, list[str]] | None:
    """Images of the classes' plain prompts, made by the generator before it is trained, and
    their prompts. As many as are asked for, or as half of what the budget holds beside the images
    of the set; None where that is none."""
    import numpy as np

    from benchmark.upstream.training import Examples

    per_class = len(shots.classes), params.steps, params.guidance_scale
    left = meter.tflops_left - spare(shots, upstream, meter, params)
    count = min(
        params.prior_per_class, int(left / 2 / upstream.generator.estimate_tflops(*per_class))
    )
    if count < 1:
        return None
    prompts, labels, seeds = requests(shots, count, rng)
    with meter.phase("fit"):
        made = upstream.generator.text_to_image(
            prompts,
            labels,
            seeds,
            size=upstream.generator.size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
        )
        pixels = np.concatenate([images.pixels for images in made])
        return Examples(upstream.generator.encode(pixels), np.array(labels)), prompts


def neighbours(shots: Shots, upstream: Any, meter: Any, count: int) -> Shots:
    """The shots, and behind them ``count`` images of each class retrieved by its queries."""
    import numpy as np

    found = retrieved(shots, upstream, meter, count)
    return replace(
        shots,
        images=np.concatenate([shots.images, *(part.pixels for part in found)]),
        labels=np.concatenate([shots.labels, *(part.labels for part in found)]),
        ids=(*shots.ids, *(told.corpus_id for part in found for told in part.provenance)),
    )


def retrieved_prior(
    shots: Shots, upstream: Any, meter: Any, params: Any
) -> tuple[Examples, list[str]] | None:
    """Real images in place of generated ones: of each class those that its queries find, under
    the query that found them; None where none are asked for (Kumari et al. 2023, arXiv
    2212.04488, section 3.1, retrieve 200 by caption)."""
    import numpy as np

    from benchmark.upstream.training import Examples

    if not params.prior_per_class:
        return None
    found = retrieved(shots, upstream, meter, params.prior_per_class)
    prompts = [str(told.prompt) for part in found for told in part.provenance]
    labels = np.concatenate([part.labels for part in found])
    with meter.phase("fit"):
        pixels = np.concatenate([part.pixels for part in found])
        return Examples(upstream.generator.encode(pixels), labels), prompts


def retrieved(shots: Shots, upstream: Any, meter: Any, count: int) -> list[Images]:
    """The nearest ``count`` images of each class to its queries."""
    texts = [entry.queries for entry in shots.classes]
    with meter.phase("retrieve"):
        queries = [upstream.encoder.encode_texts(list(of_class)) for of_class in texts]
        found = upstream.nearest(queries, count)
        return list(upstream.retrieve(found, texts, shots.image_size))


def subjects(
    shots: Shots,
    upstream: Any,
    meter: Any,
    rng: np.random.Generator,
    params: Any,
    weights: Sequence[Any],
    *,
    identifiers: Sequence[str],
    prior: tuple[Examples, list[str]] | None = None,
    told: Callable[..., Any] = fixed,
) -> Iterator[Images]:
    """Trains ``weights`` on the shots under their identifiers, then draws from the named prompts.

    Args:
        told: ``fixed``, or ``asked_anew`` where texts are read differently as training goes on.
    """
    generator = upstream.generator
    z = examples(shots, upstream, meter)
    texts = described(shots, upstream, meter, identifiers)
    left = spare(shots, upstream, meter, params)
    with meter.phase("fit"):
        c = told(generator, texts)
        kept = (prior[0], told(generator, prior[1])) if prior else None
    fit_shared(upstream, z, c, weights, meter, rng, params, left, prior=kept)
    yield from drawn(shots, upstream, meter, rng, params, named(shots, identifiers))

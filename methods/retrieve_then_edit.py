"""Images of the corpus nearest to the class queries, each noised a little and denoised again.

A control of Geng et al.: where retrieved images beat generated ones, what part is due to the
generator's artefacts, and what to its content? An image retrieved and passed through the
generator at low strength keeps its content and takes on the artefacts. They condition on a
template with the class name, we on the task's prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Retrieved by class queries, then edited",
    family="hybrid",
    query="class name",
    paper="https://arxiv.org/abs/2406.05184",
    citation="Geng et al. (2024), NeurIPS: retrieved images, noised and denoised",
    uses=("index", "generator"),
    uses_shots=False,
)


class Params(benchmark.Params):
    """``published``: the defaults of the authors' release."""

    strength: float = benchmark.param(
        0.2, help="how far an image is noised", published=0.1, gt=0, le=1
    )
    guidance_scale: float = benchmark.param(
        3.0, help="classifier-free guidance; at 1 there is none", published=2.0, ge=0, le=30
    )
    steps: int = benchmark.param(20, help="denoising steps from T", published=50, ge=1, le=1000)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Rank by rank, the nearest of every class first; the prompts of a class are cycled."""
    generator, texts = upstream.generator, [entry.queries for entry in shots.classes]
    with meter.phase("retrieve"):
        queries = [upstream.encoder.encode_texts(of_class) for of_class in texts]
        nearest = upstream.nearest(queries, meter.budget.images_per_class)
        # at the generator's size and in its batches, so that a batch is one call
        for images in upstream.retrieve(nearest, texts, generator.size, batch=generator.batch_size):
            ranked = zip(images.labels, images.provenance, strict=True)
            cycled = [(shots.classes[label].prompts, source.rank or 0) for label, source in ranked]
            with meter.phase("generate"):
                (edited,) = generator.image_to_image(
                    images.pixels,
                    [prompts[rank % len(prompts)] for prompts, rank in cycled],
                    list(images.labels),
                    rng.integers(2**63, size=len(cycled)).tolist(),
                    strength=params.strength,
                    size=shots.image_size,
                    guidance_scale=params.guidance_scale,
                    steps=params.steps,
                    parents=[(str(source.corpus_id),) for source in images.provenance],
                )
            # the ledger holds both: how the source was retrieved, and how it was edited
            provenance = [
                replace(
                    edit,
                    corpus_id=source.corpus_id,
                    rank=source.rank,
                    similarity=source.similarity,
                    licence=source.licence,
                )
                for edit, source in zip(edited.provenance, images.provenance, strict=True)
            ]
            yield replace(edited, provenance=provenance)

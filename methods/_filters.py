"""Filters: why an image is not used. A reason is "" for an image to keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmark import Images

if TYPE_CHECKING:
    import numpy as np

    from benchmark.upstream import Neighbours

# What LAION advises for the columns `punsafe` and `pwatermark` of its corpora.
FLAGS = {"safety": 0.5, "watermark": 0.8}
COPY = 0.9999  # cosine of features of one image, whichever batches they were computed in


def screened(
    upstream: Any,
    meter: Any,
    found: Sequence[Neighbours],
    texts: Sequence[Sequence[str]],
    size: int,
    *,
    duplicate: float = 1.0,
) -> Iterator[Images]:
    """As ``upstream.retrieve``, of each class as many as it takes to fill its budget: an image
    that the corpus flags, or that nearly equals one already kept for the class, is rejected
    with its reason and the next takes its place.

    Args:
        found: candidates of each class, best first.
        texts: the query texts of each class.
        size: side in pixels of the images.
        duplicate: images whose cosine is larger are duplicates; copies always are.
    """
    with meter.phase("filter"):
        reasons = [_reasons(upstream, meter, of_class.rows, duplicate) for of_class in found]
    found = [first(of_class, len(why)) for of_class, why in zip(found, reasons, strict=True)]
    for images in upstream.retrieve(found, texts, size):
        rows = zip(images.labels, images.provenance, strict=True)
        yield replace(images, rejected=[reasons[label][told.rank] for label, told in rows])


def _reasons(upstream: Any, meter: Any, rows: np.ndarray, duplicate: float) -> list[str]:
    """For each candidate in turn, until the budget of the class is kept or none is left."""
    kept: list[int] = []
    reasons: list[str] = []
    for row in rows:
        if len(kept) == meter.budget.images_per_class:
            break
        why = flagged(upstream.corpus.flags(row))
        if not why and kept:
            meter.charge(flops=2 * len(kept) * upstream.features.shape[1])
            cosines = upstream.features[kept] @ upstream.features[row]
            nearest = int(cosines.argmax())
            if cosines[nearest] > min(duplicate, COPY):
                twin = upstream.corpus.ids[kept[nearest]]
                why = f"duplicate: cosine {cosines[nearest]:.3f} with {twin}"
        reasons.append(why)
        if not why:
            kept.append(int(row))
    return reasons


def flagged(flags: dict[str, float]) -> str:
    """Why an image of the corpus is not used, by what the corpus says of it."""
    over = [
        f"{kind}: {value:.3g} > {FLAGS[kind]}"
        for kind, value in flags.items()
        if value > FLAGS[kind]
    ]
    return over[0] if over else ""


def first(found: Neighbours, count: int) -> Neighbours:
    """The ``count`` best."""
    return replace(
        found,
        rows=found.rows[:count],
        similarity=found.similarity[:count],
        query=found.query[:count],
    )


def joined(batches: Iterable[Images]) -> Images:
    """Batches of equal kind as one."""
    import numpy as np

    parts = list(batches)
    return Images(
        np.concatenate([part.pixels for part in parts]),
        [label for part in parts for label in part.labels],
        [told for part in parts for told in part.provenance],
    )


def best_of(scores: np.ndarray) -> list[str]:
    """The reasons of a group of candidates of which the best (of equal ones, the first) is kept.

    Args:
        scores: float [n].
    """
    best = int(scores.argmax())
    return [
        "" if place == best else f"score: {score:.3f} < {scores[best]:.3f}"
        for place, score in enumerate(scores)
    ]

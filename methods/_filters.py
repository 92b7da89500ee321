"""Filters: why an image is rejected. The reason of an image that is kept is ""."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark import Images, Meter, Upstream

if TYPE_CHECKING:
    import numpy as np

    from benchmark.upstream import Neighbours

# What LAION advises for the columns `punsafe` and `pwatermark` of its corpora.
FLAGS = {"safety": 0.5, "watermark": 0.8}
COPY = 0.9999  # cosine of features of one image, whichever batches they were computed in


def retrieve_filtered(
    upstream: Upstream,
    meter: Meter,
    neighbours: Sequence[Neighbours],
    texts: Sequence[Sequence[str]],
    size: int,
    *,
    duplicate: float = 1.0,
) -> Iterator[Images]:
    """As ``upstream.retrieve``, of each class as many as it takes to fill its budget: an image
    that the corpus flags, or that nearly equals one already kept for the class, is rejected
    with its reason and the next takes its place.

    Args:
        neighbours: candidates of each class, best first.
        texts: the query texts of each class.
        size: side in pixels of the images.
        duplicate: images whose cosine is larger are duplicates; copies always are.
    """
    # Reasons come first, from features alone: only the images of the ledger are decoded.
    with meter.phase("filter"):
        reasons = [_reasons(upstream, meter, found.rows, duplicate) for found in neighbours]
    examined = [top(found, len(why)) for found, why in zip(neighbours, reasons, strict=True)]
    for images in upstream.retrieve(examined, texts, size):
        rejected = [
            reasons[label][row.rank or 0]  # every retrieved image has a rank
            for label, row in zip(images.labels, images.provenance, strict=True)
        ]
        yield replace(images, rejected=rejected)


def _reasons(upstream: Upstream, meter: Meter, rows: np.ndarray, duplicate: float) -> list[str]:
    """For each candidate, best first, until the budget of the class is filled or none is left."""
    kept: list[int] = []
    reasons: list[str] = []
    for row in rows:
        if len(kept) == meter.budget.images_per_class:
            break
        reason = flagged(upstream.corpus.flags(row))
        if not reason and kept:
            # numpy's product is not metered by itself
            meter.charge(flops=2 * len(kept) * upstream.features.shape[1])
            cosines = upstream.features[kept] @ upstream.features[row]
            nearest = int(cosines.argmax())
            if cosines[nearest] > min(duplicate, COPY):
                twin = upstream.corpus.ids[kept[nearest]]
                reason = f"duplicate: cosine {cosines[nearest]:.3f} with {twin}"
        reasons.append(reason)
        if not reason:
            kept.append(int(row))
    return reasons


def flagged(flags: dict[str, float]) -> str:
    """Why an image of the corpus is rejected, by what the corpus states of it."""
    over = [
        f"{kind}: {value:.3g} > {FLAGS[kind]}"
        for kind, value in flags.items()
        if value > FLAGS[kind]
    ]
    return over[0] if over else ""


def top(neighbours: Neighbours, count: int) -> Neighbours:
    """The ``count`` best."""
    return replace(
        neighbours,
        rows=neighbours.rows[:count],
        similarity=neighbours.similarity[:count],
        query=neighbours.query[:count],
    )


def joined(batches: Iterable[Images]) -> Images:
    """Batches as one. Their labels are class indices, and none was filtered."""
    import numpy as np

    parts = list(batches)
    return Images(
        np.concatenate([part.pixels for part in parts]),
        [label for part in parts for label in part.labels],
        [row for part in parts for row in part.provenance],
    )


def best_of(scores: np.ndarray) -> list[str]:
    """The reasons of a group of candidates of which the best (of equal ones, the first) is kept.

    Args:
        scores: float [n].
    """
    best = int(scores.argmax())  # of equal ones the first
    return [
        "" if index == best else f"score: {score:.3f} < {scores[best]:.3f}"
        for index, score in enumerate(scores)
    ]

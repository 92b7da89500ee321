"""Images generated without a text, each labelled with the class it looks like.

The prompt is empty and there is no guidance, as in the baseline of Burg et al. How labels are
assigned is a choice of ours: of every turn's candidates each class gets one, so that the sum of the
cosines to the mean features of the classes' shots is largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._filters import joined
from ._queries import shot_means
from ._sampling import Steps

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Generated without a prompt",
    family="prompt",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: the unguided baseline",
    uses=("generator", "encoder"),
    filters=("score",),
)


class Params(Steps):
    oversample: int = benchmark.param(2, help="images generated for each one kept", ge=1, le=100)


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Turn by turn, one image of every class."""
    # By default twice as many as classes: of as many, the assignment would have to keep all.
    candidates = params.oversample * len(shots.classes)
    with meter.phase("filter"):
        means = shot_means(upstream.encoder, shots)
    for _ in range(meter.budget.images_per_class):
        with meter.phase("generate"):
            images = joined(
                upstream.generator.text_to_image(
                    [""] * candidates,
                    [0] * candidates,  # no class yet
                    rng.integers(2**63, size=candidates).tolist(),
                    size=shots.image_size,
                    guidance_scale=1.0,  # there is no prompt to guide by
                    steps=params.steps,
                )
            )
        with meter.phase("filter"):
            cosines = (upstream.encoder.encode_images(images.pixels) @ means.T).numpy()
        yield assigned(images, cosines)


def assigned(images: Images, cosines: np.ndarray) -> Images:
    """Labels by the best assignment of images to classes; an image that is assigned to none is
    rejected, under the class it is nearest to.

    Args:
        cosines: float [B, C], B at least C.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    labels = cosines.argmax(1)
    rows, classes = linear_sum_assignment(cosines, maximize=True)
    labels[rows] = classes
    best = np.empty(cosines.shape[1])  # the cosine of the image that each class gets
    best[classes] = cosines[rows, classes]
    own = cosines[np.arange(len(labels)), labels]
    unassigned = set(range(len(labels))) - set(rows.tolist())
    return replace(
        images,
        labels=labels,
        provenance=[
            replace(row, similarity=float(cosine))
            for row, cosine in zip(images.provenance, own, strict=True)
        ],
        rejected=[
            f"score: {own[row]:.3f} < {best[labels[row]]:.3f}" if row in unassigned else ""
            for row in range(len(labels))
        ],
    )

"""Images generated without a text, each given to the class it looks like.

The generator is asked for nothing ("", no guidance), as the baseline of Burg et al. How images
come by a class is a choice of ours: of every turn's candidates each class gets one, so that the
sum of the cosines to the mean features of the classes' shots is largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Shots

from ._filters import joined
from ._queries import centroids

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


class Params(benchmark.Params):
    oversample: int = benchmark.param(2, help="images generated for each one kept", ge=1, le=100)
    steps: int = benchmark.param(12, help="denoising steps", published=50, ge=1, le=1000)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Turn by turn, one image of every class."""
    candidates = params.oversample * len(shots.classes)
    with meter.phase("filter"):
        means = centroids(upstream.encoder, shots)
    for _ in range(meter.budget.images_per_class):
        with meter.phase("generate"):
            made = joined(
                upstream.generator.text_to_image(
                    [""] * candidates,
                    [0] * candidates,
                    rng.integers(2**63, size=candidates).tolist(),
                    size=shots.image_size,
                    guidance_scale=1.0,
                    steps=params.steps,
                )
            )
        with meter.phase("filter"):
            cosines = (upstream.encoder.encode_images(made.pixels) @ means.T).numpy()
        yield assigned(made, cosines)


def assigned(made: Images, cosines: np.ndarray) -> Images:
    """Labels by the best assignment of images to classes; who is left over was outdone in the
    class it is nearest to.

    Args:
        cosines: float [B, C], B at least C.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    labels = cosines.argmax(1)
    images, classes = linear_sum_assignment(cosines, maximize=True)
    labels[images] = classes
    held = np.empty(cosines.shape[1])
    held[classes] = cosines[images, classes]
    own = cosines[np.arange(len(labels)), labels]
    left = set(range(len(labels))) - set(images.tolist())
    return replace(
        made,
        labels=labels,
        provenance=[
            replace(told, similarity=float(cosine))
            for told, cosine in zip(made.provenance, own, strict=True)
        ],
        rejected=[
            f"score: {own[row]:.3f} < {held[labels[row]]:.3f}" if row in left else ""
            for row in range(len(labels))
        ],
    )

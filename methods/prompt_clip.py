"""Images generated from CLIP's 80 prompt templates, filled with the class names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Images, Meter, Shots, Upstream

from ._queries import fill_templates
from ._sampling import Sampling, sample_images

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Generated from CLIP templates",
    family="prompt",
    query="templates",
    paper="https://arxiv.org/abs/2304.10253",
    citation="Burg et al. (2023), TMLR: the CLIP prompts baseline",
    uses=("generator",),
    uses_shots=False,
)


class Params(Sampling):
    """The upstream's sampling."""


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """The templates of Radford et al. (2021), arXiv 2103.00020, in random order for each class,
    none twice before all were used."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES as TEMPLATES

    texts = [rng.permutation(fill_templates(entry, TEMPLATES)).tolist() for entry in shots.classes]
    # beyond 80 images of a class the templates come again, with other seeds
    yield from sample_images(shots, upstream, meter, rng, params, texts)

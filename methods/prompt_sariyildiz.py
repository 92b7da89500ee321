"""Images generated from what the class is, not from its name alone.

Sariyildiz et al. disambiguate a class c by its WordNet hypernym h_c or definition d_c, and vary
the scene by a background b: "c, d_c" and "c, h_c inside b". A class whose card states neither
is asked for as "c" and "c inside b".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Class, Images, Shots

from ._rounds import requests

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Generated from definitions and scenes",
    family="prompt",
    query="templates",
    paper="https://arxiv.org/abs/2212.08420",
    citation="Sariyildiz et al. (2023), CVPR: Fake it till you make it",
    uses=("generator",),
)

# Scenes of the data set Places (Zhou et al. 2018, http://places2.csail.mit.edu); the paper draws
# from all of them, this is a choice of ours.
SCENES = (
    """
airfield, alley, amusement park, aquarium, art studio, attic, bakery, bamboo forest, barn, beach,
bedroom, bookstore, bridge, butcher shop, cafeteria, campsite, canyon, castle, classroom, cliff,
closet, clothing store, corridor, courtyard, creek, crosswalk, desert, dining room, farm, garage,
gas station, greenhouse, gymnasium, harbor, highway, hospital room, house, jacuzzi, kitchen,
laundromat, library, living room, market, mountain, museum, nursery, office, orchard, park, pier,
playground, plaza, pond, rainforest, restaurant, river, sky, stable, stage, street, supermarket,
swimming pool, train station, valley, vegetable garden, waterfall, yard, zen garden
""".replace("\n", " ")
    .strip()
    .split(", ")
)


class Params(benchmark.Params):
    guidance_scale: float = benchmark.param(
        2.0, help="classifier-free guidance; at 1 there is none", ge=0, le=30
    )
    steps: int = benchmark.param(12, help="denoising steps", published=50, ge=1, le=1000)


def augment(
    shots: Shots, upstream, meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Definition and scene in turn, the members of a class in turn, every scene drawn anew."""
    count = meter.budget.images_per_class
    texts = [prompts(entry, count, rng) for entry in shots.classes]
    with meter.phase("generate"):
        yield from upstream.generator.text_to_image(
            *requests(shots, count, rng, texts),
            size=shots.image_size,
            guidance_scale=params.guidance_scale,
            steps=params.steps,
        )


def prompts(entry: Class, count: int, rng: np.random.Generator) -> list[str]:
    """``count`` prompts of one class."""
    said = []
    for turn in range(count):
        c = entry.members[turn // 2 % len(entry.members)]
        b = SCENES[rng.integers(len(SCENES))]
        inside = f"{c}, {entry.hypernym} inside {b}" if entry.hypernym else f"{c} inside {b}"
        defined = f"{c}, {entry.definition}" if entry.definition else c
        said.append(inside if turn % 2 else defined)
    return said

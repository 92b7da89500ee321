"""Images generated from what the class is, not from its name alone.

Sariyildiz et al. disambiguate a class c by its WordNet hypernym h_c or definition d_c, and vary
the scene by a background b: "c, d_c" and "c, h_c inside b". A class whose card states neither
is prompted for as "c" and "c inside b".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import benchmark
from benchmark import Class, Images, Meter, Shots, Upstream

from ._sampling import Sampling, sample_images

if TYPE_CHECKING:
    import numpy as np

FACTS = benchmark.Facts(
    title="Generated from definitions and scenes",
    family="prompt",
    query="templates",
    paper="https://arxiv.org/abs/2212.08420",
    citation="Sariyildiz et al. (2023), CVPR: Fake it till you make it",
    uses=("generator",),
    uses_shots=False,
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


class Params(Sampling):
    """The guidance is the paper's: low, for images that differ."""

    guidance_scale: float = benchmark.param(
        2.0, help="classifier-free guidance; at 1 there is none", ge=0, le=30
    )


def augment(
    shots: Shots, upstream: Upstream, meter: Meter, rng: np.random.Generator, params: Params
) -> Iterator[Images]:
    """Definition and scene alternate, the members of a class are cycled, every scene is drawn."""
    texts = [prompts(entry, meter.budget.images_per_class, rng) for entry in shots.classes]
    yield from sample_images(shots, upstream, meter, rng, params, texts)


def prompts(entry: Class, count: int, rng: np.random.Generator) -> list[str]:
    """``count`` prompts of one class."""
    texts = []
    for turn in range(count):
        # a member keeps its turn for both kinds of prompt
        c = entry.members[turn // 2 % len(entry.members)]
        b = SCENES[rng.integers(len(SCENES))]
        in_scene = f"{c}, {entry.hypernym} inside {b}" if entry.hypernym else f"{c} inside {b}"
        defined = f"{c}, {entry.definition}" if entry.definition else c
        texts.append(in_scene if turn % 2 else defined)
    return texts

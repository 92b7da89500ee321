"""What the page makes of each family of methods, in one table: which side of the question it stands
on, the place it is shown at, its words, its colour and its mark.

Colours are CSS variables (Okabe & Ito 2008, "Color universal design"), which ``static/page.css``
sets for light and dark; a mark is an SVG path in -1..1. Sides differ in colour, families in shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["retrieval", "generation", "other"]


@dataclass(frozen=True)
class Family:
    """How a family is shown.

    Attributes:
        words: for legends and tables.
        mark: an SVG path in -1..1.
        colour: a CSS variable.
        side: of the question.
        competes: whether it answers the question; the others are shown for orientation.
    """

    words: str
    mark: str
    colour: str = "--neutral"
    side: Side = "other"
    competes: bool = True


_COOL, _WARM, _MIXED = "--retrieval", "--generation", "--hybrid"
# In the order in which they are shown.
FAMILIES = {
    "retrieve": Family("retrieval", "M-.85,-.85H.85V.85H-.85Z", _COOL, "retrieval"),
    "prompt": Family(
        "diffusion, prompted", "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z", _WARM, "generation"
    ),
    "edit": Family("diffusion, edited", "M0,-1.05L1.1,.85H-1.1Z", _WARM, "generation"),
    "personalize": Family(
        "diffusion, personalised", "M0,-1.2L1.2,0L0,1.2L-1.2,0Z", _WARM, "generation"
    ),
    "hybrid": Family("hybrid", "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z", _MIXED),
    "classical": Family("classical", "M-.55,-1H.55L1.1,0L.55,1H-.55L-1.1,0Z"),
    "oracle": Family("more real images", "M0,1.05L1.1,-.85H-1.1Z", competes=False),
    "control": Family("control", "M-1.1,-.4H1.1V.4H-1.1Z", competes=False),
}
_UNKNOWN = Family("other", "M-1,-.4H1V.4H-1Z")  # of records whose family is no longer declared


def family(name: str) -> Family:
    """How a family is shown, one that is no longer declared too."""
    return FAMILIES.get(name, _UNKNOWN)


def order_of(name: str) -> int:
    """Where a family comes in the order, 0 first; unknown ones last."""
    return list(FAMILIES).index(name) if name in FAMILIES else len(FAMILIES)

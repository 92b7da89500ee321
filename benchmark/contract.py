"""The method contract: what a method declares, what it is given, what it yields.

A method is one file ``methods/<name>.py`` with

    FACTS = Facts(...)                      what it is, checked when it is found
    class Params(benchmark.Params): ...     its parameters (may be left out)
    def augment(shots, upstream, meter, rng, params): yield Images(...)

and, where it acts on the classifier's batches as mixup does,

    def mix(images, targets, meter, rng, params): return images, targets

It sees the few-shot training images, the upstream, a meter and a seeded generator, and nothing
else: no validation or test image, no classifier, no result can be reached from the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from benchmark.errors import Unavailable
from benchmark.schema import Declared

if TYPE_CHECKING:
    import numpy as np

Family = Literal[
    "control", "classical", "prompt", "edit", "personalize", "retrieve", "hybrid", "oracle"
]
Adaptation = Literal["none", "token", "conditioning", "LoRA", "full"]
Query = Literal["none", "class name", "templates", "caption", "image"]
Part = Literal["corpus", "encoder", "index", "generator"]
Filter = Literal["score", "duplicate", "safety", "watermark"]
Origin = Literal["generated", "retrieved", "real", "transformed"]


class Facts(Declared):
    """What a method is. Every field is shown by ``bench show`` and on the page.

    Attributes:
        title: a few words for tables.
        family: where the images come from; the page contrasts families.
        adaptation: what of the generator is trained on the shots.
        query: what the generator is prompted, or the corpus searched, with.
        paper: URL of the paper that defines the method ("" for controls).
        citation: "Authors (year), venue" as the page shows it.
        licence: SPDX id of this file's code.
        version: raised by hand when the method's definition changes.
        uses: parts of the upstream that are loaded before the clock starts.
        filters: steps that may reject an image; a reason in ``Images.rejected`` starts with the
            name of one of them.
        adds_images: False only for a method that yields none: a control that trains on the
            shots alone, or one that only mixes batches.
        mixes_batches: whether the file has ``mix``, which acts on the classifier's batches.
    """

    title: str = Field(min_length=3, max_length=60)
    family: Family
    adaptation: Adaptation = "none"
    query: Query = "none"
    paper: str = Field(default="", pattern=r"^(https://\S+)?$")
    citation: str = ""
    licence: str = "MIT"
    version: int = Field(default=1, ge=1)
    uses: tuple[Part, ...] = ()
    filters: tuple[Filter, ...] = ()
    adds_images: bool = True
    mixes_batches: bool = False


class Params(Declared):
    """Base of a method's parameters; unknown names are refused with a suggestion."""


def param(default: Any, *, help: str, published: Any = None, **limits: Any) -> Any:
    """A parameter with its default here, the default its paper published, and its limits
    (pydantic's ``ge``, ``le``, ``gt``, ``lt``)."""
    extra = {"published": default if published is None else published}
    return Field(default, description=help, json_schema_extra=extra, **limits)


@dataclass(frozen=True)
class Class:
    """One class of a task, as a method sees it.

    Attributes:
        name: the class name of the task card.
        prompts: texts for a generator, at least one, in the card's order.
        queries: texts for a search, at least one, in the card's order.
        members: what templates are filled with, at least the class name.
        templates: the card's prompts, unfilled: ``{name}`` stands for a member.
        hypernym: what the class is a kind of; "" where the card does not say.
        definition: what it is, in a few words; "" where the card does not say.
    """

    name: str
    prompts: tuple[str, ...]
    queries: tuple[str, ...]
    members: tuple[str, ...]
    templates: tuple[str, ...] = ("{name}",)
    hypernym: str = ""
    definition: str = ""


@dataclass(frozen=True)
class Shots:
    """The few labelled images that a method may learn from.

    Attributes:
        images: uint8 [N, H, W, 3], RGB, H = W = ``image_size``.
        labels: int64 [N], each in 0..C-1.
        ids: N identifiers of the data set, to be named as parents.
        classes: the C classes, in label order.
        image_size: side in pixels of every image a method must yield.
        reserve: more real training images, for the family ``oracle`` alone; see ``real``.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[Class, ...]
    image_size: int
    reserve: Shots | None = field(default=None, repr=False)

    def of(self, label: int) -> np.ndarray:
        """The images of one class, uint8 [n, H, W, 3]."""
        return self.images[self.rows(label)]

    def rows(self, label: int) -> list[int]:
        """The positions of one class in ``images``, ``labels`` and ``ids``."""
        return [row for row, value in enumerate(self.labels) if value == label]

    def real(self) -> Shots:
        """More real images of the training pool (an oracle's upper bound).

        Raises:
            Unavailable: the task has none to spare, or the method is not an oracle.
        """
        if self.reserve is None or not len(self.reserve.labels):
            raise Unavailable("this task holds no more real training images in reserve")
        return self.reserve


@dataclass(frozen=True)
class Provenance:
    """Where one augmented image came from; one row of the image ledger.

    Attributes:
        origin: how it came to be.
        source: ``model@revision`` or the corpus, or the name of the transform.
        prompt: text it was generated from, or the query that found it.
        seed: of its initial noise.
        nfe: denoiser evaluations spent on it (guidance doubles them).
        guidance_scale: classifier-free guidance scale w (Ho & Salimans 2022).
        corpus_id: identifier in the corpus.
        rank: 0 for the nearest of its class.
        similarity: cosine, -1..1, to the query.
        licence: of the image, where its source states one.
        parents: ids of the shots (or corpus images) it was made from.
    """

    origin: Origin
    source: str
    prompt: str | None = None
    seed: int | None = None
    nfe: int | None = None
    guidance_scale: float | None = None
    corpus_id: str | None = None
    rank: int | None = None
    similarity: float | None = None
    licence: str | None = None
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """A batch of augmented images, any size, any mixture of classes.

    Attributes:
        pixels: uint8 [B, S, S, 3] RGB, or float [B, S, S, 3] in 0..1, S = ``shots.image_size``.
        labels: [B], each in 0..C-1; or float [B, C], rows of targets. Weights of 0 or more that
            sum to 1 are a soft label, as of an image between two classes or of several; a row of
            zeros but for one -1 says that the image is not of that class. The class of largest
            absolute weight (the first of equal ones) is the one whose budget the image uses.
        provenance: [B].
        rejected: [B], or none: ``""`` for an image to be used, else the filter and its finding,
            as in ``"score: 0.18 < 0.21"``. A rejected image stays in the ledger and uses no
            budget of images.
    """

    pixels: np.ndarray
    labels: Sequence[int] | np.ndarray
    provenance: Sequence[Provenance]
    rejected: Sequence[str] = ()

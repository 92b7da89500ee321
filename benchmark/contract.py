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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

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
        uses_shots: whether the images depend on the shots. A method that says False is given
            shots without images, and its images are made once and reused over all splits.
        stochastic: whether the images depend on ``rng``. A method that says False is run once,
            whatever the draw seed.
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
    uses_shots: bool = True
    stochastic: bool = True
    adds_images: bool = True
    mixes_batches: bool = False

    @model_validator(mode="after")
    def _oracle(self) -> Self:
        if self.family == "oracle" and not self.uses_shots:
            raise ValueError("an oracle depends on the split: uses_shots must be True")
        return self


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
        images: uint8 [N, H, W, 3], RGB, H = W = ``image_size``; N is 0 for a method whose facts
            say ``uses_shots=False``.
        labels: int64 [N], each in 0..C-1.
        ids: N identifiers of the data set, to be named as parents.
        classes: the C classes, in label order.
        image_size: side in pixels of every image a method must yield.
        flip: whether a mirrored image keeps its class.
        unused: more real training images, for the family ``oracle`` alone; see ``real``.
        load: from ids and a side in pixels to the images; see ``originals``.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[Class, ...]
    image_size: int
    flip: bool = False
    unused: Shots | None = field(default=None, repr=False)
    load: Callable[[Sequence[str], int], np.ndarray] | None = field(default=None, repr=False)

    def of(self, label: int) -> np.ndarray:
        """The images of one class, uint8 [n, H, W, 3]."""
        return self.images[self.rows(label)]

    def rows(self, label: int) -> list[int]:
        """The positions of one class in ``images``, ``labels`` and ``ids``."""
        return [row for row, value in enumerate(self.labels) if value == label]

    def originals(self, size: int) -> np.ndarray:
        """The same images decoded from their files at ``size`` pixels, uint8 [N, size, size, 3]:
        what a generator of 512 px is trained on is not enlarged from the classifier's 224.

        Raises:
            DataError: an image is damaged or missing; names its id and file.
        """
        if self.load is None or size == self.image_size:
            from benchmark.images import resized

            return resized(self.images, size)
        return self.load(self.ids, size)

    def real(self) -> Shots:
        """More real images of the training pool (an oracle's upper bound).

        Raises:
            Unavailable: the task has none to spare, or the method is not an oracle.
        """
        if self.unused is None or not len(self.unused.labels):
            raise Unavailable("this task has no unused real training images")
        return self.unused


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


Natural = Annotated[int, Field(ge=0, le=2**63 - 1), BeforeValidator(_plain)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001), BeforeValidator(_plain)]
Scale = Annotated[float, Field(ge=0, le=1e6), BeforeValidator(_plain)]


@pydantic_dataclass(
    frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
)
class Provenance:
    """Where one augmented image came from; one row of the image ledger. A value that is not
    allowed raises at the line that states it.

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

    Raises:
        pydantic.ValidationError: naming the field, what is allowed and what came.
    """

    origin: Origin
    source: Annotated[str, Field(min_length=1)]
    prompt: str | None = None
    seed: Natural | None = None
    nfe: Natural | None = None
    guidance_scale: Scale | None = None
    corpus_id: str | None = None
    rank: Natural | None = None
    similarity: Cosine | None = None
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

"""Task cards: ``tasks/<dataset>.toml``. One card registers a task per number of shots."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from benchmark.contract import Class
from benchmark.protocol import Metric
from benchmark.schema import Declared, canonical_hash, declare, read_toml

# What a card says that decides neither the data nor the prompts: no part of a task's identity.
# Rows are only counted; where a file lies says nothing of what is in it.
_PLACE = {"path": True, "rows": True}
_NOT_IDENTITY: dict[str, Any] = {
    **dict.fromkeys(
        ("title", "description", "licence", "homepage", "citation", "defaults", "shots"), True
    ),
    "split": {"copies": True},
    "train": _PLACE,
    "test": _PLACE,
}


class Source(Declared):
    """A table of images: a parquet file, or a folder in the Hub's layout, with its sha256; or a
    data set on the Hub with its revision. ``rows`` is checked when it is read.

    Attributes:
        path: relative to the root; ``~`` is expanded.
        sha256: of the file; of a folder as ``benchmark.content.folder_hash`` defines it.
        hub: a repository, ``owner/name``.
        split: of a folder (default ``train``) or a repository.
    """

    path: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    hub: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    split: str | None = None
    rows: int = Field(ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.path) == bool(self.hub):
            raise ValueError("give either path or hub")
        if self.path and not self.sha256:
            raise ValueError("a file or folder needs its sha256")
        if self.hub and not (self.revision and self.split):
            raise ValueError("a data set of the Hub needs its 40-digit revision and a split")
        if self.path and self.revision or self.hub and self.sha256:
            raise ValueError("a path has a sha256, a data set of the Hub a revision")
        return self


class Columns(Declared):
    """Names of the columns; ``label`` holds what ``ClassCard.label`` names. An empty ``id``
    numbers the rows."""

    id: str = "id"
    image: str = "image"
    label: str = "label"


Label = str | int


class ClassCard(Declared):
    """One class: the value in the label column, the name shown, and what it is made of.

    ``label`` may be a list of values: the class then holds the images of all of them.
    ``members`` are the names that prompts and queries are filled with in turn (a class such as
    "mammal" is asked for by its members, "horse", "cow"); default: the class name itself.
    ``hypernym`` (what it is a kind of) and ``definition`` (a few words) are for prompts that
    say more than the name.
    """

    label: Label | Annotated[tuple[Label, ...], Field(min_length=1)]
    name: str
    members: tuple[str, ...] = ()
    hypernym: str = ""
    definition: str = ""

    @property
    def labels(self) -> tuple[Label, ...]:
        """The values in the label column."""
        return self.label if isinstance(self.label, tuple) else (self.label,)


class SplitRule(Declared):
    """How shots, validation and test images are drawn.

    ``given``: shots, validation and unused images from ``train``, test images from ``test``.
    ``carve``: a part of every class of ``train``, chosen once by the hash of the id and the same
    for all seeds, is the test split; the rest is the pool.

    Attributes:
        test_fraction: the part of every class that ``carve`` tests on, or
        pool_per_class: the number of images of every class that it does not test on.
        val_per_class: validation images of every class; 0 for none.
        copies: how many images of the pool are known to be test images too, byte for byte. More
            than that are an error.
    """

    rule: Literal["given", "carve"]
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    pool_per_class: int | None = Field(default=None, ge=1)
    val_per_class: int = Field(ge=0)
    copies: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _parts(self) -> Self:
        stated = (self.test_fraction is not None) + (self.pool_per_class is not None)
        if stated != (self.rule == "carve"):
            raise ValueError(
                "the rule 'carve' needs either test_fraction or pool_per_class, 'given' neither"
            )
        return self


class CardDefaults(Declared):
    """What a task is run with where the command does not say otherwise; None: as ``bench.toml``,
    which must know the names when they are used."""

    upstream: str | None = None
    budget: str | None = None
    classifiers: Annotated[list[str], Field(min_length=1)] | None = None


class TaskCard(Declared):
    """A data set and the few-shot tasks made of it.

    Attributes:
        name: stem of the task names: ``<name>-<k>shot``.
        shots: numbers of labelled images per class.
        metric: ``top1``, or ``mean_per_class`` recall.
        prompts, queries: templates with ``{name}``; filled with every member of a class.
        defaults: the upstream, budget and classifiers it is run with; no part of the task.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*(-[a-z0-9_]+)*$")
    title: str
    description: str
    licence: str
    homepage: str = Field(pattern=r"^https?://")
    citation: str
    version: int = Field(default=1, ge=1)
    shots: list[int] = Field(min_length=1)
    image_size: int = Field(ge=8)
    flip: bool = Field(description="whether a mirrored image keeps its class")
    metric: Metric = "top1"
    prompts: tuple[str, ...] = Field(min_length=1)
    queries: tuple[str, ...] = Field(min_length=1)
    columns: Columns = Columns()
    split: SplitRule
    train: Source
    test: Source | None = None
    classes: list[ClassCard] = Field(min_length=2)
    defaults: CardDefaults = CardDefaults()

    @field_validator("shots")
    @classmethod
    def _shots(cls, shots: list[int]) -> list[int]:
        if len(set(shots)) != len(shots) or min(shots) < 1:
            raise ValueError("shots must be distinct and at least 1")
        return sorted(shots)

    @field_validator("prompts", "queries")
    @classmethod
    def _templates(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            try:
                filled = [template.format(name=name) for name in "xy"]
            except (KeyError, IndexError, ValueError):
                raise ValueError(f"{template!r}: the only placeholder is {{name}}") from None
            if filled[0] == filled[1]:
                raise ValueError(f"{template!r} must hold {{name}}")
        return templates

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.split.rule == "given") != (self.test is not None):
            raise ValueError("a table [test] belongs to the split rule 'given', and only there")
        labels = [label for entry in self.classes for label in entry.labels]
        for key, values in (("label", labels), ("name", [entry.name for entry in self.classes])):
            twice = [str(value) for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"classes: {key} given twice: {', '.join(sorted(twice))}")
        return self


@dataclass(frozen=True)
class Task:
    """One card at one number of shots.

    ``hash`` covers what decides the images and the prompts: classes, templates, split rule,
    columns, size, metric, the content of the sources; no title, description or other prose, no
    path, no default of a command.
    """

    name: str
    card: TaskCard
    shots: int
    hash: str

    @cached_property
    def classes(self) -> tuple[Class, ...]:
        """The classes as methods see them, prompts and queries filled in."""
        return tuple(
            Class(
                name=entry.name,
                prompts=_fill(self.card.prompts, entry),
                queries=_fill(self.card.queries, entry),
                members=entry.members or (entry.name,),
                templates=self.card.prompts,
                hypernym=entry.hypernym,
                definition=entry.definition,
            )
            for entry in self.card.classes
        )


def load_tasks(path: Path) -> list[Task]:
    """The tasks that one card registers.

    Raises:
        ConfigError: malformed TOML, or anything in the card is wrong (all faults at once).
    """
    card = declare(TaskCard, read_toml(path), path)
    identity = card.model_dump(mode="json", exclude=_NOT_IDENTITY, exclude_none=True)
    return [
        Task(f"{card.name}-{shots}shot", card, shots, canonical_hash([identity, shots]))
        for shots in card.shots
    ]


def _fill(templates: tuple[str, ...], entry: ClassCard) -> tuple[str, ...]:
    """Member by member, so that the first texts of a class already vary its members."""
    members = entry.members or (entry.name,)
    return tuple(template.format(name=member) for template in templates for member in members)

"""Task cards: ``tasks/<dataset>.toml``. One card registers a task per number of shots."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from benchmark.contract import Class
from benchmark.schema import Declared, declare, read_toml


class Source(Declared):
    """A table of images: a parquet file (relative to the root) with its sha256, or a split of a
    data set on the Hub with its revision. ``rows`` is checked when it is read."""

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
            raise ValueError("a file needs its sha256")
        if self.hub and not (self.revision and self.split):
            raise ValueError("a data set of the Hub needs its 40-digit revision and a split")
        return self


class Columns(Declared):
    """Names of the columns; ``label`` holds what ``ClassCard.label`` names. An empty ``id``
    numbers the rows."""

    id: str = "id"
    image: str = "image"
    label: str = "label"


class ClassCard(Declared):
    """One class: the value in the label column, the name shown, and what it is made of.

    ``members`` are the names that prompts and queries are filled with in turn (a class such as
    "mammal" is asked for by its members, "horse", "cow"); default: the class name itself.
    ``hypernym`` (what it is a kind of) and ``definition`` (a few words) are for prompts that
    say more than the name.
    """

    label: str | int
    name: str
    members: tuple[str, ...] = ()
    hypernym: str = ""
    definition: str = ""


class SplitRule(Declared):
    """How shots, validation and test images are drawn.

    ``given``: shots, validation and reserve from ``train``, test images from ``test``.
    ``carve``: ``test_fraction`` of every class of ``train``, chosen once by the hash of the id
    and the same for all seeds, is the test split; the rest is the pool.
    """

    rule: Literal["given", "carve"]
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    val_per_class: int = Field(ge=0)

    @model_validator(mode="after")
    def _fraction(self) -> Self:
        if (self.rule == "carve") != (self.test_fraction is not None):
            raise ValueError("test_fraction belongs to the rule 'carve', and only there")
        return self


class CardDefaults(Declared):
    """What a task is run with where the command does not say otherwise; None: as ``bench.toml``."""

    upstream: str | None = None
    budget: str | None = None
    classifiers: list[str] | None = None


class TaskCard(Declared):
    """A data set and the few-shot tasks made of it.

    Attributes:
        name: stem of the task names: ``<name>-<k>shot``.
        shots: numbers of labelled images per class.
        metric: ``top1``, or ``mean_per_class`` recall.
        prompts, queries: templates with ``{name}``; filled with every member of a class.
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
    metric: Literal["top1", "mean_per_class"] = "top1"
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
        for key in ("label", "name"):
            values = [getattr(entry, key) for entry in self.classes]
            if twice := sorted({str(value) for value in values if values.count(value) > 1}):
                raise ValueError(f"classes: {key} given twice: {', '.join(twice)}")
        return self


@dataclass(frozen=True)
class Task:
    """One card at one number of shots; ``hash`` covers everything the card declares."""

    name: str
    card: TaskCard
    shots: int
    hash: str

    @property
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
    tasks = []
    for shots in card.shots:
        name = f"{card.name}-{shots}shot"
        facts = card.model_dump_json(exclude={"shots"}) + str(shots)
        tasks.append(Task(name, card, shots, hashlib.sha256(facts.encode()).hexdigest()))
    return tasks


def _fill(templates: tuple[str, ...], entry: ClassCard) -> tuple[str, ...]:
    """Member by member, so that the first texts of a class already vary its members."""
    members = entry.members or (entry.name,)
    return tuple(template.format(name=member) for template in templates for member in members)

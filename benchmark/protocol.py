"""``bench.toml``: upstreams, budgets, classifiers, seeds — the whole protocol on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from benchmark.errors import UnknownNameError, did_you_mean
from benchmark.home import PROTOCOL_FILE
from benchmark.schema import Declared, declare, read_toml

# Raised when the harness itself changes what a record means: part of every record's identity.
# 2: test images that an added image was flagged with are scored apart (`value_clean`); a trial
# counts as capped by images only where images were more than the budget holds.
PROTOCOL_VERSION = 2


class CorpusSpec(Declared):
    """A captioned corpus: parquet files (``data_files``, relative to the root, globs allowed)
    or a data set of the Hub (``hub`` with its ``revision``). ``features`` is a safetensors file
    of features that came with the corpus. The other keys name columns; those of ``safety`` and
    ``watermark`` hold the probability, 0..1, that an image is unsafe or has a watermark."""

    data_files: list[str] = []
    hub: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    split: str = "train"
    features: str | None = None
    id: str = "id"
    image: str = "image"
    caption: str = "caption"
    licence: str | None = None
    safety: str | None = None
    watermark: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.data_files) == bool(self.hub):
            raise ValueError("give either data_files or hub")
        if self.hub and not self.revision:
            raise ValueError("a data set of the Hub needs its 40-digit revision")
        return self


class EncoderSpec(Declared):
    """An OpenCLIP model: ``local-dir:<folder>`` (relative to the root), ``hf-hub:<id>``, or an
    architecture name with ``pretrained``."""

    model: str
    pretrained: str | None = None
    batch_size: int = Field(default=256, ge=1)


class GeneratorSpec(Declared):
    """A Stable Diffusion pipeline in diffusers format: a folder (relative to the root) or a
    repository of the Hub with its revision."""

    model: str
    revision: str | None = None
    variant: str | None = None
    size: int = Field(ge=8, description="side in pixels at which the pipeline generates")
    batch_size: int = Field(default=8, ge=1)


class ContaminationSpec(Declared):
    """When an added image is flagged as a copy of a test image: its pixels differ by at most
    ``pixels`` (root mean square, 0..1; 0 is equality); or its perceptual hash by at most
    ``phash`` bits of 64, and the cosine of the features is at least ``cosine``; or the cosine is
    at least ``cosine_alone``, where that is given."""

    pixels: float = Field(default=0.06, ge=0, le=1)
    phash: int = Field(default=4, ge=0, le=64)
    cosine: float = Field(default=0.98, ge=-1, le=1)
    cosine_alone: float | None = Field(default=None, ge=-1, le=1)


class UpstreamSpec(Declared):
    """What augmentation may draw from."""

    title: str
    corpus: CorpusSpec
    encoder: EncoderSpec
    generator: GeneratorSpec
    contamination: ContaminationSpec = ContaminationSpec()


class BudgetSpec(Declared):
    """Caps of one trial. ``seconds`` guards against methods that hang; nothing is ranked by it."""

    images_per_class: int = Field(ge=1)
    tflops: float = Field(gt=0)
    nfe: int = Field(ge=1)
    seconds: float = Field(gt=0)


class Recipe(Declared):
    """What all classifiers share: the number of optimisation steps does not depend on the
    number of images, and a batch is half real, half augmented."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2, multiple_of=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    checkpoints: int = Field(default=5, ge=1, description="times the validation split is read")


class ScratchSpec(Recipe):
    """A timm ResNet trained from random weights, its stem fitted to the image size."""

    kind: Literal["scratch"]
    layers: tuple[int, ...] = (1, 1, 1, 1)
    width: int = Field(default=64, ge=8, multiple_of=8)


class ProbeSpec(Recipe):
    """Multinomial logistic regression on the encoder's frozen features; every weight decay of
    ``weight_decays`` is tried and validation chooses."""

    kind: Literal["probe"]
    weight_decay: float = 0.0
    weight_decays: tuple[float, ...] = Field(default=(0.0,), min_length=1)


class FinetuneSpec(Recipe):
    """A pretrained image tower with a new linear head, all of it trained. ``model`` is
    ``encoder`` for the upstream's own image tower or ``timm:<name>``."""

    kind: Literal["finetune"]
    model: str = "encoder"
    weights: str | None = None


ClassifierSpec = Annotated[ScratchSpec | ProbeSpec | FinetuneSpec, Field(discriminator="kind")]


class Defaults(Declared):
    """What a command uses where it is not told otherwise."""

    upstream: str
    budget: str
    classifiers: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    control: str = Field(description="the method that every gain is paired with")
    # Beyond its budget of seconds a trial gets this long before its process is ended: time to
    # load models from disk, to finish the batch in hand, and to hash what was made.
    grace_seconds: float = Field(default=120.0, gt=0)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be distinct and not negative")
        return seeds


class Protocol(Declared):
    """The parsed ``bench.toml``."""

    defaults: Defaults
    upstream: dict[str, UpstreamSpec] = Field(min_length=1)
    budget: dict[str, BudgetSpec] = Field(min_length=1)
    classifier: dict[str, ClassifierSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _defaults_exist(self) -> Self:
        wanted = [("upstream", [self.defaults.upstream]), ("budget", [self.defaults.budget])]
        wanted.append(("classifier", self.defaults.classifiers))
        for kind, names in wanted:
            known = getattr(self, kind)
            for name in names:
                if name not in known:
                    raise ValueError(
                        f"defaults: unknown {kind} {name!r}{did_you_mean(name, known)}"
                    )
        return self

    def pick(self, kind: Literal["upstream", "budget", "classifier"], name: str) -> Any:
        """The declaration called ``name``.

        Raises:
            UnknownNameError: with the nearest known name.
        """
        known: dict[str, Any] = getattr(self, kind)
        if name not in known:
            raise UnknownNameError(kind, name, known)
        return known[name]


def load_protocol(root: Path) -> Protocol:
    """``bench.toml`` of ``root``.

    Raises:
        ConfigError: malformed, or anything in it is wrong (all faults at once).
    """
    path = root / PROTOCOL_FILE
    return declare(Protocol, read_toml(path), path)

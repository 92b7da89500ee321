"""``bench.toml``: upstreams, budgets, classifiers, seeds — the whole protocol on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from benchmark.errors import UnknownNameError, did_you_mean
from benchmark.home import PROTOCOL_FILE
from benchmark.schema import Declared, declare, read_toml

# Raised when the harness itself changes what a record means: part of every record's identity.
# 2: test images that an added image was flagged with are scored apart (`value_clean`); a trial
# counts as capped by images only where images were more than the budget holds.
# 3: identity is content alone; split, image draw and classifier training have seeds of their own;
# compute is capped at a multiple of plain generation, seconds and NFE are not.
PROTOCOL_VERSION = 3

Metric = Literal["top1", "mean_per_class"]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class CorpusSpec(Declared):
    """A captioned corpus: parquet files (``data_files``, relative to the root, globs allowed), or
    a data set in the Hub's layout: a repository (``hub`` with its ``revision``) or a local folder.
    ``features`` is a safetensors file of features that came with the corpus. The other keys name
    columns; those of ``safety`` and ``watermark`` hold the probability, 0..1, that an image is
    unsafe or has a watermark."""

    data_files: list[str] = []
    hub: str | None = None
    revision: Revision | None = None
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
        return self


class EncoderSpec(Declared):
    """An OpenCLIP model: ``local-dir:<folder>`` (relative to the root), ``hf-hub:<id>`` with its
    ``revision``, or an architecture name with ``pretrained``, a local file of weights."""

    model: str
    revision: Revision | None = None
    pretrained: str | None = None
    batch_size: int = Field(default=256, ge=1)


class SamplingSpec(Declared):
    """How a generator draws where a method does not say otherwise. The defaults are those that
    diffusers documents for Stable Diffusion; a distilled model wants its own.

    Attributes:
        steps: denoising steps.
        guidance_scale: classifier-free guidance scale w; at 1 there is none.
        scheduler: a noise scheduler of diffusers by its class name; None keeps the pipeline's.
    """

    steps: int = Field(default=50, ge=1, le=1000)
    guidance_scale: float = Field(default=7.5, ge=0, le=100)
    scheduler: str | None = Field(default=None, pattern=r"^[A-Z]\w*Scheduler$")


class GeneratorSpec(Declared):
    """A Stable Diffusion pipeline in diffusers format: a folder (relative to the root) or a
    repository of the Hub with its revision."""

    model: str
    revision: Revision | None = None
    variant: str | None = None
    size: int = Field(ge=8, description="side in pixels at which the pipeline generates")
    batch_size: int = Field(default=8, ge=1)
    sampling: SamplingSpec = SamplingSpec()


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
    """What augmentation may draw from. Corpus and generator may each be absent: methods that use
    them are skipped there, with the reason."""

    title: str
    corpus: CorpusSpec | None = None
    encoder: EncoderSpec
    generator: GeneratorSpec | None = None
    contamination: ContaminationSpec = ContaminationSpec()


class BudgetSpec(Declared):
    """What one trial may use, as multiples, so that a tier means the same for 10 or 1,000 classes
    and at 32 or 512 px.

    Attributes:
        images_per_class: images accepted.
        compute: TFLOPs, as a multiple of what generating that many images for every class costs
            from plain prompts at the upstream's default sampling.
    """

    images_per_class: int = Field(ge=1)
    compute: float = Field(gt=0)


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
    ``encoder`` for the upstream's own image tower, or ``timm:<name>`` with
    ``weights``, a local file, or ``timm:hf-hub:<id>`` with its ``revision``."""

    kind: Literal["finetune"]
    model: str = "encoder"
    weights: str | None = None
    revision: Revision | None = None


Spec = TypeVar("Spec")
ClassifierSpec = Annotated[ScratchSpec | ProbeSpec | FinetuneSpec, Field(discriminator="kind")]


class Defaults(Declared):
    """What a command uses where neither it nor the task's card says otherwise.

    Attributes:
        splits, draws, trainings: seeds of the few-shot split, of the images, of the classifier; a
            trial for every combination.
        control: the method that every gain is paired with.
        stall_seconds: a method that neither charges its meter nor yields for so long is ended.
        stall_grace_seconds: later its process is ended, where the method withstood that.
    """

    upstream: str
    budget: str
    classifiers: list[str] = Field(min_length=1)
    splits: list[int] = Field(min_length=1)
    draws: list[int] = Field(default=[0], min_length=1)
    trainings: list[int] = Field(default=[0], min_length=1)
    control: str
    stall_seconds: float = Field(default=600.0, gt=0)
    stall_grace_seconds: float = Field(default=60.0, gt=0)

    @field_validator("splits", "draws", "trainings")
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

    def upstream_named(self, name: str) -> UpstreamSpec:
        """Raises ``UnknownNameError``, with the nearest known name; so do the next two."""
        return _pick("upstream", self.upstream, name)

    def budget_named(self, name: str) -> BudgetSpec:
        """See ``upstream_named``."""
        return _pick("budget", self.budget, name)

    def classifier_named(self, name: str) -> ClassifierSpec:
        """See ``upstream_named``."""
        return _pick("classifier", self.classifier, name)


def _pick(kind: str, known: dict[str, Spec], name: str) -> Spec:
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

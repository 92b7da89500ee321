"""What a trial leaves: the result row, the predictions, the image ledger, the flagged pairs.

``Record`` is one result row; its JSON Schema is published as ``docs/record-v3.schema.json``.
The four tables are checked with pandera, strictly and lazily: all faults show at once.
pandera and pandas are imported where tables are checked, so the command line starts without
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from benchmark.errors import ConfigError, RecordError
from benchmark.meter import Spend
from benchmark.protocol import PROTOCOL_VERSION, Metric
from benchmark.schema import Declared, declare

SCHEMA_VERSION = 3


def _why_rejected(values: dict[str, Any]) -> dict[str, Any]:
    """To version 2, which counts rejected images by their reason. Version 1 knew one, the cap;
    it did not look for flagged pairs."""
    count = values.get("images_rejected", 0)
    return values | {"schema_version": 2, "rejects": {"cap": count} if count else {}}


def _seeds_apart(values: dict[str, Any]) -> dict[str, Any]:
    """To version 3, where split, image draw and classifier training have seeds of their own.
    Version 2 had one for all three, an image set for every trial, and caps on NFE and seconds."""
    seed, dropped = values.get("seed"), ("seed", "nfe_cap", "seconds_cap")
    kept = {name: value for name, value in values.items() if name not in dropped}
    seeds = dict.fromkeys(("split", "draw", "training"), seed)
    images = {"images_id": values.get("trial_id"), "protocol_version": 2, "compute_cap": None}
    return kept | seeds | images | {"schema_version": 3}


# From version n to n + 1, pure functions of the stored dictionary; tests hold a golden file of
# every version.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _why_rejected,
    2: _seeds_apart,
}

Status = Literal["ok", "capped", "failed", "skipped"]

SHA256 = r"^[0-9a-f]{64}$"


class Environment(Declared):
    """Where the trial ran; nothing in it is part of a record's identity."""

    bench: str
    python: str
    platform: str
    device: str
    threads: int = Field(ge=1)
    packages: dict[str, str]
    commit: str | None = None
    dirty: bool | None = None


class Record(Declared):
    """One row: a trial evaluated by one classifier.

    Scores are raw counts; the gain is derived from this row and the row ``control_id`` names
    (same task, upstream, budget, seeds and classifier, with the protocol's control method).

    ``images_id`` names the set of images, which several splits and classifiers may share;
    ``trial_id`` adds the split and the seed of the training, ``record_id`` the classifier.
    """

    schema_version: Literal[3] = 3
    protocol_version: int = Field(
        default=PROTOCOL_VERSION, ge=1, le=PROTOCOL_VERSION, description="of the harness' rules"
    )
    record_id: str = Field(pattern=SHA256)
    trial_id: str = Field(pattern=SHA256)
    images_id: str = Field(pattern=SHA256)
    control_id: str = Field(pattern=SHA256)
    status: Status
    reason: str = ""
    cap: Literal["", "images", "tflops", "nfe", "seconds"] = Field(
        default="", description="nfe and seconds: before protocol 3"
    )

    task: str
    method: str = Field(description="the method with its changed parameters in brackets")
    method_name: str
    family: str
    params: dict[str, Any]
    upstream: str
    budget: str
    classifier: str
    split: int = Field(ge=0, description="seed of the few-shot split")
    draw: int = Field(ge=0, description="seed of the images")
    training: int = Field(ge=0, description="seed of the classifier")
    shots: int = Field(ge=1)
    n_classes: int = Field(ge=2)

    metric: Metric
    n_test: int = Field(default=0, ge=0)
    n_correct: int = Field(default=0, ge=0)
    value: float | None = Field(default=None, ge=0, le=1)
    val_value: float | None = Field(default=None, ge=0, le=1)
    n_clean: int | None = Field(default=None, ge=0, description="test images in no flagged pair")
    value_clean: float | None = Field(default=None, ge=0, le=1, description="on those alone")
    selected: str = Field(default="", description="what validation chose: a step, a decay")

    images_accepted: int = Field(default=0, ge=0)
    images_rejected: int = Field(default=0, ge=0)
    rejects: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="rejected images by the first word of their reason"
    )
    flagged_pairs: int | None = Field(
        default=None, ge=0, description="of an accepted image and a test image"
    )
    images_per_class_cap: int = Field(ge=1)
    tflops: float = Field(default=0.0, ge=0)
    compute_cap: float | None = Field(
        gt=0, description="TFLOPs as a multiple of plain generation; null: before protocol 3"
    )
    tflops_cap: float | None = Field(
        default=None, gt=0, description="null: nothing was run, or there is no generator"
    )
    nfe: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    train_seconds: float = Field(default=0.0, ge=0)
    peak_memory_mb: float = Field(default=0.0, ge=0)
    peak_gpu_memory_mb: float = Field(default=0.0, ge=0)
    phases: dict[str, Spend] = {}

    task_hash: str = Field(pattern=SHA256)
    method_hash: str = Field(pattern=SHA256)
    upstream_hash: str = Field(pattern=SHA256)
    split_hash: str = Field(pattern=SHA256)
    classifier_hash: str = Field(pattern=SHA256)
    ledger_hash: str | None = Field(default=None, pattern=SHA256)
    predictions_hash: str | None = Field(default=None, pattern=SHA256)
    contamination_hash: str | None = Field(default=None, pattern=SHA256)

    created: str = Field(description="UTC, ISO 8601")
    environment: Environment

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        scored = self.status in ("ok", "capped")
        if scored and (self.value is None or not self.n_test or not self.predictions_hash):
            raise ValueError(f"status {self.status!r} needs value, n_test and predictions_hash")
        if not scored and (self.value is not None or not self.reason):
            raise ValueError(f"status {self.status!r} has a reason and no value")
        if (self.status == "capped") != bool(self.cap):
            raise ValueError("cap is given with the status 'capped', and only there")
        if self.n_correct > self.n_test:
            raise ValueError(f"n_correct {self.n_correct} exceeds n_test {self.n_test}")
        if scored and self.metric == "top1":
            exact = self.n_correct / self.n_test
            if self.value is None or abs(self.value - exact) > 1e-9:
                raise ValueError(f"value {self.value} is not n_correct / n_test = {exact:.6f}")
        if sum(self.rejects.values()) != self.images_rejected:
            raise ValueError(f"rejects {self.rejects} do not sum to {self.images_rejected}")
        return self

    @property
    def seeds(self) -> tuple[int, int, int]:
        """Split, draw, training."""
        return (self.split, self.draw, self.training)

    @property
    def archived(self) -> bool:
        """Whether it was made under older rules: shown, never compared with newer rows."""
        return self.protocol_version < PROTOCOL_VERSION

    @model_validator(mode="after")
    def _of_its_protocol(self) -> Self:
        """Which caps there were, and which there are."""
        if self.protocol_version >= 3:
            if self.compute_cap is None:
                raise ValueError("compute_cap is given since protocol 3")
            if self.cap in ("nfe", "seconds"):
                raise ValueError(f"cap {self.cap!r} was dropped with protocol 3")
        return self

    @model_validator(mode="after")
    def _clean(self) -> Self:
        """The clean part of the test images follows from the flagged pairs."""
        count, pairs, value = self.n_clean, self.flagged_pairs, self.value_clean
        if count is None or pairs is None or self.contamination_hash is None:
            if (count, pairs, value, self.contamination_hash) != (None,) * 4:
                raise ValueError("n_clean, flagged_pairs and contamination_hash come together")
            return self
        if not self.n_test - pairs <= count <= self.n_test - bool(pairs):
            raise ValueError(
                f"n_clean {count} does not follow from {pairs} flagged pairs and "
                f"{self.n_test} test images"
            )
        if (value is None) != (count == 0):
            raise ValueError("value_clean is given where n_clean is more than 0, and only there")
        if not pairs and value != self.value:
            raise ValueError(f"nothing is flagged, so value_clean must be the value {self.value}")
        if value is not None and self.metric == "top1":
            if abs(value * count - round(value * count)) > 1e-6:
                raise ValueError(f"value_clean {value} is no share of {count} test images")
        return self


def read_record(text: str, source: object) -> Record:
    """A record from its JSON, migrated to the current version.

    Raises:
        RecordError: not JSON, a version that is too new, or a row that does not validate.
    """
    try:
        values = json.loads(text)
        version = values.get("schema_version")
    except (ValueError, AttributeError) as error:
        raise RecordError(f"{source}: not a record: {error}") from None
    if not isinstance(version, int) or version < 1:
        raise RecordError(f"{source}: schema_version = {version!r}, expected 1..{SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{source}: schema_version {version} is newer than this augbench knows "
            f"({SCHEMA_VERSION}); upgrade augbench"
        )
    for step in range(version, SCHEMA_VERSION):
        values = MIGRATIONS[step](values)
    try:
        return declare(Record, values, source)
    except ConfigError as error:
        raise RecordError(str(error)) from None


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of one record."""
    schema = Record.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

"""What the augmentation stage of a trial leaves: facts, ledger, images, flagged pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from benchmark.labels import decode
from benchmark.meter import Spend
from benchmark.records.record import SHA256, Environment
from benchmark.schema import Declared

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


Cap = Literal["", "images", "tflops"]


class AugmentFacts(Declared):
    """``augment.json``: how a set of images came to be.

    Attributes:
        images_id: of the set.
        cap: the limit that was reached; ``images`` where more were made than the budget holds.
        tflops_cap: None where there is no generator to measure against.
        phases: what was spent, by phase.
        peak_memory_mb, peak_gpu_memory_mb: MiB, of the worker process.
        rejects: images that are not used, by the first word of their reason.
        ledger_hash, contamination_hash: of the tables beside it.
    """

    images_id: str = Field(pattern=SHA256)
    status: Literal["ok", "capped"]
    cap: Cap = ""
    reason: str = ""
    tflops_cap: float | None = Field(default=None, gt=0)
    phases: dict[str, Spend]
    peak_memory_mb: float = Field(ge=0)
    peak_gpu_memory_mb: float = Field(ge=0)
    images_accepted: int = Field(ge=0)
    images_rejected: int = Field(ge=0)
    rejects: dict[str, Annotated[int, Field(ge=1)]]
    ledger_hash: str = Field(pattern=SHA256)
    contamination_hash: str = Field(pattern=SHA256)
    environment: Environment


@dataclass(frozen=True)
class Augmented:
    """A set of images with all that is known of it.

    Attributes:
        facts: ``augment.json``.
        ledger: the table ``ledger``.
        pixels: uint8 [M, S, S, 3], accepted images in ledger order.
        labels: int64 [M], the primary classes.
        flagged: the table ``contamination``: pairs of an augmented image and a test image.
    """

    facts: AugmentFacts
    ledger: pd.DataFrame
    pixels: np.ndarray
    labels: np.ndarray
    flagged: pd.DataFrame

    def targets(self, n_classes: int) -> np.ndarray:
        """What a classifier is fitted to: ``labels``, or float32 [M, C] where one of them is
        soft or negative, from the ledger's column ``target``."""
        return decode(self.labels, self.target_texts(), n_classes)

    def target_texts(self) -> list[str | None]:
        """Of the accepted images, as the ledger has them; None for a hard label."""
        kept = self.ledger.loc[self.ledger["accepted"], "target"]
        return [text if isinstance(text, str) else None for text in kept]

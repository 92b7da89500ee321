"""The image ledger: what a method yielded, checked, counted and described row by row.

The classifier is trained on the accepted rows and on nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.contract import Images, Provenance
from benchmark.data.split import Split
from benchmark.errors import MethodError
from benchmark.images import perceptual_hash, pixel_hash
from benchmark.labels import checked, encode
from benchmark.meter import Budget
from benchmark.records.tables import check

if TYPE_CHECKING:
    import pandas as pd

_DECIMALS = 6  # of similarities: what two machines agree on
_TEST_COLUMNS = ("nearest_test_id", "nearest_test_similarity")


class Ledger:
    """The images of one trial, in the order they were yielded.

    Args:
        method: its label, for messages.
        split: names the classes, the image size and the images that may be parents.
        budget: caps the images per class.
        filters: the steps of the method that may reject an image (``Facts.filters``).
    """

    def __init__(
        self, method: str, split: Split, budget: Budget, filters: Sequence[str] = ()
    ) -> None:
        self.method, self.cap, self.filters = method, budget.images_per_class, tuple(filters)
        self.size = split.task.card.image_size
        self.classes = [entry.name for entry in split.task.classes]
        self._known = {*split.shots.ids, *split.unused.ids}
        self._rows: list[tuple[dict[str, Any], np.ndarray]] = []
        self._counts: Counter[int] = Counter()
        self._batches = 0

    @property
    def count(self) -> int:
        """Images accepted so far."""
        return self._counts.total()

    @property
    def full(self) -> bool:
        """Whether every class holds as many images as the budget allows."""
        return all(self._counts[label] >= self.cap for label in range(len(self.classes)))

    def add(self, images: Images) -> None:
        """Appends a batch. An image that the method rejected is written down with its reason and
        uses nothing of the cap; one beyond its class's cap is written down as rejected too. A
        batch is taken whole or, where it breaks the contract, not at all.

        Raises:
            MethodError: naming the method, the batch, what was expected and what came.
        """
        where = f"method {self.method!r}, batch {self._batches}"
        if not isinstance(images, Images):
            raise MethodError(f"{where}: expected benchmark.Images, got {_kind(images)}")
        pixels = _checked_pixels(images.pixels, self.size, where)
        labels = _checked_labels(images.labels, len(pixels), len(self.classes), where)
        provenances = self._checked_provenance(images.provenance, len(pixels), where)
        rejected = self._checked_rejected(images.rejected, len(pixels), where)
        counts = self._counts.copy()
        rows: list[tuple[dict[str, Any], np.ndarray]] = []
        for image, (label, target), provenance, reason in zip(
            pixels, labels, provenances, rejected, strict=True
        ):
            if not reason and counts[label] >= self.cap:
                reason = f"cap: beyond {self.cap} images of its class"
            counts[label] += not reason
            index = len(self._rows) + len(rows)
            rows.append((self._row(index, image, label, target, provenance, reason), image))
        self._rows += rows
        self._counts = counts
        self._batches += 1

    def frame(self) -> pd.DataFrame:
        """The rows as the table ``ledger`` of ``benchmark.records.record``; ``nearest_test_*`` are
        empty until ``contamination.examine`` fills them."""
        import pandas as pd

        from benchmark.records.tables import tables

        columns = list(tables()["ledger"].columns)
        frame = pd.DataFrame([row for row, _ in self._rows], columns=columns)
        checked: pd.DataFrame = check("ledger", frame, f"ledger of {self.method!r}")
        return checked

    def accepted(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [M, S, S, 3] and int64 [M]: what the classifier may see, in ledger order. Of a
        soft or negative label this is the primary class; the rest is in the column ``target``.
        """
        kept = [(image, row["label"]) for row, image in self._rows if row["accepted"]]
        pixels = np.zeros((len(kept), self.size, self.size, 3), np.uint8)
        for index, (image, _) in enumerate(kept):
            pixels[index] = image
        return pixels, np.array([label for _, label in kept], np.int64)

    def _row(
        self,
        index: int,
        image: np.ndarray,
        label: int,
        target: str | None,
        provenance: Provenance,
        reason: str,
    ) -> dict[str, Any]:
        facts = asdict(provenance)
        facts["parents"] = json.dumps(list(provenance.parents), ensure_ascii=False)
        if provenance.similarity is not None:
            facts["similarity"] = round(provenance.similarity, _DECIMALS)
        return {
            "index": index,
            "label": label,
            "class_name": self.classes[label],
            "target": target,
            "sha256": pixel_hash(image),
            "phash": perceptual_hash(image),
            **facts,
            "accepted": not reason,
            "reason": reason,
            **dict.fromkeys(_TEST_COLUMNS),
        }

    def _checked_provenance(self, given: Any, count: int, where: str) -> list[Provenance]:
        provenances = list(given) if _is_sequence(given) else [given]
        for row, provenance in enumerate(provenances):
            if not isinstance(provenance, Provenance):
                raise MethodError(
                    f"{where}: provenance[{row}]: expected benchmark.Provenance, "
                    f"got {_kind(provenance)}"
                )
        if len(provenances) != count:
            raise MethodError(f"{where}: {count} images but {len(provenances)} rows of provenance")
        for row, provenance in enumerate(provenances):
            for parent in provenance.parents:
                if parent not in self._known and parent != provenance.corpus_id:
                    raise MethodError(
                        f"{where}: provenance[{row}].parents: {parent!r} is not a shot (nor, for "
                        "an oracle, an unused image), and not the image that corpus_id names"
                    )
        return provenances

    def _checked_rejected(self, given: Any, count: int, where: str) -> list[str]:
        """One reason per image, '' for one to be used."""
        reasons = list(given) if _is_sequence(given) else [given]
        if not reasons:
            return [""] * count
        for row, reason in enumerate(reasons):
            known = isinstance(reason, str) and reason.partition(":")[0] in self.filters
            if reason != "" and not (known and ":" in reason):
                declared = ", ".join(f"'{name}: ...'" for name in self.filters)
                raise MethodError(
                    f"{where}: rejected[{row}]: expected '' or "
                    f"{declared or 'a filter that FACTS.filters declares (it has none)'}, "
                    f"got {reason!r}"
                )
        if len(reasons) != count:
            raise MethodError(f"{where}: {count} images but {len(reasons)} rows of rejected")
        return [str(reason) for reason in reasons]


def _checked_pixels(given: Any, size: int, where: str) -> np.ndarray:
    """uint8 [B, S, S, 3] from what the contract allows."""
    if not isinstance(given, np.ndarray):
        raise MethodError(f"{where}: pixels: expected a numpy array, got {_kind(given)}")
    if given.ndim != 4 or given.shape[1:] != (size, size, 3):
        raise MethodError(
            f"{where}: pixels: expected shape [B, {size}, {size}, 3], got {list(given.shape)}"
        )
    if given.dtype == np.uint8:
        return given.copy()  # the method may write into its array again
    if given.dtype.kind != "f":
        raise MethodError(
            f"{where}: pixels: expected uint8 0..255 or float 0..1, got {given.dtype}"
        )
    if not np.isfinite(given).all():
        raise MethodError(f"{where}: pixels: a value is not finite (NaN or infinite)")
    if given.size and (given.min() < 0 or given.max() > 1):
        raise MethodError(
            f"{where}: pixels: expected float in 0..1, got {given.min():.4g}..{given.max():.4g}"
        )
    whole: np.ndarray = np.round(given.astype(np.float64) * 255).astype(np.uint8)
    return whole


def _checked_labels(
    given: Any, count: int, n_classes: int, where: str
) -> list[tuple[int, str | None]]:
    """Per image a class in 0..C-1, and the text of its target where that is not hard."""
    if isinstance(given, np.ndarray) and given.ndim == 2:
        return [encode(row) for row in _checked_rows(given, count, n_classes, where)]
    if not _is_sequence(given):
        raise MethodError(
            f"{where}: labels: expected {count} integers or float [{count}, {n_classes}], "
            f"got {_kind(given)}"
        )
    labels = list(given)
    if len(labels) != count:
        raise MethodError(f"{where}: {count} images but {len(labels)} labels")
    for row, label in enumerate(labels):
        if not _is_within(label, int, 0, n_classes - 1):
            raise MethodError(
                f"{where}: labels[{row}]: expected an integer in 0..{n_classes - 1}, got {label!r}"
            )
    return [(int(label), None) for label in labels]


def _checked_rows(given: np.ndarray, count: int, n_classes: int, where: str) -> np.ndarray:
    """Rows of targets, float64 [B, C]."""
    if given.shape != (count, n_classes) or given.dtype.kind != "f":
        raise MethodError(
            f"{where}: labels: expected {count} integers or float [{count}, {n_classes}], "
            f"got {given.dtype} {list(given.shape)}"
        )
    return checked(given, f"{where}: labels")


def _is_within(value: Any, kind: type, low: float, high: float) -> bool:
    """Whether a value is of this kind and, for numbers, in range (so not NaN)."""
    if kind is str:
        return isinstance(value, str)
    allowed = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    if not isinstance(value, allowed) or isinstance(value, bool):
        return False
    return bool(low <= value <= high)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple | range) or (
        isinstance(value, np.ndarray) and value.ndim == 1
    )


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"

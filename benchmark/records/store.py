"""The results folder: whole folders or nothing, under names made of hashes.

    results/<task>/<method>/<trial id>/
        augment/        ledger.parquet  images.parquet  contamination.parquet  augment.json
        <classifier>/   predictions.parquet  record.json
    results/failures/<record id>.json

Every inner folder is filled under a temporary name and renamed, so it exists whole or not at
all; a lock per trial keeps two runs apart. Failures are kept to be shown, and never reused.
A submission holds the same packed (``benchmark.records.packed``); ``read_results`` reads both.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import RecordError
from benchmark.files import (
    TEMPORARY,
    read_table,
    storage_errors,
    to_json,
    write_bytes,
    write_file,
    write_folder,
    write_images,
    write_table,
)
from benchmark.labels import decode
from benchmark.records.packed import KEYS, RECORDS, Packed
from benchmark.records.record import Record, read_record
from benchmark.records.tables import check, table_hash

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Augmented:
    """What the augmentation half of a trial left: the ledger, the accepted images, the pairs of
    them and test images that are flagged, the spend.

    Attributes:
        facts: status, cap, reason, phases, peak memory, environment (``augment.json``).
        pixels: uint8 [M, S, S, 3], accepted images in ledger order.
        labels: int64 [M], the primary classes.
        flagged: the table ``contamination`` of ``benchmark.records.record``.
    """

    facts: dict[str, Any]
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


@dataclass(frozen=True)
class StoredRecord:
    """A validated record and the folder it lies in: its own, or the submission it is packed in."""

    record: Record
    folder: Path
    packed: Packed | None = None

    def predictions(self) -> pd.DataFrame:
        """Columns ``id``, ``label``, ``prediction``; one row per test image.

        Raises:
            RecordError: missing, damaged, or not what the record's hash says.
        """
        return self.table("predictions")

    def ledger(self) -> pd.DataFrame:
        """One row per augmented image, accepted or not; errors as ``predictions``."""
        return self.table("ledger")

    def table(self, name: str) -> pd.DataFrame:
        """One of the tables that ``benchmark.records.packed.KEYS`` names; errors as ``predictions``."""
        if self.packed:
            where = self.packed.where(name, self.record)
            found = self.packed.table(name, self.record)
        else:
            own = KEYS[name] == "record_id"
            path = (self.folder if own else self.folder.parent / "augment") / f"{name}.parquet"
            where, found = str(path), read_table(path)
        frame: pd.DataFrame = check(name, found, where)
        if table_hash(frame) != getattr(self.record, f"{name}_hash"):
            raise RecordError(f"{where}: differs from the {name}_hash of its record")
        return frame

    def flagged(self) -> pd.DataFrame | None:
        """One row per flagged pair of an augmented image and a test image; None where the record
        is of a version that did not look for them. Errors as ``predictions``."""
        if self.record.contamination_hash is None:
            return None
        return self.table("contamination")

    def images(self) -> dict[int, bytes]:
        """Image files of the accepted images by their ledger index; of a submission only those
        that were packed."""
        if self.packed:
            return self.packed.images(self.record.trial_id)
        frame = read_table(self.folder.parent / "augment" / "images.parquet")
        return {
            int(index): image["bytes"]
            for index, image in zip(frame["index"], frame["image"], strict=True)
        }


class Store:
    """Reads and writes one results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def trial_folder(self, task: str, method: str, trial_id: str) -> Path:
        """Where the artefacts of a trial lie."""
        safe = re.sub(r"[^A-Za-z0-9_.=,\-\[\]]", "_", method)[:80]
        return self.folder / task / safe / trial_id[:16]

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by one process at a time; released by the system if that process dies.

        Raises:
            filelock.Timeout: another process holds it now.
            StorageError: the folder cannot be written.
        """
        from filelock import FileLock

        with storage_errors(self.folder):
            (self.folder / ".locks").mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".locks" / f"{name[:40]}.lock", timeout=0):
            yield

    def write(self, final: Path, fill: Callable[[Path], None]) -> None:
        """``write_folder``. Call it under the trial's lock: what a killed run left half-written
        is removed."""
        write_folder(final, fill)

    def write_augmented(self, folder: Path, made: Augmented, encode: Callable[..., bytes]) -> None:
        """The first half of a trial; ``encode`` turns uint8 [S, S, 3] into a PNG file."""
        accepted = made.ledger.loc[made.ledger["accepted"], "index"].tolist()

        def fill(temporary: Path) -> None:
            write_table(temporary / "ledger.parquet", check("ledger", made.ledger, "ledger"))
            flagged = check("contamination", made.flagged, "contamination")
            write_table(temporary / "contamination.parquet", flagged)
            columns = {"index": accepted, "label": made.labels.tolist()}
            columns |= {"target": made.target_texts()}
            files = [encode(image) for image in made.pixels]
            write_images(temporary / "images.parquet", columns, files)
            write_bytes(temporary / "augment.json", to_json(made.facts))

        self.write(folder / "augment", fill)

    def read_augmented(self, folder: Path, decode: Callable[..., np.ndarray]) -> Augmented | None:
        """What ``write_augmented`` left, or None where it is not there, or is damaged (then it
        is removed, to be made again)."""
        import numpy as np

        place = folder / "augment"
        if not place.is_dir():
            return None
        try:
            facts = json.loads((place / "augment.json").read_text())
            ledger = check("ledger", read_table(place / "ledger.parquet"), place)
            if table_hash(ledger) != facts["ledger_hash"]:
                raise RecordError(f"{place}: the ledger differs from its hash")
            flagged = check("contamination", read_table(place / "contamination.parquet"), place)
            if table_hash(flagged) != facts["contamination_hash"]:
                raise RecordError(f"{place}: the flagged pairs differ from their hash")
            images = read_table(place / "images.parquet")
            pixels = [decode(image["bytes"], None, str(place)) for image in images["image"]]
            labels = images["label"].to_numpy(dtype="int64", copy=True)
            shown = np.stack(pixels) if pixels else _none()
            return Augmented(facts, ledger, shown, labels, flagged)
        except Exception:  # whatever is wrong with a damaged file, the remedy is the same
            shutil.rmtree(place, ignore_errors=True)
            return None

    def write_record(self, folder: Path, record: Record, predictions: pd.DataFrame) -> None:
        """The second half: the predictions and the row that counts on them."""

        def fill(temporary: Path) -> None:
            frame = check("predictions", predictions, "predictions")
            write_table(temporary / "predictions.parquet", frame)
            write_bytes(temporary / "record.json", to_json(record.model_dump(mode="json")))

        self.write(folder / record.classifier, fill)
        self.forget_failure(record.record_id)

    def read(self, folder: Path, classifier: str, record_id: str) -> StoredRecord | None:
        """The finished record with this id, or None where it must still be made."""
        place = folder / classifier
        with suppress(OSError, RecordError):
            record = read_record((place / "record.json").read_text(), place)
            stored = StoredRecord(record, place)
            if record.record_id == record_id and len(stored.predictions()) == record.n_test:
                return stored
        return None

    def write_failure(self, record: Record) -> Path:
        """Keeps a failed or skipped trial to be shown; the next run tries it again."""
        path = self.folder / "failures" / f"{record.record_id[:32]}.json"
        write_file(path, to_json(record.model_dump(mode="json")))
        return path

    def forget_failure(self, record_id: str) -> None:
        """Removes the note of a failure that has since been mended."""
        (self.folder / "failures" / f"{record_id[:32]}.json").unlink(missing_ok=True)


def read_results(*folders: Path) -> list[StoredRecord]:
    """Every record under the folders, the failed and skipped ones too, in a stable order.

    A folder may hold trials, a packed submission, or several of both. A cell that is there more
    than once counts once: with a score before without one, then by the order of the folders, a
    folder's own trials before the submissions in it, and these by name.

    Raises:
        RecordError: a record does not validate, or two of one folder's trials share an id; all
            faults at once.
    """
    found: dict[str, StoredRecord] = {}
    faults: list[str] = []
    for folder in folders:
        _add(found, _trials(folder), faults)
        for path in sorted(folder.rglob(RECORDS)):
            if not _is_temporary(path):
                _add(found, _submitted(Packed(path.parent)), faults)
    if faults:
        raise RecordError("\n".join(faults))
    return sorted(found.values(), key=_order)


# Where a record stands, how to read its JSON, and what it is stored in.
_Source = tuple[object, Callable[[], str], Path, Packed | None]


def _trials(folder: Path) -> Iterator[_Source]:
    for path in sorted([*folder.rglob("record.json"), *folder.glob("**/failures/*.json")]):
        if not _is_temporary(path):
            yield path, partial(path.read_text, encoding="utf-8"), path.parent, None


def _submitted(packed: Packed) -> Iterator[_Source]:
    for where, text in packed.records():
        yield where, partial(str, text), packed.folder, packed


def _is_temporary(path: Path) -> bool:
    return any(part.startswith(TEMPORARY) for part in path.parts)


def _add(found: dict[str, StoredRecord], sources: Iterable[_Source], faults: list[str]) -> None:
    """One unit's records to those found before it."""
    here: dict[str, StoredRecord] = {}
    for source, read, folder, packed in sources:
        try:
            record = read_record(read(), source)
        except (OSError, RecordError) as error:
            faults.append(str(error))
            continue
        known = here.get(record.record_id)
        if known and None not in (known.record.value, record.value):
            faults.append(f"{source}: same record_id as {known.folder}")
        elif known is None or known.record.value is None:
            here[record.record_id] = StoredRecord(record, folder, packed)
    for name, item in here.items():
        known = found.get(name)
        if known is None or (known.record.value is None and item.record.value is not None):
            found[name] = item


def _order(stored: StoredRecord) -> tuple[object, ...]:
    record = stored.record
    return (record.task, record.budget, record.classifier, record.method, record.seed)


def _none() -> np.ndarray:
    import numpy as np

    return np.zeros((0, 1, 1, 3), dtype=np.uint8)

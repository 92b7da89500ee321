"""The results folder: whole folders or nothing, under names made of hashes.

    results/<task>/<method>/<images id>/
        augment/                    ledger.parquet  images.parquet  contamination.parquet
                                    augment.json  manifest.json
        <classifier>/<record id>/   predictions.parquet  record.json  manifest.json
    results/failures/<record id>.json

Every inner folder is filled under a temporary name and renamed, so it exists whole or not at all,
and carries checksums that are compared when it is read; a lock keeps two runs apart. Failures are
kept to be shown, and never reused.
A submission holds the same packed (``benchmark.records.packed``); ``read_results`` reads both.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmark.errors import BenchError, RecordError, StorageError
from benchmark.files import (
    is_stored,
    read_image_batches,
    read_table,
    recover,
    set_aside,
    storage_errors,
    to_json,
    verify_folder,
    write_bytes,
    write_file,
    write_folder,
    write_images,
    write_table,
)
from benchmark.images import pixel_hash
from benchmark.records.augmented import Augmented, AugmentFacts
from benchmark.records.packed import KEYS, RECORDS, Packed
from benchmark.records.record import Record, read_record
from benchmark.records.tables import check, table_hash
from benchmark.schema import declare

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Encode = Callable[[np.ndarray], bytes]
    Decode = Callable[[bytes, int | None, str], np.ndarray]


_log = logging.getLogger(__name__)

# What reading a damaged file may raise. Not MemoryError: that says nothing of the file.
_DAMAGE = (BenchError, OSError, ValueError, LookupError, TypeError)


class Place(NamedTuple):
    """Where the results of a trial belong: its set of images, and the names shown in paths."""

    task: str
    method: str
    images_id: str


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
        """One of the tables that ``packed.KEYS`` names; errors as ``predictions``."""
        if self.packed:
            where = self.packed.where(name, self.record)
            found = self.packed.table(name, self.record)
        else:
            own = KEYS[name] == "record_id"
            path = (self.folder if own else self._images_folder) / f"{name}.parquet"
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
            return self.packed.images(self.record.images_id)
        images: dict[int, bytes] = {}
        for batch in read_image_batches(self._images_folder / "images.parquet"):
            images |= zip(batch["index"], batch["image"], strict=True)
        return images

    @property
    def _images_folder(self) -> Path:
        """``<images>/augment``, beside ``<images>/<classifier>/<record>``."""
        return self.folder.parents[1] / "augment"


class Store:
    """Reads and writes one results folder. What is found damaged is set aside, never deleted, and
    made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def images_folder(self, place: Place) -> Path:
        """Of a set of images and all that was evaluated with it."""
        safe = re.sub(r"[^A-Za-z0-9_.=,\-\[\]]", "_", place.method)[:80]
        return self.folder / place.task / safe / place.images_id[:16]

    def row_folder(self, place: Place, classifier: str, record_id: str) -> Path:
        """Of one record."""
        return self.images_folder(place) / classifier / record_id[:16]

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

    def stall_report(self, name: str) -> Path:
        """Where the stack of a method that hangs is written before its process is ended; ``name``
        is what is being made, images or a row."""
        return self.folder / ".locks" / f"{name[:40]}.stalled"

    def write_augmented(self, place: Place, made: Augmented, encode: Encode) -> None:
        """The first stage of a trial; ``encode`` turns uint8 [S, S, 3] into a PNG file. Call it
        under the lock of the images."""
        accepted = made.ledger.loc[made.ledger["accepted"], "index"].tolist()

        def fill(temporary: Path) -> None:
            write_table(temporary / "ledger.parquet", check("ledger", made.ledger, "ledger"))
            flagged = check("contamination", made.flagged, "contamination")
            write_table(temporary / "contamination.parquet", flagged)
            columns = {"index": accepted, "label": made.labels.tolist()}
            columns |= {"target": made.target_texts()}
            write_images(temporary / "images.parquet", columns, map(encode, made.pixels))
            write_bytes(temporary / "augment.json", to_json(made.facts.model_dump(mode="json")))

        write_folder(self.images_folder(place) / "augment", fill, manifest=True)

    def read_augmented(self, place: Place, decode: Decode) -> Augmented | None:
        """What ``write_augmented`` left, or None where it is not there, or is damaged: then it is
        set aside, to be made again."""
        folder = self.images_folder(place) / "augment"
        recover(folder)
        if not folder.is_dir():
            return None
        try:
            if faults := verify_folder(folder):
                raise RecordError("; ".join(faults))
            made = _augmented(folder, decode)
            if made.facts.images_id != place.images_id:
                raise RecordError(f"{folder}: holds the images {made.facts.images_id[:16]}")
            return made
        except _DAMAGE as error:
            _put_aside(folder, error)
            return None

    def write_record(self, place: Place, record: Record, predictions: pd.DataFrame) -> Path:
        """The second stage: the predictions, and the row that counts on them."""
        folder = self.row_folder(place, record.classifier, record.record_id)

        def fill(temporary: Path) -> None:
            frame = check("predictions", predictions, "predictions")
            write_table(temporary / "predictions.parquet", frame)
            write_bytes(temporary / "record.json", to_json(record.model_dump(mode="json")))

        write_folder(folder, fill, manifest=True)
        self.forget_failure(record.record_id)
        return folder

    def read(self, place: Place, classifier: str, record_id: str) -> StoredRecord | None:
        """The finished record with this id, or None where it must still be made."""
        folder = self.row_folder(place, classifier, record_id)
        recover(folder)
        if not folder.is_dir():
            return None
        try:
            if faults := verify_folder(folder):
                raise RecordError("; ".join(faults))
            stored = StoredRecord(read_record((folder / "record.json").read_text(), folder), folder)
            if stored.record.record_id != record_id:
                raise RecordError(f"{folder}: holds record {stored.record.record_id[:16]}")
            stored.predictions()
            return stored
        except _DAMAGE as error:
            _put_aside(folder, error)
            return None

    def write_failure(self, record: Record) -> Path:
        """Keeps a failed or skipped trial to be shown; the next run tries it again."""
        path = self.folder / "failures" / f"{record.record_id[:32]}.json"
        write_file(path, to_json(record.model_dump(mode="json")))
        return path

    def forget_failure(self, record_id: str) -> None:
        """Removes the note of a failure that has since been fixed."""
        (self.folder / "failures" / f"{record_id[:32]}.json").unlink(missing_ok=True)


def _put_aside(folder: Path, error: Exception) -> None:
    """Of a damaged folder, unless another process that read it was faster."""
    _log.warning("%s is damaged, set aside and made again: %s", folder, error)
    try:
        set_aside(folder)
    except StorageError:
        if folder.exists():
            raise


def _augmented(folder: Path, decode: Decode) -> Augmented:
    """The content of a whole folder. The images are compared with the ledger, one by one."""
    import numpy as np

    facts = declare(AugmentFacts, json.loads((folder / "augment.json").read_text()), folder)
    ledger = check("ledger", read_table(folder / "ledger.parquet"), folder)
    flagged = check("contamination", read_table(folder / "contamination.parquet"), folder)
    for name, table in (("ledger", ledger), ("contamination", flagged)):
        if table_hash(table) != getattr(facts, f"{name}_hash"):
            raise RecordError(f"{folder}: the {name} differs from its hash")
    expected = ledger[ledger["accepted"]]
    pixels, count = np.zeros((0, 1, 1, 3), np.uint8), 0
    for batch in read_image_batches(folder / "images.parquet"):
        rows = expected[count : count + len(batch["image"])]
        if rows["index"].tolist() != batch["index"] or rows["label"].tolist() != batch["label"]:
            raise RecordError(f"{folder}: its images are not those of the ledger")
        for data, sha256 in zip(batch["image"], rows["sha256"], strict=True):
            image = decode(data, None, str(folder))
            if not count:
                pixels = np.empty((len(expected), *image.shape), np.uint8)
            if pixel_hash(image) != sha256:
                raise RecordError(f"{folder}: image {count} is not that of its ledger row")
            pixels[count] = image
            count += 1
    if count != len(expected):
        raise RecordError(f"{folder}: {count} images, the ledger accepts {len(expected)}")
    return Augmented(facts, ledger, pixels, expected["label"].to_numpy("int64", copy=True), flagged)


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
            if is_stored(path.relative_to(folder)):
                _add(found, _submitted(Packed(path.parent)), faults)
    if faults:
        raise RecordError("\n".join(faults))
    return sorted(found.values(), key=_order)


# Where a record stands, how to read its JSON, and what it is stored in.
_Source = tuple[object, Callable[[], str], Path, Packed | None]


def _trials(folder: Path) -> Iterator[_Source]:
    for path in sorted([*folder.rglob("record.json"), *folder.glob("**/failures/*.json")]):
        if is_stored(path.relative_to(folder)):
            yield path, partial(path.read_text, encoding="utf-8"), path.parent, None


def _submitted(packed: Packed) -> Iterator[_Source]:
    for where, text in packed.records():
        yield where, partial(str, text), packed.folder, packed


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
    return (record.task, record.budget, record.classifier, record.method, record.seeds)

"""The results folder: whole folders or nothing, under names made of hashes.

    results/<task>/<method>/<trial id>/
        augment/        ledger.parquet  images.parquet  contamination.parquet  augment.json
        <classifier>/   predictions.parquet  record.json
    results/failures/<record id>.json

Every inner folder is filled under a temporary name and renamed, so it exists whole or not at
all; a lock per trial keeps two runs apart. Failures are kept to be shown, and never reused.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import RecordError, StorageError
from benchmark.records import Record, check, read_record, table_hash
from benchmark.targets import decode

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class Augmented:
    """What the augmentation half of a trial left: the ledger, the accepted images, the pairs of
    them and test images that are flagged, the spend.

    Attributes:
        facts: status, cap, reason, phases, peak memory, environment (``augment.json``).
        pixels: uint8 [M, S, S, 3], accepted images in ledger order.
        labels: int64 [M], the primary classes.
        flagged: the table ``contamination`` of ``benchmark.records``.
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
    """A validated record and the folder it lies in."""

    record: Record
    folder: Path

    def predictions(self) -> pd.DataFrame:
        """Columns ``id``, ``label``, ``prediction``; one row per test image.

        Raises:
            RecordError: missing, damaged, or not what the record's hash says.
        """
        path = self.folder / "predictions.parquet"
        frame: pd.DataFrame = check("predictions", _read_table(path), path)
        if table_hash(frame) != self.record.predictions_hash:
            raise RecordError(f"{path}: differs from the predictions_hash of its record")
        return frame

    def ledger(self) -> pd.DataFrame:
        """One row per augmented image, accepted or not; errors as ``predictions``."""
        path = self.folder.parent / "augment" / "ledger.parquet"
        frame: pd.DataFrame = check("ledger", _read_table(path), path)
        if table_hash(frame) != self.record.ledger_hash:
            raise RecordError(f"{path}: differs from the ledger_hash of its record")
        return frame

    def flagged(self) -> pd.DataFrame | None:
        """One row per flagged pair of an augmented image and a test image; None where the record
        is of a version that did not look for them. Errors as ``predictions``."""
        if self.record.contamination_hash is None:
            return None
        path = self.folder.parent / "augment" / "contamination.parquet"
        frame: pd.DataFrame = check("contamination", _read_table(path), path)
        if table_hash(frame) != self.record.contamination_hash:
            raise RecordError(f"{path}: differs from the contamination_hash of its record")
        return frame

    def images(self) -> dict[int, bytes]:
        """PNG files of the accepted images by their ledger index."""
        frame = _read_table(self.folder.parent / "augment" / "images.parquet")
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

        with _storage_errors(self.folder):
            (self.folder / ".locks").mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".locks" / f"{name[:40]}.lock", timeout=0):
            yield

    def write(self, final: Path, fill: Callable[[Path], None]) -> None:
        """``final`` filled by ``fill`` under a temporary name, then renamed into place.
        Call it under the trial's lock: what a killed run left half-written is removed.

        Raises:
            StorageError: the disk is full or the folder cannot be written; nothing is left.
        """
        temporary = final.parent / f"{_TEMPORARY}{final.name}-{uuid.uuid4().hex[:8]}"
        with _storage_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            for stale in final.parent.glob(f"{_TEMPORARY}{final.name}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            try:
                temporary.mkdir()
                fill(temporary)
                if final.exists():
                    shutil.rmtree(final)
                os.replace(temporary, final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def write_augmented(self, folder: Path, made: Augmented, encode: Callable[..., bytes]) -> None:
        """The first half of a trial; ``encode`` turns uint8 [S, S, 3] into a PNG file."""
        accepted = made.ledger.loc[made.ledger["accepted"], "index"].tolist()

        def fill(temporary: Path) -> None:
            _write_table(temporary / "ledger.parquet", check("ledger", made.ledger, "ledger"))
            flagged = check("contamination", made.flagged, "contamination")
            _write_table(temporary / "contamination.parquet", flagged)
            _write_images(temporary / "images.parquet", accepted, made, encode)
            _write_json(temporary / "augment.json", made.facts)

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
            ledger = check("ledger", _read_table(place / "ledger.parquet"), place)
            if table_hash(ledger) != facts["ledger_hash"]:
                raise RecordError(f"{place}: the ledger differs from its hash")
            flagged = check("contamination", _read_table(place / "contamination.parquet"), place)
            if table_hash(flagged) != facts["contamination_hash"]:
                raise RecordError(f"{place}: the flagged pairs differ from their hash")
            images = _read_table(place / "images.parquet")
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
            _write_table(temporary / "predictions.parquet", frame)
            _write_json(temporary / "record.json", record.model_dump(mode="json"))

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
        with _storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex[:8]}")
            _write_json(temporary, record.model_dump(mode="json"))
            os.replace(temporary, path)
        return path

    def forget_failure(self, record_id: str) -> None:
        """Removes the note of a failure that has since been mended."""
        (self.folder / "failures" / f"{record_id[:32]}.json").unlink(missing_ok=True)


def read_results(folder: Path) -> list[StoredRecord]:
    """Every record under ``folder``, the failed and skipped ones too, in a stable order.

    Raises:
        RecordError: a record does not validate, or two share an id; all faults at once.
    """
    found: dict[str, StoredRecord] = {}
    faults: list[str] = []
    for path in sorted([*folder.rglob("record.json"), *folder.glob("**/failures/*.json")]):
        if any(part.startswith(_TEMPORARY) for part in path.parts):
            continue
        try:
            record = read_record(path.read_text(encoding="utf-8"), path)
        except (OSError, RecordError) as error:
            faults.append(str(error))
            continue
        if record.record_id in found and record.status in ("ok", "capped"):
            faults.append(f"{path}: same record_id as {found[record.record_id].folder}")
            continue
        found.setdefault(record.record_id, StoredRecord(record, path.parent))
    if faults:
        raise RecordError("\n".join(faults))
    return sorted(found.values(), key=_order)


def _order(stored: StoredRecord) -> tuple[object, ...]:
    record = stored.record
    return (record.task, record.budget, record.classifier, record.method, record.seed)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else error.strerror or str(error)
        raise StorageError(
            f"{path}: {what}; nothing half-written was kept, the same command continues"
        ) from None


def _write_json(path: Path, value: Any) -> None:
    _write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def _write_bytes(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_table(path: Path, frame: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    _write_bytes(path, buffer.getvalue())


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except Exception as error:
        raise RecordError(f"{path}: cannot be read: {error}") from None


def _write_images(path: Path, index: list[int], made: Augmented, encode: Any) -> None:
    """Parquet with the Hub's Image feature: ``datasets`` and the Hub's viewer show it as is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [{"bytes": encode(image), "path": None} for image in made.pixels]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("index", pa.int64()), ("label", pa.int64()), ("target", pa.string()), ("image", image)]
    )
    features = {
        "index": {"dtype": "int64", "_type": "Value"},
        "label": {"dtype": "int64", "_type": "Value"},
        "target": {"dtype": "string", "_type": "Value"},
        "image": {"_type": "Image"},
    }
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    labels, targets = made.labels.tolist(), made.target_texts()
    columns = {"index": index, "label": labels, "target": targets, "image": files}
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pydict(columns, schema=schema), buffer)
    _write_bytes(path, buffer.getvalue())


def _none() -> np.ndarray:
    import numpy as np

    return np.zeros((0, 1, 1, 3), dtype=np.uint8)

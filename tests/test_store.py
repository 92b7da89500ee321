"""Whole folders or nothing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from filelock import Timeout

from benchmark.errors import DataError, RecordError
from benchmark.images import decode, encode_png, pixel_hash
from benchmark.records.augmented import Augmented
from benchmark.records.record import read_record
from benchmark.records.store import Place, Store, StoredRecord, read_results
from benchmark.records.tables import check, table_hash
from tests.helpers.records import UNSCORED, augment_facts, contamination, golden, ledger

PLACE = Place("toy-1shot", "paint[steps=2]", "d" * 64)


def augmented():
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(1, 32, 32, 3)
    rows = [ledger(sha256=pixel_hash(pixels[0])), ledger(index=1, accepted=False, reason="x")]
    frame = check("ledger", pd.concat(rows), "t")
    flagged = check("contamination", contamination(), "t")
    return Augmented(augment_facts(frame, flagged), frame, pixels, np.array([1]), flagged)


def predictions():
    labels = [0, 1] * 4
    guesses = [0, 1] * 3 + [1, 0]
    ids = [f"t{number}" for number in range(8)]
    return pd.DataFrame({"id": ids, "label": labels, "prediction": guesses})


def record(**changes):
    told = {"predictions_hash": table_hash(predictions()), **changes}
    return read_record(golden(**told), "golden")


def test_images_and_ledger_survive(tmp_path):
    store, made = Store(tmp_path), augmented()
    assert store.read_augmented(PLACE, decode) is None
    store.write_augmented(PLACE, made, encode_png)
    back = store.read_augmented(PLACE, decode)
    assert (back.pixels == made.pixels).all() and back.labels.tolist() == [1]
    assert back.facts == made.facts
    assert table_hash(back.ledger) == made.facts.ledger_hash
    assert table_hash(back.flagged) == made.facts.contamination_hash


def test_targets_come_back_as_they_were(tmp_path):
    store, made = Store(tmp_path), augmented()
    made.ledger.loc[0, "target"] = '{"0": 0.25, "1": 0.75}'
    made = replace(made, facts=augment_facts(made.ledger, made.flagged))
    store.write_augmented(PLACE, made, encode_png)
    back = store.read_augmented(PLACE, decode)
    assert back.targets(3).tolist() == made.targets(3).tolist() == [[0.25, 0.75, 0]]
    images = pd.read_parquet(store.images_folder(PLACE) / "augment" / "images.parquet")
    assert images["target"].tolist() == ['{"0": 0.25, "1": 0.75}']
    assert augmented().targets(3).tolist() == [1]  # hard labels as they are


@pytest.mark.parametrize(
    "name", ["ledger.parquet", "images.parquet", "contamination.parquet", "augment.json"]
)
def test_a_damaged_artefact_is_made_again(tmp_path, name):
    store = Store(tmp_path)
    store.write_augmented(PLACE, augmented(), encode_png)
    path = store.images_folder(PLACE) / "augment" / name
    path.write_bytes(path.read_bytes()[:20])
    assert store.read_augmented(PLACE, decode) is None
    assert not path.parent.exists()
    assert (path.parent.with_name("augment.damaged") / name).is_file(), "it was not kept"
    store.write_augmented(PLACE, augmented(), encode_png)
    assert store.read_augmented(PLACE, decode) is not None


def test_images_under_the_name_of_others_are_made_again(tmp_path):
    """Names of folders hold the beginning of an id alone, and may be changed by hand."""
    store, other = Store(tmp_path), PLACE._replace(images_id="e" * 64)
    store.write_augmented(PLACE, augmented(), encode_png)
    store.images_folder(PLACE).rename(store.images_folder(other))
    assert store.read_augmented(other, decode) is None


def test_two_readers_of_a_damaged_artefact_both_go_on(tmp_path):
    """The second finds it gone when it sets it aside: no fault of the disk."""
    store = Store(tmp_path)
    store.write_augmented(PLACE, augmented(), encode_png)

    def decode_and_lose(data, size, source):
        assert Store(tmp_path).read_augmented(PLACE, damaged) is None  # the other reader
        raise DataError("damaged")

    def damaged(data, size, source):
        raise DataError("damaged")

    assert store.read_augmented(PLACE, decode_and_lose) is None


def test_a_record_counts_only_with_its_predictions(tmp_path):
    store, row = Store(tmp_path), record()
    folder = store.write_record(PLACE, row, predictions())
    assert store.read(PLACE, "linear-probe", row.record_id).record == row
    assert store.read(PLACE, "linear-probe", "d" * 64) is None
    other = predictions().assign(prediction=0)
    other.to_parquet(folder / "predictions.parquet")
    with pytest.raises(RecordError, match="predictions_hash"):
        StoredRecord(row, folder).predictions()
    assert store.read(PLACE, "linear-probe", row.record_id) is None
    assert not folder.exists(), "it stands in the way of the next"


def test_rows_of_several_splits_lie_beside_the_images_they_share(tmp_path):
    store = Store(tmp_path)
    rows = [record(record_id=name * 64, split=split) for split, name in enumerate("abc")]
    store.write_augmented(PLACE, augmented(), encode_png)
    folders = [store.write_record(PLACE, row, predictions()) for row in rows]
    assert len({folder.parents[1] for folder in folders}) == 1
    assert [item.record.split for item in read_results(tmp_path)] == [0, 1, 2]
    for row in rows:
        assert store.read(PLACE, "linear-probe", row.record_id).record == row


def test_a_lock_is_held_once(tmp_path):
    with Store(tmp_path).lock("a"):
        with pytest.raises(Timeout), Store(tmp_path).lock("a"):
            pass
        with Store(tmp_path).lock("b"):
            pass


def test_failures_are_read_beside_records_and_forgotten_when_mended(tmp_path):
    store = Store(tmp_path)
    failed = record(**UNSCORED | {"status": "failed", "reason": "it broke"})
    store.write_failure(failed)
    assert [stored.record.status for stored in read_results(tmp_path)] == ["failed"]
    store.write_record(PLACE, record(), predictions())
    assert [stored.record.status for stored in read_results(tmp_path)] == ["capped"]


def test_all_invalid_records_are_told_at_once(tmp_path):
    for name, text in (("a", "{"), ("b", golden(value=0.9))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    with pytest.raises(RecordError) as caught:
        read_results(tmp_path)
    assert "a/record.json" in str(caught.value) and "b/record.json" in str(caught.value)

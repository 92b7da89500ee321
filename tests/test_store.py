"""Whole folders or nothing."""

import numpy as np
import pandas as pd
import pytest
from filelock import Timeout

from benchmark.errors import RecordError
from benchmark.images import decode, encode_png
from benchmark.records.record import read_record
from benchmark.records.store import Augmented, Store, StoredRecord, read_results
from benchmark.records.tables import check, table_hash
from tests.helpers.records import UNSCORED, contamination, golden, ledger


def augmented():
    frame = check("ledger", pd.concat([ledger(), ledger(index=1, accepted=False, reason="x")]), "t")
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(1, 32, 32, 3)
    flagged = check("contamination", contamination(), "t")
    facts = {"ledger_hash": table_hash(frame), "contamination_hash": table_hash(flagged)}
    return Augmented(facts, frame, pixels, np.array([1]), flagged)


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
    folder = store.trial_folder("toy-1shot", "paint[steps=2]", "b" * 64)
    assert store.read_augmented(folder, decode) is None
    store.write_augmented(folder, made, encode_png)
    back = store.read_augmented(folder, decode)
    assert (back.pixels == made.pixels).all() and back.labels.tolist() == [1]
    assert table_hash(back.ledger) == made.facts["ledger_hash"]
    assert table_hash(back.flagged) == made.facts["contamination_hash"]


def test_targets_come_back_as_they_were(tmp_path):
    made = augmented()
    made.ledger.loc[0, "target"] = '{"0": 0.25, "1": 0.75}'
    made.facts["ledger_hash"] = table_hash(made.ledger)
    Store(tmp_path).write_augmented(tmp_path / "t", made, encode_png)
    back = Store(tmp_path).read_augmented(tmp_path / "t", decode)
    assert back.targets(3).tolist() == made.targets(3).tolist() == [[0.25, 0.75, 0]]
    images = pd.read_parquet(tmp_path / "t" / "augment" / "images.parquet")
    assert images["target"].tolist() == ['{"0": 0.25, "1": 0.75}']
    assert augmented().targets(3).tolist() == [1]  # hard labels as they are


@pytest.mark.parametrize(
    "name", ["ledger.parquet", "images.parquet", "contamination.parquet", "augment.json"]
)
def test_a_damaged_artefact_is_made_again(tmp_path, name):
    store = Store(tmp_path)
    store.write_augmented(tmp_path / "t", augmented(), encode_png)
    path = tmp_path / "t" / "augment" / name
    path.write_bytes(path.read_bytes()[:20])
    assert store.read_augmented(tmp_path / "t", decode) is None
    assert not path.parent.exists()


def test_a_record_counts_only_with_its_predictions(tmp_path):
    store, row = Store(tmp_path), record()
    store.write_record(tmp_path / "t", row, predictions())
    assert store.read(tmp_path / "t", "linear-probe", row.record_id).record == row
    assert store.read(tmp_path / "t", "linear-probe", "d" * 64) is None
    other = predictions().assign(prediction=0)
    other.to_parquet(tmp_path / "t" / "linear-probe" / "predictions.parquet")
    assert store.read(tmp_path / "t", "linear-probe", row.record_id) is None
    with pytest.raises(RecordError, match="predictions_hash"):
        StoredRecord(row, tmp_path / "t" / "linear-probe").predictions()


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
    store.write_record(tmp_path / "toy" / "m" / "t", record(), predictions())
    assert [stored.record.status for stored in read_results(tmp_path)] == ["capped"]


def test_all_invalid_records_are_told_at_once(tmp_path):
    for name, text in (("a", "{"), ("b", golden(value=0.9))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    with pytest.raises(RecordError) as caught:
        read_results(tmp_path)
    assert "a/record.json" in str(caught.value) and "b/record.json" in str(caught.value)

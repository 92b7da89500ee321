"""The four tables, their versions, and what they refuse."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmark.errors import RecordError
from benchmark.protocol import PROTOCOL_VERSION
from benchmark.records.record import MIGRATIONS, SCHEMA_VERSION, json_schema, read_record
from benchmark.records.tables import check, records_frame, table_hash
from benchmark.schema import canonical_hash
from tests.helpers.records import GOLDEN, golden, ledger

SCHEMA = Path(__file__).parents[1] / "docs" / f"record-v{SCHEMA_VERSION}.schema.json"


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_a_golden_file_of_every_version_is_read(version):
    record = read_record((GOLDEN / f"record-v{version}.json").read_text(), "golden")
    assert record.schema_version == SCHEMA_VERSION
    assert (record.n_correct, record.n_test, record.value) == (6, 8, 0.75)
    assert record.phases["generate"].nfe == 40


def test_version_1_rejected_for_the_cap_alone_and_looked_for_no_copies():
    record = read_record((GOLDEN / "record-v1.json").read_text(), "golden")
    assert record.rejects == {"cap": 1} and record.images_rejected == 1
    assert record.value_clean is record.n_clean is record.flagged_pairs is None
    values = json.loads((GOLDEN / "record-v1.json").read_text()) | {"images_rejected": 0}
    assert read_record(json.dumps(values), "golden").rejects == {}


def test_version_2_had_one_seed_for_all_and_an_image_set_for_every_trial():
    record = read_record((GOLDEN / "record-v2.json").read_text(), "golden")
    assert record.seeds == (3, 3, 3) and record.images_id == record.trial_id
    assert record.compute_cap is None and record.tflops_cap == 30
    assert record.protocol_version < PROTOCOL_VERSION and record.archived
    assert not read_record(golden(), "golden").archived


def test_a_cap_that_is_gone_is_read_of_older_rows_alone():
    """NFE and seconds were capped before protocol 3."""
    assert read_record((GOLDEN / "record-v2.json").read_text(), "golden").cap == "nfe"
    with pytest.raises(RecordError, match="cap 'nfe' was dropped"):
        read_record(golden(cap="nfe"), "golden")


def test_every_version_but_the_newest_has_a_migration():
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))


def test_the_published_schema_is_the_models_own():
    assert json.loads(SCHEMA.read_text()) == json_schema()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 99}, ["newer", "upgrade"]),
        ({"schema_version": None}, ["schema_version = None"]),
        ({"value": 0.9}, ["not n_correct / n_test", "0.75"]),
        ({"n_correct": 9, "value": 1.0}, ["exceeds n_test 8"]),
        ({"cap": ""}, ["cap"]),
        ({"status": "failed"}, ["has a reason and no value"]),
        ({"predictions_hash": None}, ["needs value"]),
        ({"record_id": "xyz"}, ["record_id", "xyz"]),
        ({"accuracy": 1.0}, ["unknown key 'accuracy'"]),
        ({"rejects": {"score": 2}}, ["rejects", "do not sum to 1"]),
        ({"rejects": {"cap": 1, "score": 0}}, ["rejects.score", "got 0"]),
        ({"n_clean": 9}, ["n_clean 9", "8 test images"]),
        ({"n_clean": 5}, ["n_clean 5", "2 flagged pairs"]),
        ({"n_clean": 8}, ["n_clean 8", "2 flagged pairs"]),
        ({"value_clean": None}, ["value_clean is given where"]),
        ({"value_clean": 0.7}, ["value_clean 0.7 is no share of 6 test images"]),
        ({"flagged_pairs": 0, "n_clean": 8}, ["must be the value 0.75"]),
        ({"flagged_pairs": None}, ["come together"]),
        ({"contamination_hash": None}, ["come together"]),
        ({"split": -1, "draw": 0.5, "shots": 0}, ["split", "draw", "shots"]),
        ({"seed": 3}, ["unknown key 'seed'"]),
        ({"images_id": "d"}, ["images_id"]),
        ({"compute_cap": None}, ["compute_cap is given"]),
        ({"compute_cap": 0}, ["compute_cap", "greater than 0"]),
        ({"protocol_version": PROTOCOL_VERSION + 1}, ["protocol_version"]),
    ],
)
def test_a_wrong_row_is_refused_with_its_faults(changes, words):
    with pytest.raises(RecordError) as caught:
        read_record(golden(**changes), "x.json")
    assert all(word in str(caught.value) for word in ["x.json", *words])


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"a"', "3"])
def test_what_is_not_a_record_is_refused(text):
    with pytest.raises(RecordError, match=r"x\.json"):
        read_record(text, "x.json")


def test_rows_become_a_table_and_a_repeated_cell_is_refused():
    record = read_record(golden(), "a")
    frame = records_frame([record])
    assert len(frame) == 1
    assert json.loads(frame["params"][0]) == {"steps": 2}
    with pytest.raises(RecordError, match="record_id"):
        records_frame([record, record])
    other = read_record(golden(record_id="d" * 64), "b")
    with pytest.raises(RecordError, match="unique"):
        records_frame([record, other])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"label": -1}, "label"),
        ({"origin": "dreamt"}, "dreamt"),
        ({"sha256": "00"}, "sha256"),
        ({"similarity": 1.5}, "similarity"),
        ({"accepted": False}, "a rejected image has a reason"),
        ({"reason": "blurred"}, "an accepted one has none"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_ledger_is_refused(changes, word):
    check("ledger", ledger(), "good")
    with pytest.raises(RecordError, match=word):
        check("ledger", ledger(**changes), "bad")


def test_all_faults_show_at_once():
    with pytest.raises(RecordError) as caught:
        check("ledger", ledger(label=-1, origin="dreamt", source=""), "bad")
    assert all(word in str(caught.value) for word in ("label", "dreamt", "source"))


def test_predictions_need_distinct_ids():
    frame = pd.DataFrame({"id": ["a", "a"], "label": [0, 1], "prediction": [0, 1]})
    with pytest.raises(RecordError, match="id"):
        check("predictions", frame, "p")


def test_a_table_hash_depends_on_content_alone(tmp_path):
    frame = check("ledger", ledger(), "x")
    frame.to_parquet(tmp_path / "l.parquet")
    again = check("ledger", pd.read_parquet(tmp_path / "l.parquet"), "y")
    assert table_hash(frame) == table_hash(again)
    assert table_hash(frame) != table_hash(check("ledger", ledger(seed=6), "z"))


def test_canonical_hash_ignores_the_order_of_keys():
    assert canonical_hash({"a": 1, "b": 2}) == canonical_hash({"b": 2, "a": 1})
    assert canonical_hash({"a": 1}) != canonical_hash({"a": 2})

"""Results packed into a submission: nothing is lost, nothing false gets through."""

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark.leaderboard.site import build_site
from typer.testing import CliRunner

from benchmark.errors import RecordError, StorageError
from benchmark.images import decode
from benchmark.records.packed import IMAGES, KEYS, RECORDS
from benchmark.records.store import read_results
from benchmark.records.tables import table_hash
from benchmark.registry import load_registry
from benchmark.schema import canonical_hash
from benchmark.submission.check import check_records
from benchmark.submission.pack import pack
from tests.helpers.html import parse
from tests.helpers.records import UNSCORED
from tests.helpers.results import change_line, write_trial


def test_a_submission_holds_what_the_results_held(results, packed):
    assert {path.name for path in packed.iterdir()} == {
        RECORDS,
        IMAGES,
        *(f"{name}.parquet" for name in KEYS),
    }
    before, after = read_results(results), read_results(packed)
    assert [item.record for item in before] == [item.record for item in after]
    assert len(after) == 2 * 2 * 2 + 1
    for plain, small in zip(before, after, strict=True):
        if plain.record.value is None:
            continue
        for name in KEYS:
            pd.testing.assert_frame_equal(plain.table(name), small.table(name))
    ledger = next(item for item in after if item.record.method == "repeat").ledger()
    assert ledger["seed"].tolist() == [2**62 + 1] * 9


def test_images_of_the_first_split_are_kept_to_the_pixel(results, tmp_path):
    packed = pack(results, tmp_path / "s", images=1)
    for plain, small in zip(read_results(results), read_results(packed), strict=True):
        if plain.record.method != "repeat":
            continue
        kept = small.images()
        assert sorted(kept) == ([0, 1, 2] if plain.record.split == 0 else [])
        for index, data in kept.items():
            pixels = decode(plain.images()[index], None, "plain")
            assert np.array_equal(decode(data, None, "packed"), pixels)


def test_packed_images_are_an_image_column_of_datasets(packed, tmp_path):
    import datasets

    files = str(packed / IMAGES)
    cache = str(tmp_path / "cache")
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    assert table[0]["image"].size == (32, 32) and len(table) == 6


def test_the_same_results_give_the_same_bytes(results, packed, tmp_path):
    again = pack(results, tmp_path / "again")
    for path in packed.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_a_page_is_the_same_from_results_and_from_a_submission(results, packed, shapes, tmp_path):
    pages = [build_site(f, shapes, tmp_path / f"site-{f.name}") for f in (results, packed)]
    rows = [(page.parent / "records.json").read_bytes() for page in pages]
    assert rows[0] == rows[1]
    assert pages[0].read_text() == pages[1].read_text()
    assert len(parse(pages[1].read_text()).all("img")) == 2 * 3  # shots, images; three classes


def test_everything_is_computed_again(results, packed, shapes):
    for folder in (results, packed):
        checked = check_records(read_results(folder), load_registry(shapes))
        assert checked.faults == []
        assert (checked.records, checked.scored, checked.with_data) == (9, 8, 8)
        assert checked.unpaired == 0 and checked.images > 0


def change_table(folder, name, change):
    path = folder / f"{name}.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), path)


def faults(folder, root):
    with pytest.raises(RecordError) as caught:
        checked = check_records(read_results(folder), load_registry(root))
        raise RecordError("\n".join(checked.faults))
    return str(caught.value)


WHERE = {"method": "repeat", "split": 1, "classifier": "linear-probe"}
NAME = "shapes-3shot · repeat · S · linear-probe · split 1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": 1.0}, ["value 1.0", "n_correct / n_test"]),
        (
            {"value": 1.0, "n_correct": 18},
            [NAME, "n_correct = 18, from the predictions 17", "value = 1.0"],
        ),
        (
            {"n_test": 20, "n_clean": 19, "n_correct": 20, "value": 1.0},
            [NAME, "n_test = 20, from the predictions 18"],
        ),
        ({"images_accepted": 5}, [NAME, "images_accepted = 5", "in the ledger 6"]),
        (
            {"images_rejected": 1, "rejects": {"score": 1}},
            [NAME, "images_rejected = 1", "in the ledger 3", "{'score': 1}", "{'cap': 3}"],
        ),
        ({"value_clean": 8 / 17}, [NAME, f"value_clean = {8 / 17}, from the predictions 1.0"]),
        ({"contamination_hash": "0" * 64}, [NAME, "contamination.parquet", "contamination_hash"]),
        ({"ledger_hash": "0" * 64}, [NAME, "ledger.parquet", "ledger_hash"]),
        ({"predictions_hash": "0" * 64}, [NAME, "predictions.parquet", "predictions_hash"]),
        ({"split_hash": "0" * 64}, [NAME, "split_hash"]),
        ({"record_id": "0" * 64}, [NAME, "record_id 0000000000000000"]),
        ({"split": -1}, [f"{RECORDS}:", "split"]),
    ],
)
def test_a_changed_value_is_named(packed, shapes, changes, words):
    change_line(packed, WHERE, **changes)
    told = faults(packed, shapes)
    assert all(word in told for word in words), told


def test_a_changed_prediction_is_named(packed, shapes):
    owner = canonical_hash([canonical_hash(["repeat", 1]), canonical_hash("linear-probe")])

    def change(rows):
        row = next(row for row in rows if row["record_id"] == owner)
        row["prediction"] = row["label"]

    change_table(packed, "predictions", change)
    (told,) = faults(packed, shapes).splitlines()  # nothing else is blamed
    assert NAME in told and owner[:16] in told and "predictions_hash" in told


def test_labels_that_are_not_those_of_the_data_are_named(packed, shapes):
    """All that can be computed from the submission agrees; only the data tell."""
    owner = canonical_hash([canonical_hash(["repeat", 1]), canonical_hash("linear-probe")])
    found = {}

    def change(rows):
        mine = [row for row in rows if row["record_id"] == owner]
        for row in mine:
            row["label"] = row["prediction"]
        frame = pd.DataFrame(mine).drop(columns="record_id")
        found["hash"] = table_hash(frame)

    change_table(packed, "predictions", change)
    change_line(packed, WHERE, n_correct=18, value=1.0, predictions_hash=found["hash"])
    assert check_records(read_results(packed)).faults == []
    told = faults(packed, shapes)
    assert NAME in told and "1 labels differ" in told and "shapes/" in told


def test_an_exchanged_image_is_named(packed, shapes):
    def change(rows):
        rows[0]["image"], rows[1]["image"] = rows[1]["image"], rows[0]["image"]

    change_table(packed, "images", change)
    assert "image 0 is not the one of its ledger row" in faults(packed, shapes)


@pytest.mark.parametrize("name", [f"{name}.parquet" for name in KEYS])
def test_a_damaged_file_is_named(packed, shapes, name):
    (packed / name).write_bytes((packed / name).read_bytes()[:50])
    assert f"{name}: cannot be read" in faults(packed, shapes)


def test_rows_that_are_missing_or_scattered_are_named(packed, shapes):
    change_table(packed, "predictions", lambda rows: rows.append(dict(rows[0], id="again")))
    assert "do not lie together" in faults(packed, shapes)
    shutil.rmtree(packed)
    pack(packed.parents[1] / "results", packed)
    change_table(packed, "predictions", lambda rows: rows.__delitem__(slice(0, 18)))
    assert "predictions_hash" in faults(packed, shapes)


def test_results_that_are_not_in_order_are_not_packed(results, tmp_path):
    path = next(results.rglob("predictions.parquet"))
    pd.read_parquet(path).assign(prediction=0).to_parquet(path)
    with pytest.raises(RecordError, match="predictions_hash"):
        pack(results, tmp_path / "submissions" / "first")
    assert not (tmp_path / "submissions").exists()


def test_a_pack_that_fails_leaves_the_submission_as_it_was(results, packed, shapes, monkeypatch):
    before = {path.name: path.read_bytes() for path in packed.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("benchmark.submission.pack.write_images", full)
    with pytest.raises(StorageError, match="disk is full"):
        pack(results, packed)
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == before
    assert [path.name for path in packed.parent.iterdir()] == ["first"]


def test_packing_again_loses_no_record_and_no_readme(results, packed, shapes):
    (packed / "README.md").write_text("who ran it, and where")
    shutil.rmtree(next(results.glob("*/repeat/*")))
    with pytest.raises(RecordError, match="2 of its records are not among the results"):
        pack(results, packed)
    assert len(read_results(packed)) == 9
    write_trial(shapes, results, "repeat", 0)
    write_trial(shapes, results, "repeat", 1)
    write_trial(shapes, results, "none", 2)
    pack(results, packed)
    assert len(read_results(packed)) == 11
    assert (packed / "README.md").read_text() == "who ran it, and where"


def test_a_folder_that_is_no_submission_is_left_alone(results, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("x")
    with pytest.raises(StorageError, match="not a submission"):
        pack(results, tmp_path / "thesis")
    with pytest.raises(RecordError, match="holds no record"):
        pack(tmp_path / "thesis", tmp_path / "new")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_submissions_and_results_are_read_together(results, packed, shapes):
    """The same cells once; own trials before submissions, a score before a failure."""
    pack(results, packed.parent / "second")
    write_trial(shapes, results, "none", 2)
    both = read_results(results, packed.parent)
    assert len(both) == 11 and {item.packed is None for item in both} == {True}
    submitted = read_results(packed.parent)
    assert len(submitted) == 9 and {item.folder for item in submitted} == {packed}
    change_line(packed, WHERE, **UNSCORED, status="failed", reason="x")
    first = [i for i in read_results(packed.parent) if i.folder != packed]
    assert [(i.record.split, i.record.status) for i in first] == [(1, "capped")]


def test_the_commands(results, shapes, tmp_path, monkeypatch):
    from benchmark.cli import app

    monkeypatch.setenv("BENCH_ROOT", str(shapes))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "absent"))
    out = shapes / "submissions" / "first"
    run = CliRunner().invoke
    packed = run(app, ["pack", str(results), str(out)])
    assert packed.exit_code == 0 and "MB in all" in packed.stdout
    checked = run(app, ["validate"])  # no results folder: the root's submissions
    assert checked.exit_code == 0, checked.output
    assert "9 records in order, 8 with a score" in checked.stdout
    assert "8 compared with the data set" in checked.stdout
    built = run(app, ["site", str(results), str(out), "--out", str(tmp_path / "site")])
    assert built.exit_code == 0 and (tmp_path / "site" / "index.html").is_file()
    change_line(out, WHERE, n_correct=18, value=1.0)
    wrong = run(app, ["validate", str(out)])
    assert isinstance(wrong.exception, RecordError) and NAME in str(wrong.exception)
    missing = run(app, ["validate", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2 and "nowhere" in missing.output

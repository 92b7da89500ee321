"""Corpora: opened from files and folders, and what can be wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data import stored as storage
from benchmark.errors import ConfigError, DataError
from benchmark.images import decode
from benchmark.protocol import CorpusSpec
from benchmark.upstream.corpora import Corpus, open_corpus
from tests.helpers.files import damage

Write = Callable[..., Corpus]


@pytest.fixture(scope="module")
def rows(root: Path) -> list[dict]:
    """Every 40th image of the pocket's corpus."""
    return pq.read_table(root / "pocket/corpus/train.parquet").to_pylist()[::40]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a corpus and opens it; columns by their keys in ``bench.toml``."""

    def opened(table: list[dict], **columns: str | None) -> Corpus:
        pq.write_table(pa.Table.from_pylist(table), tmp_path / "corpus.parquet")
        return open_corpus(CorpusSpec(data_files=["corpus.parquet"], **columns), tmp_path)

    return opened


def test_a_corpus_states_what_its_file_holds(write: Write, rows: list[dict]) -> None:
    corpus = write(rows, licence="license")
    assert len(corpus) == len(rows)
    assert list(corpus.ids) == [row["id"] for row in rows]
    assert list(corpus.captions) == [row["caption"] for row in rows]
    for row in (0, 17, np.int64(len(rows) - 1)):
        assert corpus.licence(row) == rows[row]["license"]
        provenance = corpus.provenance(row, rank=3)
        assert (provenance.origin, provenance.rank) == ("retrieved", 3)
        assert provenance.corpus_id == corpus.ids[row] == rows[row]["id"]
        assert provenance.licence == rows[row]["license"]
        assert provenance.source == corpus.name and corpus.hash[:12] in corpus.name


def test_captions_are_read_as_methods_read_them(write: Write, rows: list[dict]) -> None:
    corpus = write([*rows[:7], rows[7] | {"caption": None}])
    captions = [row["caption"] for row in rows[:7]] + [""]
    assert corpus.captions[2:5] == captions[2:5]
    assert corpus.captions[[7, 0, 7]] == ["", captions[0], ""]
    assert corpus.captions[np.array([3, 1])] == [captions[3], captions[1]]
    assert dict(zip([4, 5], corpus.captions[[4, 5]], strict=True)) == {
        4: captions[4],
        5: captions[5],
    }


def test_a_corpus_decodes_the_images_it_is_asked_for(write: Write, rows: list[dict]) -> None:
    corpus, asked = write(rows), np.array([5, 2, 5])
    expected = [decode(rows[row]["image"]["bytes"], None, "") for row in asked]
    assert np.array_equal(corpus.images(asked), expected)
    assert corpus.pixels(asked, 16).shape == (3, 16, 16, 3)
    assert corpus.pixels([], 16).shape == (0, 16, 16, 3)


def test_opening_a_corpus_reads_no_image(
    write: Write, rows: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.ParquetFiles, "images", None)  # fails where it is called
    assert write(rows[:3]).captions[1] == rows[1]["caption"]


def test_columns_may_have_other_names(write: Write, rows: list[dict]) -> None:
    table = [{"__key__": row["id"], "png": row["image"], "txt": row["caption"]} for row in rows[:3]]
    corpus = write(table, id="__key__", image="png", caption="txt")
    assert list(corpus.ids) == [row["id"] for row in rows[:3]]
    assert corpus.licence(0) is None and corpus.provenance(0).licence is None


def test_ids_may_be_numbers(write: Write, rows: list[dict]) -> None:
    corpus = write([row | {"id": 2**40 + at} for at, row in enumerate(rows[:3])])
    assert corpus.provenance(1).corpus_id == corpus.ids[1] == str(2**40 + 1)


def test_flags_are_what_the_corpus_states(write: Write, rows: list[dict]) -> None:
    table = [rows[0] | {"punsafe": 0.75}, rows[1] | {"punsafe": None}]
    corpus = write(table, safety="punsafe")
    assert corpus.flags(0) == {"safety": 0.75} and corpus.flags(1) == {}
    assert write(table).flags(0) == {}
    with pytest.raises(DataError, match="no column 'pwatermark'"):
        write(table, watermark="pwatermark")


def test_a_licence_may_be_missing(write: Write, rows: list[dict]) -> None:
    corpus = write([rows[0], rows[1] | {"license": None}], licence="license")
    assert corpus.licence(0) == rows[0]["license"] and corpus.licence(1) is None


def test_a_local_folder_is_a_corpus_and_is_not_copied(tmp_path: Path, rows: list[dict]) -> None:
    places = []
    for name in ("one", "two"):
        folder = tmp_path / name / "data"
        folder.mkdir(parents=True)
        for at in range(2):
            part = pa.Table.from_pylist(rows[5 * at : 5 * at + 5])
            pq.write_table(part, folder / f"train-0000{at}-of-00002.parquet")
        places.append(open_corpus(CorpusSpec(hub=name), tmp_path))
    one, two = places
    assert list(one.ids) == [row["id"] for row in rows[:10]]
    expected = decode(rows[7]["image"]["bytes"], None, "")
    assert np.array_equal(one.images([7])[0], expected)
    assert (one.hash, one.name) == (two.hash, two.name)  # where it lies does not matter


def test_a_data_set_of_the_hub_needs_a_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="40-digit revision"):
        open_corpus(CorpusSpec(hub="nobody/nothing"), tmp_path)
    with pytest.raises(DataError, match="hf download nobody/nothing --repo-type dataset"):
        open_corpus(CorpusSpec(hub="nobody/nothing", revision="0" * 40), tmp_path)


# --- what can be wrong --------------------------------------------------------------------------


def test_ids_must_be_there_and_distinct(write: Write, rows: list[dict]) -> None:
    with pytest.raises(DataError, match=f"column 'id' '{rows[2]['id']}' is there 2 times"):
        write([*rows[:5], rows[2]])
    with pytest.raises(DataError, match="column 'id' row 1 has none"):
        write([rows[0], rows[1] | {"id": None}])


def test_captions_must_be_texts(write: Write, rows: list[dict]) -> None:
    with pytest.raises(DataError, match="column 'caption' holds list<.*, expected texts"):
        write([rows[0] | {"caption": ["a hat", "a cap"]}])


def test_a_missing_column_is_named_with_those_there_are(write: Write, rows: list[dict]) -> None:
    with pytest.raises(DataError, match="corpus.parquet: no column 'text'; it has .*caption"):
        write(rows[:2], caption="text")
    with pytest.raises(DataError, match="corpus.parquet: no column 'jpg'; it has .*image"):
        write(rows[:2], image="jpg")


def test_a_damaged_or_missing_image_is_named(write: Write, rows: list[dict]) -> None:
    cut = {"bytes": rows[1]["image"]["bytes"][:100], "path": None}
    gone = {"bytes": None, "path": "nowhere.png"}
    corpus = write([rows[0], rows[1] | {"image": cut}, rows[2] | {"image": gone}])
    for row, fault in (
        (1, "image"),
        (2, "nowhere.png"),
    ):
        with pytest.raises(DataError, match=f"corpus@.*'{rows[row]['id']}'.*{fault}"):
            corpus.pixels([0, row], 32)
    assert corpus.pixels([0], 32).shape == (1, 32, 32, 3)


def test_an_empty_corpus_is_refused(tmp_path: Path, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows[:1])[:0], tmp_path / "corpus.parquet")
    with pytest.raises(DataError, match="no image"):
        open_corpus(CorpusSpec(data_files=["corpus.parquet"]), tmp_path)


def test_an_empty_file_among_others_is_passed_over(tmp_path: Path, rows: list[dict]) -> None:
    whole = pa.Table.from_pylist(rows[:4])
    for name, part in (("a", whole[:0]), ("b", whole), ("c", whole[:0])):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    corpus = open_corpus(CorpusSpec(data_files=["*.parquet"]), tmp_path)
    assert len(corpus) == 4 and len(corpus.images(range(4))) == 4


def test_a_damaged_parquet_file_is_named(tmp_path: Path, rows: list[dict]) -> None:
    """In its ids when it is opened, in its images when they are read, in its footer at once."""
    spec, half = CorpusSpec(data_files=["*.parquet"]), len(rows) // 2
    for name, part in (("a", rows[:half]), ("b", rows[half:])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"{name}.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    group = pq.read_metadata(tmp_path / "b.parquet").row_group(0)
    chunks = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}

    def harm(column: str) -> None:
        start = chunks[column].dictionary_page_offset or chunks[column].data_page_offset
        data = bytearray(whole)
        data[start : start + 200] = b"x" * 200
        (tmp_path / "b.parquet").write_bytes(data)

    harm("image.bytes")
    corpus = open_corpus(spec, tmp_path)
    assert len(corpus.images(range(half))) == half
    with pytest.raises(DataError, match="b.parquet: row group 0") as fault:
        corpus.images([0, half])
    assert "a.parquet" not in str(fault.value)
    harm("caption")
    with pytest.raises(DataError, match="b.parquet: not a readable parquet file"):
        open_corpus(spec, tmp_path)
    damage(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a.parquet: not a readable parquet file"):
        open_corpus(spec, tmp_path)
    with pytest.raises(DataError, match="no file matches"):
        open_corpus(CorpusSpec(data_files=["none/*.parquet"]), tmp_path)

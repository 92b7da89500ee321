"""Tables of images: files, folders and data sets of the Hub, and every way in which they can be
wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.content import folder_hash
from benchmark.data import stored as storage
from benchmark.data import table as tables
from benchmark.data.card import load_tasks
from benchmark.data.split import Split, load_split
from benchmark.data.stored import ParquetFiles, open_layout
from benchmark.data.table import ImageTable, Texts
from benchmark.errors import DataError
from benchmark.images import decode
from tests.helpers.roots import sha256, shapes_table

Edit = Callable[[Path, str, str], None]
ChangeRows = Callable[[Path, Callable[[list[dict]], object]], None]


def split_of(root: Path) -> Split:
    """``shapes-3shot`` at seed 0."""
    return load_split(load_tasks(root / "tasks" / "shapes.toml")[1], 0, root)


def table_of(*files: Path, **columns: str) -> ImageTable:
    names = {"image": "image", "id_column": "id", **columns}
    return ImageTable("files", "", ParquetFiles(files), **names)


def pictures() -> dict[str, bytes]:
    """The encoded images of ``shapes`` by id."""
    return {row["id"]: row["image"]["bytes"] for row in shapes_table().to_pylist()}


# --- a file -------------------------------------------------------------------------------------


def test_a_missing_file_is_named(shapes: Path) -> None:
    (shapes / "data" / "shapes.parquet").unlink()
    with pytest.raises(DataError, match=r"data/shapes\.parquet: no such file"):
        split_of(shapes)
    (shapes / "data" / "shapes.parquet").mkdir()
    with pytest.raises(DataError, match=r"data/shapes\.parquet: .*nothing in it"):
        split_of(shapes)


def test_a_truncated_file_is_recognised_by_its_sha256(shapes: Path) -> None:
    path = shapes / "data" / "shapes.parquet"
    split_of(shapes)  # has been read before it changes
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or another version"):
        split_of(shapes)


def test_a_file_that_is_no_parquet_is_named(shapes: Path, edit: Edit) -> None:
    path = shapes / "data" / "shapes.parquet"
    before = sha256(path)
    path.write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    edit(shapes / "tasks" / "shapes.toml", before, sha256(path))
    with pytest.raises(DataError, match="shapes.parquet: not a readable parquet file"):
        split_of(shapes)


def test_a_file_that_changes_while_it_is_in_use_is_named(shapes: Path) -> None:
    split, path = split_of(shapes), shapes / "data" / "shapes.parquet"
    pq.write_table(shapes_table(per_class=13), path)
    with pytest.raises(DataError, match="shapes.parquet: it was changed while it was in use"):
        split.val.pixels()


def test_a_wrong_number_of_rows_is_stated(shapes: Path, edit: Edit) -> None:
    edit(shapes / "tasks" / "shapes.toml", "rows = 36", "rows = 3600")
    with pytest.raises(DataError, match="36 rows, the task card says 3,600"):
        split_of(shapes)


@pytest.mark.parametrize("column", ["id", "image", "label"])
def test_a_missing_column_is_named_with_those_there_are(
    shapes: Path, edit: Edit, column: str
) -> None:
    edit(shapes / "tasks" / "shapes.toml", "train.path", f'columns.{column} = "x"\ntrain.path')
    with pytest.raises(DataError, match="no column 'x'; it has id, image, label"):
        split_of(shapes)


def test_ids_must_be_there_and_distinct(shapes: Path, change_rows: ChangeRows) -> None:
    change_rows(shapes, lambda rows: rows[5].update(id="shapes/00"))
    with pytest.raises(DataError, match="in column 'id' 'shapes/00' is there 2 times"):
        split_of(shapes)
    change_rows(shapes, lambda rows: rows[5].update(id=None))
    with pytest.raises(DataError, match="in column 'id' row 5 has none"):
        split_of(shapes)


def test_ids_may_be_numbers(shapes: Path, change_rows: ChangeRows) -> None:
    change_rows(shapes, lambda rows: [row.update(id=7 * at) for at, row in enumerate(rows)])
    split = split_of(shapes)
    assert {*split.shots.ids, *split.test.ids} < {str(7 * at) for at in range(36)}


# --- images -------------------------------------------------------------------------------------


def test_a_truncated_image_is_named_when_it_is_decoded(
    shapes: Path, change_rows: ChangeRows
) -> None:
    split = split_of(shapes)
    bad = split.shots.ids[4]

    def truncate(rows: list[dict]) -> None:
        image = next(row["image"] for row in rows if row["id"] == bad)
        image["bytes"] = image["bytes"][:60]

    change_rows(shapes, truncate)
    split = split_of(shapes)  # decoding is lazy
    assert split.val.pixels().shape == (3, 32, 32, 3)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"data/shapes\.parquet: image '{bad}': "):
            split.shots.pixels()
    assert split.shots.pixels([0, 1, 2, 3]).shape == (4, 32, 32, 3)


def test_a_missing_image_is_named(shapes: Path, change_rows: ChangeRows) -> None:
    change_rows(shapes, lambda rows: [row.update(image=None) for row in rows[:18]])
    with pytest.raises(DataError, match="image 'shapes/.*no image"):
        split_of(shapes).test.read().pixels()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were decoded since the test began, by name."""
    names: list[str] = []

    def noted(data: bytes, size: int, where: str) -> np.ndarray:
        names.append(where)
        return decode(data, size, where)

    monkeypatch.setattr(tables, "decode", noted)
    return names


def test_images_too_many_to_keep_are_decoded_again(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    kept = split_of(shapes).shots.pixels()
    assert len(decoded) == 9
    monkeypatch.setattr(tables, "KEEP_BYTES", 36 * 32 * 32 * 3 - 1)
    shots = split_of(shapes).shots
    assert np.array_equal(shots.pixels(), kept) and np.array_equal(shots.pixels(), kept)
    assert len(decoded) == 9 + 2 * 9


def test_images_are_decoded_when_they_are_asked_for_and_once_for_all_seeds(
    shapes: Path, decoded: list[str]
) -> None:
    first, second = (load_split(split_of(shapes).task, seed, shapes) for seed in (0, 1))
    assert decoded == []
    before = first.val.pixels()
    assert len(decoded) == 3
    for split in (first, second, split_of(shapes)):
        for part in (split.shots, split.val, split.unused):
            part.pixels()
    assert len(decoded) == len(set(decoded)) == 18  # all that is not for testing
    assert np.array_equal(first.val.pixels(), before)


# --- row groups ---------------------------------------------------------------------------------


def shuffled(count: int) -> list[int]:
    """Every row twice and in no order."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(count), 2)).tolist()


@pytest.mark.parametrize("group_bytes", [storage.GROUP_BYTES, 0])
@pytest.mark.parametrize("cache_bytes", [storage.CACHE_BYTES, 0])
@pytest.mark.parametrize("rows", [1, 5, 400])
def test_images_come_in_the_order_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group_bytes: int,
    cache_bytes: int,
    rows: int,
) -> None:
    """From two files, row groups that are kept in memory, dropped again, or read in batches."""
    monkeypatch.setattr(storage, "GROUP_BYTES", group_bytes)
    monkeypatch.setattr(storage, "CACHE_BYTES", cache_bytes)
    whole = shapes_table(per_class=100)
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(whole[:290], files[0], row_group_size=rows)
    pq.write_table(whole[290:], files[1], row_group_size=rows)
    table, images = table_of(*files), whole["image"].to_pylist()
    assert list(table.ids) == whole["id"].to_pylist() and len(table) == 300
    for asked in (shuffled(300), range(300), range(299, -1, -1), [], [299]):
        expected = [decode(images[row]["bytes"], None, "") for row in asked]
        assert np.array_equal(table.images(asked, None), expected)


def test_a_row_group_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its rows are asked for where it is kept; in order where it is too large."""
    opened = []
    reader = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda file, size, groups, columns: (
            opened.append(groups[0]) or reader(file, size, groups, columns=columns)
        ),
    )
    whole = shapes_table(per_class=200)
    pq.write_table(whole, tmp_path / "a.parquet", row_group_size=300)
    table = table_of(tmp_path / "a.parquet")
    for start in (500, 0, 250, 100, 400):
        table.images(range(start, start + 100), 8)
    assert opened == [1, 0]
    opened.clear()
    monkeypatch.setattr(storage, "GROUP_BYTES", 0)
    table = table_of(tmp_path / "a.parquet")
    for start in range(0, 600, 50):
        table.images(range(start, start + 50), 8)
    assert opened == [0, 1]


def test_a_damaged_row_group_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(shapes_table(), path, row_group_size=12, compression="zstd")
    chunk = pq.read_metadata(path).row_group(1).column(1)
    assert chunk.path_in_schema == "image.bytes"
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"x" * chunk.total_compressed_size
    path.write_bytes(data)
    table = table_of(path)  # its footer and its ids are whole
    for _ in range(2):
        with pytest.raises(DataError, match="a.parquet: row group 1: not a readable parquet file"):
            table.images([0, 12], 32)
    assert len(table.images([0, 11, 24, 35], 32)) == 4


def test_images_may_be_plain_bytes_or_files_beside(tmp_path: Path) -> None:
    encoded = list(pictures().values())[:3]
    (tmp_path / "images").mkdir()
    for at, data in enumerate(encoded):
        (tmp_path / "images" / f"{at}.png").write_bytes(data)
    relative = [{"bytes": None, "path": f"images/{at}.png"} for at in range(3)]
    absolute = [{"bytes": None, "path": str(tmp_path / "images" / f"{at}.png")} for at in range(3)]
    expected = [decode(data, None, "") for data in encoded]
    for name, values in (("a", encoded), ("b", relative), ("c", absolute)):
        rows = [{"id": at, "image": value} for at, value in enumerate(values)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        table = table_of(tmp_path / f"{name}.parquet")
        assert np.array_equal(table.images(range(3), None), expected)
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(DataError, match=r"files: image '1': .*1\.png"):
        table_of(tmp_path / "b.parquet").images(range(3), None)


# --- texts --------------------------------------------------------------------------------------


def test_texts_are_read_by_position_slice_and_list() -> None:
    words = [None if at % 7 == 3 else f"ä {at}" for at in range(25_000)]
    texts = Texts("file: column 'x'", pa.chunked_array([words[:9], [], words[9:]]))
    expected = [word or "" for word in words]
    assert list(texts) == expected and len(texts) == 25_000
    assert texts[0] == texts[np.int64(0)] == "ä 0" and texts[3] == "" and texts[-1] == expected[-1]
    assert texts[10:20] == expected[10:20] and texts[::-5000] == expected[::-5000]
    assert texts[24_999:30_000] == expected[24_999:] and texts[5:5] == texts[[]] == []
    rows = np.array([[4, 1], [9, 9]])[:, 0]  # not contiguous
    assert texts[rows] == texts[rows.tolist()] == texts[range(4, 10, 5)] == ["ä 4", "ä 9"]
    with pytest.raises(IndexError):
        texts[25_000]


def test_numbers_are_texts_and_lists_are_not() -> None:
    assert list(Texts("", pa.chunked_array([[1, 20]]))) == ["1", "20"]
    with pytest.raises(DataError, match="column 'x' holds list<item: string>, expected texts"):
        Texts("file: column 'x'", pa.chunked_array([[["a", "b"]]]))


# --- the layout of the Hub ----------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def declare_folder(card: Path, folder: Path, *more: str) -> None:
    """A card whose images lie in a folder; ``more`` are further lines."""
    text = re.sub("train.path.*", f'train.path = "{folder}"', card.read_text())
    text = re.sub("train.sha256.*", f'train.sha256 = "{folder_hash(folder)}"', text)
    card.write_text("\n".join((*more, text)))


def test_a_folder_of_parquet_files_is_read_where_it_lies(shapes: Path, hub_cache: Path) -> None:
    rows = shapes_table().drop(["id"]).to_pylist()
    names = datasets.ClassLabel(names=["red", "green", "blue"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    folder = hub_cache / "hub"
    (folder / "data").mkdir(parents=True)
    for at in range(2):
        made = datasets.Dataset.from_list(rows[18 * at : 18 * at + 18], features=features)
        made.to_parquet(folder / "data" / f"train-0000{at}-of-00002.parquet")

    card = shapes / "tasks" / "shapes.toml"
    declare_folder(card, folder, 'columns.id = ""')
    split = split_of(shapes)
    assert [len(part) for part in (split.shots, split.val, split.test)] == [9, 3, 18]
    for at, name in enumerate(split.shots.ids):
        data = rows[int(name.removeprefix("train/"))]["image"]["bytes"]
        assert np.array_equal(split.shots.pixels([at])[0], decode(data, 32, ""))
    assert not list(hub_cache.rglob("*.arrow"))  # no copy was made

    folder.rename(hub_cache / "elsewhere")
    card.write_text(card.read_text().replace(str(folder), str(hub_cache / "elsewhere")))
    assert split_of(shapes).hash == split.hash
    (hub_cache / "elsewhere" / "data" / "more.txt").write_text("another version")
    with pytest.raises(DataError, match="elsewhere: its sha256 is .* another version"):
        split_of(shapes)


def test_a_folder_of_image_files(shapes: Path, hub_cache: Path) -> None:
    folder = hub_cache / "files"
    for row in shapes_table().to_pylist():
        place = folder / "train" / "abc"[row["label"]]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{row['id'][-2:]}.png").write_bytes(row["image"]["bytes"])
    declare_folder(shapes / "tasks" / "shapes.toml", folder, 'columns.id = ""')
    split = split_of(shapes)
    assert [len(part) for part in (split.shots, split.val, split.test)] == [9, 3, 18]
    reds = {decode(pictures()[f"shapes/{at:02}"], 32, "").tobytes() for at in range(0, 36, 3)}
    assert {pixels.tobytes() for pixels in split.shots.pixels([0, 1, 2])} <= reds
    split.check_apart()


def test_a_split_that_a_folder_lacks_is_named(shapes: Path, hub_cache: Path) -> None:
    folder = hub_cache / "set"
    folder.mkdir()
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), folder / "train.parquet")
    card = shapes / "tasks" / "shapes.toml"
    declare_folder(card, folder, 'columns.id = ""', 'train.split = "test"')
    with pytest.raises(DataError, match=r"set: no such split; it has train"):
        split_of(shapes)
    card.write_text(card.read_text().replace('train.split = "test"', ""))
    with pytest.raises(DataError, match="36"):
        split_of(shapes)  # it has one row
    card.write_text(card.read_text().replace("train.rows = 36", "train.rows = 1"))
    with pytest.raises(DataError, match="no column 'image'; it has picture, label"):
        split_of(shapes)


def test_a_data_set_of_the_hub_that_is_not_there_is_named_with_the_remedy(hub_cache: Path) -> None:
    with pytest.raises(DataError, match="^one: .*hf download nobody/nothing .*--revision 0000"):
        open_layout("one", "nobody/nothing", "0000", "train")


def test_a_folder_of_the_working_directory_is_not_taken_for_a_repository(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub_cache / "nobody" / "nothing").mkdir(parents=True)
    pq.write_table(shapes_table(), hub_cache / "nobody" / "nothing" / "train.parquet")
    monkeypatch.chdir(hub_cache)
    with pytest.raises(DataError, match="a repository of the Hub is meant"):
        open_layout("one", "nobody/nothing", "0000", "train")

"""Sources of images: files and data sets of the Hub, and every way in which they can be wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data import table as sources
from benchmark.data.card import Columns, load_tasks
from benchmark.data.split import Split, load_split
from benchmark.errors import DataError
from benchmark.images import decode

Edit = Callable[[Path, str, str], None]
ChangeRows = Callable[[Path, Callable[[list[dict]], object]], None]


def split_of(root: Path) -> Split:
    """``shapes-3shot`` at seed 0."""
    return load_split(load_tasks(root / "tasks" / "shapes.toml")[1], 0, root)


def test_a_missing_file_is_named(shapes: Path) -> None:
    (shapes / "data" / "shapes.parquet").unlink()
    with pytest.raises(DataError, match=r"data/shapes\.parquet: no such file"):
        split_of(shapes)
    (shapes / "data" / "shapes.parquet").mkdir()
    with pytest.raises(DataError, match="no such file"):
        split_of(shapes)


def test_a_truncated_file_is_told_by_its_sha256(shapes: Path) -> None:
    path = shapes / "data" / "shapes.parquet"
    split_of(shapes)  # has been read before it changes
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or another version"):
        split_of(shapes)


def test_a_file_that_is_no_parquet_is_told(shapes: Path, edit: Edit) -> None:
    path = shapes / "data" / "shapes.parquet"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(shapes / "tasks" / "shapes.toml", before, after)
    with pytest.raises(DataError, match="not a readable parquet file"):
        split_of(shapes)


def test_a_wrong_number_of_rows_is_told(shapes: Path, edit: Edit) -> None:
    edit(shapes / "tasks" / "shapes.toml", "rows = 36", "rows = 3600")
    with pytest.raises(DataError, match="36 rows, the task card says 3,600"):
        split_of(shapes)


def test_a_missing_column_is_told_with_those_there_are(shapes: Path, edit: Edit) -> None:
    edit(shapes / "tasks" / "shapes.toml", "train.path", 'columns.label = "class"\ntrain.path')
    with pytest.raises(DataError, match="no column 'class'; it has id, image, label"):
        split_of(shapes)


def test_ids_must_be_there_and_distinct(shapes: Path, change_rows: ChangeRows) -> None:
    change_rows(shapes, lambda rows: rows[5].update(id="shapes/00"))
    with pytest.raises(DataError, match="in column 'id' 'shapes/00' is there 2 times"):
        split_of(shapes)
    change_rows(shapes, lambda rows: rows[5].update(id=None))
    with pytest.raises(DataError, match="in column 'id' a row has none"):
        split_of(shapes)


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

    monkeypatch.setattr(sources, "decode", noted)
    return names


def test_images_too_many_to_keep_are_decoded_again(
    tiny_root: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    kept = split_of(tiny_root("kept")).shots.pixels()
    assert len(decoded) == 9
    monkeypatch.setattr(sources, "KEEP_BYTES", 36 * 32 * 32 * 3 - 1)
    shots = split_of(tiny_root("not-kept")).shots
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
        for part in (split.shots, split.val, split.reserve):
            part.pixels()
    assert len(decoded) == len(set(decoded)) == 18  # all that is not for testing
    assert np.array_equal(first.val.pixels(), before)


# --- the layout of the Hub --------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_data_set_in_the_layout_of_the_hub(shapes: Path, hub_cache: Path) -> None:
    rows = pq.read_table(shapes / "data" / "shapes.parquet").drop(["id"]).to_pylist()
    names = datasets.ClassLabel(names=["red", "green", "blue"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    folder = hub_cache / "hub" / "data"
    folder.mkdir(parents=True)
    made = datasets.Dataset.from_list(rows, features=features)
    made.to_parquet(folder / "train-00000-of-00001.parquet")

    card, text = shapes / "tasks" / "shapes.toml", (shapes / "tasks" / "shapes.toml").read_text()
    text = re.sub("train.path.*", 'train.hub = "HUB"\ntrain.split = "train"', text)
    text = re.sub("train.sha256.*", f'train.revision = "{"0" * 40}"\ncolumns.id = ""', text)
    card.write_text(text.replace("HUB", str(folder.parent)))
    split = split_of(shapes)
    assert [len(part) for part in (split.shots, split.val, split.test)] == [9, 3, 18]
    row = int(split.shots.ids[0].removeprefix("train/"))
    wanted = decode(rows[row]["image"]["bytes"], 32, "")
    assert np.array_equal(split.shots.pixels([0])[0], wanted)

    card.write_text(card.read_text().replace("0" * 40, "1" * 40))
    assert split_of(shapes).hash != split.hash  # another revision


def test_a_folder_of_image_files(shapes: Path, hub_cache: Path) -> None:
    rows = pq.read_table(shapes / "data" / "shapes.parquet").to_pylist()
    for row in rows[:6]:
        folder = hub_cache / "files" / "train" / "abc"[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row['id'][-2:]}.png").write_bytes(row["image"]["bytes"])
    columns = Columns(id="")
    found = sources.hub_table(str(hub_cache / "files"), None, "train", columns)
    assert sorted(found["label"].to_pylist()) == [0, 0, 1, 1, 2, 2]
    opened = sources.ImageTable("files", "", found, columns, "train", 32)
    wanted = {decode(row["image"]["bytes"], 32, "").tobytes() for row in rows[:6]}
    assert {pixels.tobytes() for pixels in opened.pixels(np.arange(6))} == wanted


def test_a_data_set_that_cannot_be_loaded_is_named(hub_cache: Path) -> None:
    with pytest.raises(DataError, match="'nobody/nothing' at revision 0000, split 'train'"):
        sources.hub_table("nobody/nothing", "0000", "train", Columns())
    (hub_cache / "set").mkdir()
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), hub_cache / "set" / "train.parquet")
    with pytest.raises(DataError, match="no column 'image'; it has picture, label"):
        sources.hub_table(str(hub_cache / "set"), None, "train", Columns(id=""))
    with pytest.raises(DataError, match="test"):
        sources.hub_table(str(hub_cache / "set"), None, "test", Columns(id=""))

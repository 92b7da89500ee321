"""Splits: what a seed draws, what a method and a classifier see of it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data import split as split_module
from benchmark.data.card import Task, load_tasks
from benchmark.data.split import Split, load_split
from benchmark.data.stored import ParquetFiles
from benchmark.errors import DataError
from benchmark.images import decode
from tests.helpers.roots import sha256

Edit = Callable[[Path, str, str], None]
ChangeRows = Callable[[Path, Callable[[list[dict]], object]], None]


def task(root: Path, shots: int = 3) -> Task:
    tasks = {found.shots: found for found in load_tasks(root / "tasks" / "shapes.toml")}
    return tasks[shots]


def parts(split: Split) -> list[set[str]]:
    return [set(part.ids) for part in (split.shots, split.val, split.unused, split.test)]


# --- what a seed draws ------------------------------------------------------------------------


def test_parts_are_disjoint_and_cover_the_classes(shapes: Path) -> None:
    split = load_split(task(shapes), 0, shapes)
    assert [len(part) for part in parts(split)] == [9, 3, 6, 18]
    assert len(set.union(*parts(split))) == 36
    for images in (split.shots, split.val, split.unused, split.test.read()):
        assert sorted(set(images.labels.tolist())) == [0, 1, 2]
        assert images.labels.dtype == np.int64 and len(images) == len(images.ids)
        for row, identity in enumerate(images.ids):
            assert int(identity.removeprefix("shapes/")) % 3 == images.labels[row]


def test_a_seed_always_draws_the_same_and_another_seed_does_not(shapes: Path) -> None:
    first, again, other = (load_split(task(shapes), seed, shapes) for seed in (4, 4, 5))
    assert (first.hash, first.shots.ids) == (again.hash, again.shots.ids)
    assert first.hash != other.hash and first.shots.ids != other.shots.ids
    assert first.test.ids == other.test.ids


def test_fewer_shots_are_among_more_with_the_same_validation(shapes: Path) -> None:
    for seed in range(5):
        one, three = (load_split(task(shapes, shots), seed, shapes) for shots in (1, 3))
        assert set(one.shots.ids) < set(three.shots.ids)
        assert (one.val.ids, one.test.ids) == (three.val.ids, three.test.ids)
        assert one.hash != three.hash


def test_every_training_image_is_drawn_by_some_seed(shapes: Path) -> None:
    splits = [load_split(task(shapes, 1), seed, shapes) for seed in range(40)]
    drawn = set().union(*(split.shots.ids for split in splits))
    assert drawn == set(splits[0].shots.ids + splits[0].val.ids + splits[0].unused.ids)


def test_test_images_are_those_with_the_smallest_sha256_of_their_id(shapes: Path) -> None:
    split = load_split(task(shapes), 0, shapes)
    reds = [f"shapes/{row:02}" for row in range(0, 36, 3)]
    reds.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert set(reds[:6]) == {name for name in split.test.ids if name in reds}


@pytest.mark.parametrize(("fraction", "count"), [("0.01", 1), ("0.25", 3), ("0.29", 3), ("0.6", 7)])
def test_the_test_fraction_is_rounded_down_to_at_least_one(
    shapes: Path, edit: Edit, fraction: str, count: int
) -> None:
    edit(shapes / "tasks" / "shapes.toml", "test_fraction = 0.5", f"test_fraction = {fraction}")
    assert len(load_split(task(shapes), 0, shapes).test) == 3 * count


def test_a_fraction_is_not_lost_to_floating_point(
    shapes: Path, edit: Edit, change_rows: ChangeRows
) -> None:
    change_rows(shapes, lambda rows: rows.extend([{**rows[0], "id": f"r{i}"} for i in range(88)]))
    edit(shapes / "tasks" / "shapes.toml", "test_fraction = 0.5", "test_fraction = 0.29")
    labels = load_split(task(shapes), 0, shapes).test.labels.tolist()
    assert labels.count(0) == 29  # of 100, where int(100 * 0.29) is 28


def test_the_order_of_the_rows_does_not_matter(shapes: Path, change_rows: ChangeRows) -> None:
    before = load_split(task(shapes), 0, shapes)
    pixels = before.shots.pixels()
    change_rows(shapes, lambda rows: rows.reverse())
    after = load_split(task(shapes), 0, shapes)
    assert before.shots.ids == after.shots.ids and before.test.ids == after.test.ids
    assert np.array_equal(after.shots.pixels(), pixels)
    assert before.hash != after.hash  # another file is another data set


def test_changed_pixels_are_another_split(shapes: Path, change_rows: ChangeRows) -> None:
    def swap(rows: list[dict]) -> None:
        rows[0]["image"], rows[1]["image"] = rows[1]["image"], rows[0]["image"]

    before = load_split(task(shapes), 0, shapes)
    change_rows(shapes, swap)
    after = load_split(task(shapes), 0, shapes)
    assert before.shots.ids == after.shots.ids and before.hash != after.hash


def test_rows_of_no_class_are_left_out(shapes: Path, change_rows: ChangeRows) -> None:
    before = load_split(task(shapes), 0, shapes)
    strays = [{"id": "stray/1", "label": 99}, {"id": "stray/2", "label": None}]
    change_rows(shapes, lambda rows: rows.extend([{**rows[0], **stray} for stray in strays]))
    assert parts(load_split(task(shapes), 0, shapes)) == parts(before)


def test_labels_may_be_texts(shapes: Path, edit: Edit, change_rows: ChangeRows) -> None:
    before = load_split(task(shapes), 0, shapes)
    change_rows(shapes, lambda rows: [row.update(label="abc"[row["label"]]) for row in rows])
    for number, letter in enumerate("abc"):
        edit(shapes / "tasks" / "shapes.toml", f"label = {number},", f'label = "{letter}",')
    assert parts(load_split(task(shapes), 0, shapes)) == parts(before)


def test_rows_are_numbered_where_there_are_no_ids(shapes: Path, edit: Edit) -> None:
    edit(shapes / "tasks" / "shapes.toml", "train.path", 'columns.id = ""\ntrain.path')
    split = load_split(task(shapes), 0, shapes)
    assert set.union(*parts(split)) == {f"train/{row}" for row in range(36)}


def test_given_test_images_come_from_the_second_source(shapes: Path, edit: Edit) -> None:
    rows = pq.read_table(shapes / "data" / "shapes.parquet").to_pylist()
    other = pa.Table.from_pylist([{**row, "id": f"test/{row['id']}"} for row in rows])
    _give_test(shapes, edit, other)
    split = load_split(task(shapes), 0, shapes)
    assert [len(part) for part in parts(split)] == [9, 3, 24, 36]
    assert all(name.startswith("test/") for name in split.test.ids)


def _give_test(root: Path, edit: Edit, table: pa.Table) -> None:
    path, card = root / "data" / "test.parquet", root / "tasks" / "shapes.toml"
    pq.write_table(table, path)
    edit(card, 'rule = "carve"\nsplit.test_fraction = 0.5', 'rule = "given"')
    test = f'test.path = "data/test.parquet"\ntest.sha256 = "{sha256(path)}"\n'
    edit(card, "train.path", f"{test}test.rows = {table.num_rows}\ntrain.path")


def test_a_pool_of_a_number_leaves_the_rest_to_test_on(
    shapes: Path, edit: Edit, change_rows: ChangeRows
) -> None:
    change_rows(shapes, lambda rows: rows.extend([{**rows[0], "id": f"r{i}"} for i in range(20)]))
    edit(shapes / "tasks" / "shapes.toml", "test_fraction = 0.5", "pool_per_class = 4")
    split = load_split(task(shapes), 0, shapes)
    assert np.bincount(split.test.labels).tolist() == [28, 8, 8]
    assert [len(part) for part in (split.shots, split.val, split.unused)] == [9, 3, 0]
    edit(shapes / "tasks" / "shapes.toml", "pool_per_class = 4", "pool_per_class = 12")
    with pytest.raises(DataError, match="class 'green circle' has 12 images in .*none is left"):
        load_split(task(shapes), 0, shapes)


def test_a_class_may_hold_several_labels(shapes: Path, edit: Edit) -> None:
    card = shapes / "tasks" / "shapes.toml"
    edit(card, '  { label = 1, name = "green circle" },\n', "")
    edit(card, "label = 0,", "label = [0, 1],")
    split = load_split(task(shapes), 0, shapes)
    assert np.bincount(split.test.labels).tolist() == [12, 6]
    both = {int(name[-2:]) % 3 for name in split.test.ids[:12]}
    assert both == {0, 1}


# --- what a task and a split are ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('title = "Shapes"', 'title = "Forms"'),
        ("Discs and squares", "Round and square things"),
        ("CC0-1.0", "MIT"),
        ("example.org/shapes", "example.org/forms"),
        ("The tests (2026)", "The tests (2027)"),
        ("train.rows", 'defaults.budget = "M"\ndefaults.classifiers = ["probe"]\ntrain.rows'),
        ("shots = [1, 3]", "shots = [3, 7]  # a comment"),
    ],
)
def test_prose_and_defaults_leave_a_task_what_it_is(
    shapes: Path, edit: Edit, old: str, new: str
) -> None:
    before = task(shapes).hash
    edit(shapes / "tasks" / "shapes.toml", old, new)
    assert task(shapes).hash == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('prompts = ["an emoji', 'prompts = ["a drawing'),
        ('queries = ["an emoji', 'queries = ["a drawing'),
        ('name = "red circle"', 'name = "red disc"'),
        ('name = "red circle"', 'name = "red circle", members = ["ball"]'),
        ('name = "red circle"', 'name = "red circle", definition = "round"'),
        ("{ label = 0,", "{ label = [0, 7],"),
        ("flip = true", "flip = false"),
        ("image_size = 32", "image_size = 16"),
        ("test_fraction = 0.5", "pool_per_class = 6"),
        ("val_per_class = 1", "val_per_class = 2"),
        ("flip = true", 'flip = true\nmetric = "mean_per_class"'),
        ("flip = true", "flip = true\nversion = 2"),
        ("flip = true", 'flip = true\ncolumns.label = "colour"'),
        ('train.sha256 = "', 'train.sha256 = "0'),
        ('name = "shapes"', 'name = "forms"'),  # the draw depends on it
    ],
)
def test_what_decides_images_and_prompts_makes_another_task(
    shapes: Path, edit: Edit, old: str, new: str
) -> None:
    before = task(shapes).hash
    edit(shapes / "tasks" / "shapes.toml", old, new)
    card = shapes / "tasks" / "shapes.toml"
    card.write_text(re.sub('sha256 = "0(.{63}).', r'sha256 = "0\1', card.read_text()))
    assert task(shapes).hash != before


def test_a_card_may_name_what_it_is_run_with(shapes: Path, edit: Edit) -> None:
    defaults = task(shapes).card.defaults
    assert (defaults.upstream, defaults.budget, defaults.classifiers) == (None, None, None)
    stated = 'defaults.upstream = "sd15"\ndefaults.classifiers = ["linear-probe"]\ntrain.rows'
    edit(shapes / "tasks" / "shapes.toml", "train.rows", stated)
    defaults = task(shapes).card.defaults
    assert (defaults.upstream, defaults.classifiers) == ("sd15", ["linear-probe"])


def test_what_does_not_depend_on_the_seed_has_a_hash_of_its_own(
    shapes: Path, change_rows: ChangeRows
) -> None:
    one, other = (load_split(task(shapes), seed, shapes) for seed in (0, 1))
    assert one.data_hash == other.data_hash and one.hash != other.hash
    assert one.data_hash == load_split(task(shapes, 1), 0, shapes).data_hash
    change_rows(shapes, lambda rows: rows.append({**rows[0], "id": "stray", "label": 99}))
    assert load_split(task(shapes), 0, shapes).data_hash != one.data_hash


@pytest.mark.parametrize("numbered", [False, True])
def test_a_file_in_another_place_is_the_same_split(
    shapes: Path, edit: Edit, numbered: bool
) -> None:
    card = shapes / "tasks" / "shapes.toml"
    if numbered:
        edit(card, "train.path", 'columns.id = ""\ntrain.path')
    before = load_split(task(shapes), 0, shapes)
    (shapes / "elsewhere").mkdir()
    (shapes / "data" / "shapes.parquet").rename(shapes / "elsewhere" / "renamed.parquet")
    edit(card, "data/shapes.parquet", "elsewhere/renamed.parquet")
    after = load_split(task(shapes), 0, shapes)
    assert (after.task.hash, after.hash, after.data_hash) == (
        before.task.hash,
        before.hash,
        before.data_hash,
    )
    assert np.array_equal(before.val.ids, after.val.ids)


def test_a_split_is_drawn_without_decoding(
    shapes: Path, change_rows: ChangeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_rows(shapes, lambda rows: [row.update(image={"bytes": b"no image"}) for row in rows])
    monkeypatch.setattr(ParquetFiles, "images", None)  # fails where it is called
    assert len(load_split(task(shapes), 0, shapes).test) == 18


# --- pixels -----------------------------------------------------------------------------------


def test_pixels_belong_to_their_ids(shapes: Path) -> None:
    rows = pq.read_table(shapes / "data" / "shapes.parquet").to_pylist()
    wanted = {row["id"]: decode(row["image"]["bytes"], 32, row["id"]) for row in rows}
    split = load_split(task(shapes), 0, shapes)
    for images in (split.shots, split.val, split.unused, split.test.read()):
        assert images.pixels().shape == (len(images), 32, 32, 3)
        for name, pixels in zip(images.ids, images.pixels(), strict=True):
            assert np.array_equal(pixels, wanted[name])
    chosen = split.shots.select([7, 2])
    assert chosen.ids == (split.shots.ids[7], split.shots.ids[2])
    assert np.array_equal(chosen.pixels([1]), split.shots.pixels([2]))
    assert chosen.labels.tolist() == split.shots.labels[[7, 2]].tolist()
    assert split.shots.pixels([]).shape == (0, 32, 32, 3)


def test_images_are_resized_to_the_size_of_the_task(shapes: Path, edit: Edit) -> None:
    edit(shapes / "tasks" / "shapes.toml", "image_size = 32", "image_size = 16")
    assert load_split(task(shapes), 0, shapes).shots.pixels().shape == (9, 16, 16, 3)


def test_a_method_cannot_change_what_others_see(shapes: Path) -> None:
    split = load_split(task(shapes), 0, shapes)
    before = split.shots.pixels()
    shots = split.as_shots()
    shots.images[:] = 0
    shots.labels[:] = 0
    assert np.array_equal(split.shots.pixels(), before)
    assert np.array_equal(load_split(task(shapes), 0, shapes).shots.pixels(), before)
    assert split.shots.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


# --- what a method and a classifier see -------------------------------------------------------


def test_shots_are_the_training_images_and_unused_ones_are_for_oracles(shapes: Path) -> None:
    split = load_split(task(shapes), 0, shapes)
    shots = split.as_shots()
    assert (shots.images.shape, shots.images.dtype) == ((9, 32, 32, 3), np.uint8)
    assert (shots.ids, shots.image_size, shots.unused) == (split.shots.ids, 32, None)
    assert [entry.name for entry in shots.classes] == ["red circle", "green circle", "blue square"]
    assert shots.classes[2].prompts == ("an emoji of blue square",)
    unused = split.as_shots(with_unused=True).real()
    assert unused.ids == split.unused.ids and len(unused.images) == 6
    assert unused.unused is None


def test_a_method_that_does_not_look_at_the_shots_gets_none(shapes: Path) -> None:
    shots = load_split(task(shapes), 0, shapes).as_shots(False)
    assert (shots.images.shape, shots.images.dtype) == ((0, 32, 32, 3), np.uint8)
    assert (shots.labels.shape, shots.labels.dtype, shots.ids) == ((0,), np.int64, ())
    assert len(shots.classes) == 3 and shots.originals(64).shape == (0, 64, 64, 3)
    assert [shots.rows(label) for label in range(3)] == [[], [], []]


@pytest.mark.parametrize("flip", ["true", "false"])
def test_shots_say_whether_a_mirror_keeps_the_class(shapes: Path, edit: Edit, flip: str) -> None:
    edit(shapes / "tasks" / "shapes.toml", "flip = true", f"flip = {flip}")
    shots = load_split(task(shapes), 0, shapes).as_shots(with_unused=True)
    assert shots.flip == shots.real().flip == (flip == "true")


def test_shots_are_decoded_from_their_files_at_any_size(shapes: Path, edit: Edit) -> None:
    edit(shapes / "tasks" / "shapes.toml", "image_size = 32", "image_size = 8")
    rows = pq.read_table(shapes / "data" / "shapes.parquet").to_pylist()
    stored = {row["id"]: row["image"]["bytes"] for row in rows}
    shots = load_split(task(shapes), 0, shapes).as_shots(with_unused=True)
    for part in (shots, shots.real()):
        expected = [decode(stored[name], 32, name) for name in part.ids]
        assert part.images.shape[1] == 8 and np.array_equal(part.originals(32), expected)


def test_no_other_image_is_loaded_through_the_shots(shapes: Path) -> None:
    split = load_split(task(shapes), 0, shapes)
    for hidden in (split.test, split.val, split.unused):
        with pytest.raises(KeyError):
            split.as_shots().load([hidden.ids[0]], 32)


def test_the_test_split_is_read_once_per_classifier_run(shapes: Path) -> None:
    split = load_split(task(shapes), 0, shapes)
    assert len(split.test.for_contamination()) == len(split.test) == 18
    images = split.test.read()
    assert images.ids == split.test.ids
    assert images.labels.tolist() == split.test.labels.tolist()
    with pytest.raises(RuntimeError, match="read twice"):
        split.test.read()
    assert split.fresh().test.read().ids == images.ids
    assert split.fresh().hash == split.hash


# --- what can be wrong ------------------------------------------------------------------------


def test_too_few_images_name_class_count_and_need(shapes: Path, edit: Edit) -> None:
    edit(shapes / "tasks" / "shapes.toml", "val_per_class = 1", "val_per_class = 4")
    with pytest.raises(DataError) as caught:
        load_split(task(shapes), 0, shapes)
    assert str(caught.value) == (
        "task shapes-3shot: class 'red circle' has 6 training images in data/shapes.parquet, "
        "7 needed (3 shots + 4 for validation)"
    )
    assert len(load_split(task(shapes, 1), 0, shapes).shots) == 3  # the card's other task works


def test_an_empty_class_names_the_values_of_the_column(shapes: Path, edit: Edit) -> None:
    edit(shapes / "tasks" / "shapes.toml", "label = 2,", 'label = "2",')
    with pytest.raises(DataError) as caught:
        load_split(task(shapes), 0, shapes)
    assert str(caught.value) == (
        "data/shapes.parquet: no image of class 'blue square': the column 'label' never holds "
        "'2', but 0, 1, 2"
    )


def test_no_test_image_may_be_a_training_image(shapes: Path, edit: Edit) -> None:
    rows = pq.read_table(shapes / "data" / "shapes.parquet").to_pylist()
    names = {8: "shapes/08"}
    table = [{**row, "id": names.get(at, f"test/{at}")} for at, row in enumerate(rows)]
    _give_test(shapes, edit, pa.Table.from_pylist(table))
    with pytest.raises(DataError, match="1 ids are both in .*such as 'shapes/08'"):
        load_split(task(shapes), 0, shapes)


def test_no_test_image_may_be_a_training_image_under_another_name(
    shapes: Path, edit: Edit, change_rows: ChangeRows
) -> None:
    """One source for both parts: numbered rows never share an id."""
    rows = pq.read_table(shapes / "data" / "shapes.parquet")
    _give_test(shapes, edit, rows)
    edit(shapes / "tasks" / "shapes.toml", "train.path", 'columns.id = ""\ntrain.path')
    split = load_split(task(shapes), 0, shapes)
    fault = "task shapes-3shot: 36 training images are test images too, byte for byte, such as"
    for use in (split.as_shots, lambda: split.as_shots(False), split.fresh):
        with pytest.raises(DataError, match=fault):
            use()


def test_copies_in_pool_and_test_split_are_counted_against_the_card(
    shapes: Path, edit: Edit, change_rows: ChangeRows
) -> None:
    before = load_split(task(shapes), 0, shapes)
    before.check_apart()
    pool = {*before.shots.ids, *before.val.ids, *before.unused.ids}

    def copy(rows: list[dict]) -> None:
        inside = next(row for row in rows if row["id"] in pool and row["label"] == 0)
        tested = next(row for row in rows if row["id"] not in pool and row["label"] == 0)
        inside["image"] = tested["image"]

    change_rows(shapes, copy)
    after = load_split(task(shapes), 0, shapes)
    with pytest.raises(DataError, match=r"1 training images .*split\.copies = 0"):
        after.check_apart()
    edit(
        shapes / "tasks" / "shapes.toml",
        "split.val_per_class",
        "split.copies = 1\nsplit.val_per_class",
    )
    stated = load_split(task(shapes), 0, shapes)
    stated.check_apart()
    assert (stated.task.hash, stated.hash) == (after.task.hash, after.hash)


def test_of_a_large_data_set_what_is_used_is_compared(
    shapes: Path, change_rows: ChangeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_module, "COMPARED_IMAGES", 35)
    before = load_split(task(shapes), 0, shapes)

    def copy_into(names: tuple[str, ...]) -> Split:
        def copy(rows: list[dict]) -> None:
            images = {row["id"]: row["image"] for row in rows}
            for row in rows:
                if row["id"] in names[:1]:
                    row["image"] = images[before.test.ids[0]]

        change_rows(shapes, copy)
        return load_split(task(shapes), 0, shapes)

    copy_into(before.unused.ids).check_apart()
    with pytest.raises(DataError, match="1 training images"):
        copy_into(before.val.ids).check_apart()
    with pytest.raises(DataError, match="2 training images"):
        copy_into(before.shots.ids).check_apart()


def test_a_missing_image_is_nobodys_copy(shapes: Path, change_rows: ChangeRows) -> None:
    change_rows(shapes, lambda rows: [row.update(image=None) for row in rows[:18]])
    load_split(task(shapes), 0, shapes).check_apart()


def test_splits_are_made_without_torch(root: Path, shapes: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmark.data.card import load_tasks; from benchmark.data.split import load_split\n"
        f"root = Path({str(shapes)!r})\n"
        "split = load_split(load_tasks(root / 'tasks' / 'shapes.toml')[0], 0, root)\n"
        "assert split.as_shots().images.shape == (3, 32, 32, 3)\n"
        "heavy = ['torch', 'pandas', 'datasets', 'diffusers', 'open_clip', 'transformers']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

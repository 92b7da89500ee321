"""The facts of every task card: a wrong file or a silent change of a split fails by number."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmark.data.card import load_tasks
from benchmark.data.split import Split, load_split
from benchmark.images import decode, pixel_hash

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Stated:
    """``sizes``: images in shots, validation, unused, test. ``unused`` and ``test``: fewest and
    most of a class. ``hash``: of the split of seed 0."""

    classes: int
    sizes: tuple[int, int, int, int]
    unused: tuple[int, int]
    test: tuple[int, int]
    metric: str
    hash: str


FACTS = {
    "fashion-1shot": Stated(
        10, (10, 40, 1950, 3000), (195, 195), (284, 320), "top1",
        "849285d392285e8a403907cbeb49f13d06bb745041fd825124955140232c2d92",
    ),
    "fashion-5shot": Stated(
        10, (50, 40, 1910, 3000), (191, 191), (284, 320), "top1",
        "d5f06ef14fc648566d757c3870081fffd00772d6d9dc296b77a718c02eee7ae0",
    ),
    "fashion-20shot": Stated(
        10, (200, 40, 1760, 3000), (176, 176), (284, 320), "top1",
        "c2d48975eb6c54eae93c44f2579e65765d90b5caacd455338b566bd1ce163e93",
    ),
    "openmoji-1shot": Stated(
        20, (20, 0, 280, 660), (14, 14), (10, 244), "mean_per_class",
        "0a7b9384d4368ce063b0c96ade6ab703b1844dcb396e77546d38ef86a4d9ddf8",
    ),
    "openmoji-5shot": Stated(
        20, (100, 0, 200, 660), (10, 10), (10, 244), "mean_per_class",
        "d3fbc2203e75c56b9f70d9fec8e632887f86e0b38dcfe6191fd411736ea9003d",
    ),
    "flags-1shot": Stated(
        213, (213, 0, 0, 213), (0, 0), (1, 1), "top1",
        "89454900371d76edee98be7b3c633b54f2d75b5ccfaa2195cd987e5540028261",
    ),
}  # fmt: skip


TASKS = {task.name: task for path in (ROOT / "tasks").glob("*.toml") for task in load_tasks(path)}


def split_of(name: str, seed: int = 0) -> Split:
    return load_split(TASKS[name], seed, ROOT)


def spread(labels: np.ndarray, classes: int) -> tuple[int, int]:
    counts = np.bincount(labels, minlength=classes)
    return int(counts.min()), int(counts.max())


def test_every_task_is_stated() -> None:
    assert set(TASKS) == set(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_counts(name: str) -> None:
    task, stated, split = TASKS[name], FACTS[name], split_of(name)
    held_out = split.test.for_contamination()
    sets = (split.shots, split.val, split.unused, held_out)
    assert tuple(map(len, sets)) == stated.sizes
    assert len(task.classes) == stated.classes
    assert spread(split.shots.labels, stated.classes) == (task.shots, task.shots)
    val_per_class = task.card.split.val_per_class
    assert spread(split.val.labels, stated.classes) == (val_per_class, val_per_class)
    assert spread(split.unused.labels, stated.classes) == stated.unused
    assert spread(held_out.labels, stated.classes) == stated.test
    assert task.card.metric == stated.metric


@pytest.mark.parametrize("name", FACTS)
def test_images(name: str) -> None:
    split = split_of(name)
    for images in (split.shots, split.val, split.unused, split.test.read()):
        pixels = images.pixels()
        assert pixels.shape == (len(images), 32, 32, 3) and pixels.dtype == np.uint8
        assert all(image.std() > 5 for image in pixels), "an image of one colour"


@pytest.mark.parametrize("name", FACTS)
def test_splits(name: str) -> None:
    split, again, other = split_of(name, 0), split_of(name, 0), split_of(name, 1)
    assert split.hash == again.hash == FACTS[name].hash
    assert split.test.ids == other.test.ids
    # One image per class leaves nothing to draw.
    assert (split.hash == other.hash) == (name == "flags-1shot")
    assert split.data_hash == other.data_hash
    split.check_apart()
    ids = [*split.shots.ids, *split.val.ids, *split.unused.ids, *split.test.ids]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", FACTS)
def test_no_image_of_a_task_is_in_the_corpus(name: str, corpus: tuple[set[str], set[str]]) -> None:
    ids, hashes = corpus
    split = split_of(name)
    for images in (split.shots, split.val, split.unused, split.test.read()):
        assert not ids & set(images.ids)
        assert not hashes & {pixel_hash(image) for image in images.pixels()}


@pytest.fixture(scope="module")
def corpus() -> tuple[set[str], set[str]]:
    """Ids and pixel hashes of the whole corpus."""
    table = pq.read_table(ROOT / "pocket/corpus/train.parquet", columns=["id", "image"])
    images = (value["bytes"] for value in table["image"].to_pylist())
    return set(table["id"].to_pylist()), {pixel_hash(decode(data, 32, "")) for data in images}


def texts(name: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    return {entry.name: (entry.prompts, entry.queries) for entry in TASKS[name].classes}


def test_prompts_and_queries() -> None:
    boot = ("a photo of a ankle boot",)
    assert texts("fashion-5shot")["ankle boot"] == (boot, boot)
    plant = texts("openmoji-5shot")["plant"]
    assert plant[0] == plant[1] and len(plant[0]) == 29
    assert plant[0][:2] == ("an emoji of bouquet", "an emoji of cherry blossom")
    assert plant[0][12] == "an emoji of seedling"  # of the second subgroup
    france = ("an emoji of flag france",)
    assert texts("flags-1shot")["flag france"] == (france, france)


def captions() -> Counter[str]:
    table = pq.read_table(ROOT / "pocket/corpus/train.parquet", columns=["caption"])
    return Counter(table["caption"].to_pylist())


@pytest.mark.parametrize("card", ["fashion-5shot", "flags-1shot"])
def test_classes_are_named_as_the_corpus_names_them(card: str) -> None:
    known = captions()
    assert [entry.name for entry in TASKS[card].card.classes if not known[entry.name]] == []


def test_members_are_worded_as_the_corpus_words_them() -> None:
    members = [entry.members for entry in TASKS["openmoji-5shot"].card.classes]
    assert all(24 <= len(names) <= 40 for names in members)
    names = [name for group in members for name in group]
    assert len(set(names)) == len(names) == 675
    known = captions()
    unknown = {name for name in names if not known[name]}
    assert unknown == {"police car light", "horizontal traffic light", "vertical traffic light"}


def test_openmoji_flags_that_are_one_picture() -> None:
    images = split_of("flags-1shot").test.read()
    groups: dict[str, list[str]] = {}
    for name, pixels in zip(images.ids, images.pixels(), strict=True):
        groups.setdefault(pixel_hash(pixels), []).append(name.removeprefix("openmoji/flag-"))
    twins = sorted(group for group in groups.values() if len(group) > 1)
    assert twins == [["chad", "romania"], ["indonesia", "monaco"]]


def test_openmoji_test_images_with_a_twin_in_the_pool() -> None:
    split = split_of("openmoji-5shot")
    pool = {pixel_hash(image) for part in (split.shots, split.val, split.unused)
            for image in part.pixels()}  # fmt: skip
    images = split.test.read()
    twins = [row for row, image in enumerate(images.pixels()) if pixel_hash(image) in pool]
    assert [images.ids[row] for row in twins] == [
        "openmoji/flag-clipperton-island",
        "openmoji/flag-france",
    ]
    weight = sum(1 / np.sum(images.labels == images.labels[row]) for row in twins) / 20
    assert round(weight, 4) == 0.0004


def test_what_the_card_of_openmoji_says_of_its_split() -> None:
    splits = [split_of("openmoji-5shot", seed) for seed in range(10)]
    counts = np.bincount(splits[0].test.labels)
    assert round(20**2 / np.sum(1 / counts)) == 364
    shots = [set(split.shots.ids) for split in splits]
    shared = [len(one & other) / 100 for at, one in enumerate(shots) for other in shots[:at]]
    assert 0.30 < np.mean(shared) < 0.37  # a third: 5 of 15


def test_cards_state_where_the_images_come_from() -> None:
    for task in TASKS.values():
        card = task.card
        assert card.licence in ("MIT", "CC-BY-SA-4.0")
        assert card.citation and card.description.endswith(".")
        assert card.homepage.startswith("https://")
    assert "1708.07747" in TASKS["fashion-5shot"].card.citation


def test_the_table_in_the_readme_is_true() -> None:
    told = (ROOT / "tasks" / "README.md").read_text()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")]
            for line in told.splitlines() if re.match(r"\| `", line)]  # fmt: skip
    shown = {"top1": "top-1", "mean_per_class": "mean per class"}
    assert rows == [
        [name, str(stated.classes), *(f"{size:,}" for size in stated.sizes), shown[stated.metric],
         TASKS[name].card.licence]
        for name, stated in FACTS.items()
    ]  # fmt: skip

"""Chance, in three seeds: the few-shot split, the draw of the images, the classifier's training.

Images that do not depend on a seed are made once and shared by its rows.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmark.records.store import StoredRecord
from benchmark.run.plan import Cell
from benchmark.trial import Seeds
from tests.helpers import roots
from tests.helpers.runs import plan_in, run_in

PAINT = """
import benchmark
import numpy as np

FACTS = benchmark.Facts(title="Painted", family="classical"{facts})
TOLD = benchmark.Provenance("transformed", "paint")


def augment(shots, upstream, meter, rng, params):
    assert bool(len(shots.images)) is FACTS.uses_shots
    for label in range(3):
        pixels = rng.integers(0, 256, (1, 32, 32, 3)) if FACTS.stochastic else np.full(
            (1, 32, 32, 3), shots.images.mean())
        yield benchmark.Images(pixels.astype(np.uint8), [label], [TOLD])
"""
METHODS = {
    "blind": PAINT.format(facts=", uses_shots=False"),
    "fixed": PAINT.format(facts=", stochastic=False"),
    "usual": PAINT.format(facts=""),
    "none": roots.NONE.replace("adds_images", "uses_shots=False, stochastic=False, adds_images"),
}
SPLITS, DRAWS = (0, 1, 2), (0, 1)


def seeds_of(cells: list[Cell], method: str) -> list[tuple[int, int, int]]:
    """Split, draw and training of a method's rows, in the plan's order."""
    found = [cell.trial.seeds for cell in cells if cell.trial.call.method.name == method]
    return [(seeds.split, seeds.draw, seeds.training) for seeds in found]


@pytest.fixture
def planned(tiny_root) -> list[Cell]:
    root = tiny_root(**METHODS)
    return plan_in(root, ["blind", "fixed", "usual"], splits=SPLITS, draws=DRAWS, trainings=(0, 5))


def test_a_plan_has_one_row_for_every_combination(planned):
    every = [(split, draw, training) for split in SPLITS for draw in DRAWS for training in (0, 5)]
    assert seeds_of(planned, "blind") == seeds_of(planned, "usual") == every
    assert Counter(cell.record_id for cell in planned).most_common(1)[0][1] == 1


@pytest.mark.parametrize("method", ["fixed", "none"])
def test_what_draws_nothing_by_chance_is_drawn_once(planned, method):
    assert seeds_of(planned, method) == [(split, 0, train) for split in SPLITS for train in (0, 5)]


def test_every_row_is_paired_with_the_control_of_its_split_and_training(planned):
    controls = {
        cell.record_id: cell.trial.seeds
        for cell in planned
        if cell.trial.call.method.name == "none"
    }
    assert len(controls) == len(SPLITS) * 2
    for cell in planned:
        seeds = cell.trial.seeds
        assert controls[cell.control_id] == Seeds(seeds.split, 0, seeds.training)


@pytest.mark.parametrize(
    ("method", "sets"), [("usual", len(SPLITS) * len(DRAWS)), ("blind", len(DRAWS)), ("fixed", 3)]
)
def test_images_are_named_by_the_seeds_that_they_depend_on(planned, method, sets):
    trials = [cell.trial for cell in planned if cell.trial.call.method.name == method]
    assert len({trial.images_id for trial in trials}) == sets
    assert len({trial.id for trial in trials}) == len(trials)


def test_a_control_that_draws_is_drawn_with_its_row(tiny_root):
    cells = plan_in(tiny_root(), ["repeat"], splits=SPLITS, draws=DRAWS)
    where = {cell.record_id: cell.trial.seeds for cell in cells}
    assert all(where[cell.control_id] == cell.trial.seeds for cell in cells)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0)])
def test_a_row_does_not_depend_on_the_splits_it_is_planned_with(tiny_root, order):
    """Which split comes first, and so has the shared images made, is in no row's id."""
    root = tiny_root(**METHODS)
    alone = {cell.record_id for cell in plan_in(root, ["blind"], splits=[2])}
    assert alone < {cell.record_id for cell in plan_in(root, ["blind"], splits=order)}


# --- one real run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[StoredRecord]:
    """The rows of both methods on three splits and two draws."""
    folder = tmp_path_factory.mktemp("seeds")
    roots.write_root(folder / "root", root / "pocket", METHODS)
    cells = plan_in(folder / "root", ["blind", "fixed"], splits=SPLITS, draws=DRAWS)
    outcome = run_in(folder / "root", cells, folder / "results")
    assert not outcome.failed, outcome.failed[0].reason
    assert {stored.record.record_id for stored in outcome.stored} == {
        cell.record_id for cell in cells
    }
    return outcome.stored


@pytest.mark.parametrize(("method", "folders", "rows"), [("blind", 2, 3), ("fixed", 3, 1)])
def test_shared_images_are_made_once_and_evaluated_by_every_row(made, method, folders, rows):
    of_images: dict[Path, list[StoredRecord]] = {}
    for stored in made:
        if stored.record.method == method:
            of_images.setdefault(stored.folder.parents[1], []).append(stored)
    assert len(of_images) == folders
    parent = next(iter(of_images)).parent
    assert sorted(of_images) == sorted(path for path in parent.iterdir() if path.is_dir())
    for folder, here in of_images.items():
        assert (folder / "augment" / "images.parquet").is_file()
        assert len(here) == len({stored.record.split for stored in here}) == rows
        assert len({stored.record.draw for stored in here}) == 1
        assert len({stored.record.ledger_hash for stored in here}) == 1
        assert len({stored.record.split_hash for stored in here}) == rows


def test_another_draw_has_other_images(made):
    hashes = {
        stored.record.draw: stored.record.ledger_hash
        for stored in made
        if stored.record.method == "blind"
    }
    assert hashes[0] != hashes[1]


def test_rows_carry_their_seeds(made):
    rows = Counter((stored.record.method, *stored.record.seeds) for stored in made)
    expected = [("blind", split, draw, 0) for split in SPLITS for draw in DRAWS]
    expected += [(method, split, 0, 0) for method in ("fixed", "none") for split in SPLITS]
    assert rows == Counter(expected)

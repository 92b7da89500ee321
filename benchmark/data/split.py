"""Few-shot splits: from a task card to shots, validation, reserve and test images.

The order of a draw is the order of the sha256 of seed and image id, not of a random generator:
the same seed gives the same split on every machine and with every version of every library, and
is not reshuffled by what else the table holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmark.contract import Shots
from benchmark.data.card import Task, TaskCard
from benchmark.data.table import ImageTable, open_table
from benchmark.errors import DataError
from benchmark.schema import canonical_hash


class ImageSet:
    """Labelled images of a task.

    Attributes:
        labels: int64 [N], each in 0..C-1.
        ids: N distinct identifiers.
    """

    def __init__(self, table: ImageTable, rows: np.ndarray, labels: np.ndarray) -> None:
        self._table, self._rows = table, rows
        self.labels = labels
        self.ids = tuple(table.ids[row] for row in rows)

    def __len__(self) -> int:
        return len(self._rows)

    def pixels(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """uint8 [n, S, S, 3] of the given positions in this set (default: all), decoded now.

        Raises:
            DataError: an image is damaged or missing; names its id and file.
        """
        chosen = self._rows if rows is None else self._rows[np.asarray(rows, np.int64)]
        return self._table.pixels(chosen)

    def select(self, rows: Sequence[int] | np.ndarray) -> ImageSet:
        """The set of the given positions."""
        index = np.asarray(rows, np.int64)
        return ImageSet(self._table, self._rows[index], self.labels[index])


class TestSplit:
    """The test images, to be read once per classifier run."""

    __test__ = False  # not a test case of pytest

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._read = False

    def __len__(self) -> int:
        return len(self._images)

    @property
    def ids(self) -> tuple[str, ...]:
        """N distinct identifiers."""
        return self._images.ids

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], to score predictions with."""
        return self._images.labels

    def read(self) -> ImageSet:
        """The images and labels, for the one evaluation at the end of a classifier run.

        Raises:
            RuntimeError: they were read before, so something is being chosen on test images.
        """
        if self._read:
            raise RuntimeError("the test split was read twice in one classifier run")
        self._read = True
        return self._images

    def for_contamination(self) -> ImageSet:
        """The images, to compare augmented images with; never to train or choose on."""
        return self._images


@dataclass(frozen=True)
class Split:
    """What one seed draws for a task.

    ``data_hash`` covers what does not depend on the seed: the ids of the test images in order and
    the content of the sources. ``hash`` adds the ids of shots and validation images: a changed data
    set is another split.
    """

    task: Task
    seed: int
    shots: ImageSet
    val: ImageSet
    unused: ImageSet
    test: TestSplit
    hash: str
    data_hash: str

    def fresh(self) -> Split:
        """The same split with its test images unread: one for every classifier run."""
        return replace(self, test=TestSplit(self.test.for_contamination()))

    def as_shots(self, with_images: bool = True, *, with_unused: bool = False) -> Shots:
        """What a method sees. Its arrays are copies.

        Args:
            with_images: False for a method that does not look at the shots: it is given none.
            with_unused: the unused training images too, for an oracle.
        """
        unused = self._as_shots(self.unused, None) if with_unused else None
        return self._as_shots(self.shots if with_images else self.shots.select([]), unused)

    def _as_shots(self, images: ImageSet, unused: Shots | None) -> Shots:
        return Shots(
            images=images.pixels(),
            labels=images.labels.copy(),
            ids=images.ids,
            classes=self.task.classes,
            image_size=self.task.card.image_size,
            flip=self.task.card.flip,
            unused=unused,
        )


def load_split(task: Task, seed: int, root: Path) -> Split:
    """The split of ``task`` that ``seed`` draws.

    Per class, the pool is put in an order drawn from the seed: shots are its first ``shots``
    images, validation its last ``val_per_class``, the reserve is what lies between. So the shots
    of a task with fewer are among those of a task with more, beside the same validation images.
    Test images do not depend on the seed.

    Raises:
        DataError: a source is missing, unreadable, or not the declared one (sha256, rows,
            columns, distinct ids); a class has no image, or fewer than are needed.
    """
    card = task.card
    train = open_table(card.train, card.columns, card.image_size, root)
    pools = _rows_by_class(train, card)
    if card.test is None:
        held_out = train
        pools, tests = _carve(train, pools, card.split.test_fraction or 0)
    else:
        held_out = open_table(card.test, card.columns, card.image_size, root)
        tests = _rows_by_class(held_out, card)
        _check_apart(train, held_out)
    drawn = [
        _draw(task, seed, train, entry.name, pool)
        for entry, pool in zip(card.classes, pools, strict=True)
    ]
    shots, val, unused = (_image_set(train, list(part)) for part in zip(*drawn, strict=True))
    test = _image_set(held_out, tests)
    data_hash = canonical_hash([test.ids, train.digest, held_out.digest])
    split_hash = canonical_hash([data_hash, shots.ids, val.ids])
    return Split(task, seed, shots, val, unused, TestSplit(test), split_hash, data_hash)


def _rows_by_class(table: ImageTable, card: TaskCard) -> list[list[int]]:
    """Rows of every class, sorted by id; rows of no class are left out."""
    rows: dict[object, list[int]] = {entry.label: [] for entry in card.classes}
    for row, label in enumerate(table.labels):
        if label in rows:
            rows[label].append(row)
    for entry in card.classes:
        if not rows[entry.label]:
            column, values = card.columns.label, sorted({repr(label) for label in table.labels})
            raise DataError(
                f"{table.name}: no image of class {entry.name!r}: the column {column!r} never "
                f"holds {entry.label!r}, but {', '.join(values[:5])}"
                + (f" and {len(values) - 5} others" if len(values) > 5 else "")
            )
    return [sorted(rows[entry.label], key=table.ids.__getitem__) for entry in card.classes]


def _carve(
    table: ImageTable, pools: list[list[int]], fraction: float
) -> tuple[list[list[int]], list[list[int]]]:
    """Pool and test rows per class: the test part has the smallest sha256(id)."""
    rest, tests = [], []
    for pool in pools:
        count = max(1, int(len(pool) * fraction + 1e-9))  # 100 * 0.29 is 28.999999999999996
        ordered = _ordered(table, pool, "")
        tests.append(sorted(ordered[:count], key=table.ids.__getitem__))
        rest.append(ordered[count:])
    return rest, tests


def _draw(
    task: Task, seed: int, table: ImageTable, class_name: str, pool: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Rows of one class for shots, validation and reserve."""
    held_back = task.card.split.val_per_class
    needed = task.shots + held_back
    if len(pool) < needed:
        raise DataError(
            f"task {task.name}: class {class_name!r} has {len(pool)} training images in "
            f"{table.name}, {needed} needed ({task.shots} shots + {held_back} for validation)"
        )
    drawn = _ordered(table, pool, f"{task.card.name}/{seed}/")
    last = len(drawn) - held_back
    return drawn[: task.shots], drawn[last:], drawn[task.shots : last]


def _check_apart(train: ImageTable, test: ImageTable) -> None:
    if shared := set(train.ids) & set(test.ids):
        raise DataError(
            f"{len(shared)} ids are both in {train.name} and in {test.name}, "
            f"such as {min(shared)!r}: test images must not be trained on"
        )


def _ordered(table: ImageTable, rows: list[int], salt: str) -> list[int]:
    """Rows in the order of sha256(salt + id): fixed, and unrelated to the ids themselves."""

    def key(row: int) -> bytes:
        return hashlib.sha256((salt + table.ids[row]).encode()).digest()

    return sorted(rows, key=key)


def _image_set(table: ImageTable, parts: list[list[int]]) -> ImageSet:
    """One set of the rows of all classes, class by class."""
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rows = np.array([row for part in parts for row in part], np.int64)
    return ImageSet(table, rows, labels.astype(np.int64))

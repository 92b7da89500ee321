"""Few-shot splits: from a task card to shots, validation, unused and test images.

The order of a draw is the order of the sha256 of seed and image id, not of a random generator:
the same seed gives the same split on every machine and with every version of every library, and
is not reshuffled by what else the table holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmark.contract import Shots
from benchmark.data.card import Task, TaskCard
from benchmark.data.table import ImageTable, open_table
from benchmark.errors import DataError
from benchmark.schema import canonical_hash

# Images of the pool are compared with the test images byte for byte where all of them are at most
# this many, in this many bytes together; of larger data sets, shots and validation images alone.
COMPARED_IMAGES, COMPARED_BYTES = 100_000, 2 * 2**30


class ImageSet:
    """Labelled images of a task.

    Attributes:
        labels: int64 [N], each in 0..C-1.
        size: side in pixels at which they are decoded.
    """

    def __init__(self, table: ImageTable, rows: np.ndarray, labels: np.ndarray, size: int) -> None:
        self._table, self._rows = table, rows
        self.labels, self.size = labels, size

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """N distinct identifiers."""
        return tuple(self._table.ids[self._rows])

    def pixels(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """uint8 [n, S, S, 3] of the given positions in this set (default: all), a copy, decoded
        when it is asked for.

        Raises:
            DataError: an image is damaged or missing; names its id and file.
        """
        chosen = self._rows if rows is None else self._rows[np.asarray(rows, np.int64)]
        return self._table.kept_pixels(chosen, self.size)

    def load(self, ids: Sequence[str], size: int) -> np.ndarray:
        """Images of this set decoded from their files at ``size`` pixels, uint8
        [n, size, size, 3]; errors as ``pixels``.

        Raises:
            KeyError: an id that is not of this set.
        """
        places = {name: row for name, row in zip(self.ids, self._rows, strict=True)}
        return self._table.pixels([places[name] for name in ids], size)

    def select(self, rows: Sequence[int] | np.ndarray) -> ImageSet:
        """The set of the given positions."""
        index = np.asarray(rows, np.int64)
        return ImageSet(self._table, self._rows[index], self.labels[index], self.size)

    def copies_of(self, others: ImageSet) -> list[str]:
        """The ids of the images here that are in ``others`` too, byte for byte as encoded."""
        known = set(others._table.hashes(others._rows)) - {b""}
        found = self._table.hashes(self._rows)
        return [name for name, digest in zip(self.ids, found, strict=True) if digest in known]

    @property
    def is_small(self) -> bool:
        """Whether all images of the table may be read to compare them."""
        few = len(self._table) <= COMPARED_IMAGES
        return few and self._table.image_bytes <= COMPARED_BYTES


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

    Attributes:
        unused: images of the pool that are neither shots nor validation.
        hash: of the ids of shots, validation and test images in order, and of the content of the
            sources: a changed data set is another split.
        data_hash: of what does not depend on the seed: the ids of the test images and the content
            of the sources.
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
        """The same split with its test images unread: one for every classifier run.

        Raises:
            DataError: as ``check_apart``.
        """
        self.check_apart()
        return replace(self, test=TestSplit(self.test.for_contamination()))

    def as_shots(self, with_images: bool = True, *, with_unused: bool = False) -> Shots:
        """What a method sees. Its arrays are copies.

        Args:
            with_images: False for a method that does not look at the shots: there are none.
            with_unused: for an oracle.

        Raises:
            DataError: as ``check_apart``; an image is damaged.
        """
        self.check_apart()
        unused = self._as_shots(self.unused, None) if with_unused else None
        return self._as_shots(self.shots if with_images else self.shots.select([]), unused)

    def check_apart(self) -> None:
        """Whether images to train on are test images too, by the bytes of their files; that no id
        is in both parts is known since they were drawn.

        Raises:
            DataError: more of them are than the card states (``split.copies``).
        """
        test, stated = self.test.for_contamination(), self.task.card.split.copies
        parts = [self.shots, self.val]
        if self.unused.is_small and test.is_small:
            parts.append(self.unused)
        copies = [name for part in parts for name in part.copies_of(test)]
        if len(copies) > stated:
            raise DataError(
                f"task {self.task.name}: {len(copies)} training images are test images too, byte "
                f"for byte, such as {min(copies)!r}; the card says split.copies = {stated}: test "
                "images must not be trained on"
            )

    def _as_shots(self, images: ImageSet, unused: Shots | None) -> Shots:
        return Shots(
            images=images.pixels(),
            labels=images.labels.copy(),
            ids=images.ids,
            classes=self.task.classes,
            image_size=self.task.card.image_size,
            flip=self.task.card.flip,
            unused=unused,
            load=images.load,
        )


def load_split(task: Task, seed: int, root: Path) -> Split:
    """The split of ``task`` that ``seed`` draws; no image is decoded.

    Per class, the pool is put in an order drawn from the seed: shots are its first ``shots``
    images, validation its last ``val_per_class``, unused is what lies between. So the shots
    of a task with fewer are among those of a task with more, beside the same validation images.
    Test images do not depend on the seed.

    Raises:
        DataError: a source is missing, unreadable, or not the declared one (sha256, rows,
            columns, distinct ids); a class has no image, or fewer than are needed; an id is both
            in the training and in the test source.
    """
    card = task.card
    train = open_table(card.train, card.columns, "train", root)
    pools = _rows_by_class(train, card)
    if card.test is None:
        held_out = train
        pools, tests = _carve(train, pools, task)
    else:
        held_out = open_table(card.test, card.columns, "test", root)
        tests = [_sorted_by_id(held_out, rows) for rows in _rows_by_class(held_out, card)]
        _check_ids(train, held_out)
    drawn = [
        _draw(task, seed, train, entry.name, pool)
        for entry, pool in zip(card.classes, pools, strict=True)
    ]
    shots, val, unused = (
        _image_set(train, list(part), card.image_size) for part in zip(*drawn, strict=True)
    )
    test = _image_set(held_out, tests, card.image_size)
    data = {"test": test.ids, "sources": [train.digest, held_out.digest]}
    facts = {"shots": shots.ids, "val": val.ids, **data}
    hashes = canonical_hash(facts), canonical_hash(data)
    return Split(task, seed, shots, val, unused, TestSplit(test), *hashes)


def _rows_by_class(table: ImageTable, card: TaskCard) -> list[list[int]]:
    """Rows of every class; rows of no class are left out."""
    labels = table.column(card.columns.label).to_pylist()
    places = {label: at for at, entry in enumerate(card.classes) for label in entry.labels}
    rows: list[list[int]] = [[] for _ in card.classes]
    for row, label in enumerate(labels):
        if label in places:
            rows[places[label]].append(row)
    for entry, of_class in zip(card.classes, rows, strict=True):
        if not of_class:
            column, values = card.columns.label, sorted({repr(label) for label in labels})
            raise DataError(
                f"{table.name}: no image of class {entry.name!r}: the column {column!r} never "
                f"holds {' or '.join(map(repr, entry.labels))}, but {', '.join(values[:5])}"
                + (f" and {len(values) - 5} others" if len(values) > 5 else "")
            )
    return rows


def _carve(
    table: ImageTable, pools: list[list[int]], task: Task
) -> tuple[list[list[int]], list[list[int]]]:
    """Pool and test rows per class: the test part has the smallest sha256(id)."""
    rule, rest, tests = task.card.split, [], []
    for entry, pool in zip(task.card.classes, pools, strict=True):
        if rule.pool_per_class is not None:
            count = len(pool) - rule.pool_per_class
            if count < 1:
                raise DataError(
                    f"task {task.name}: class {entry.name!r} has {len(pool)} images in "
                    f"{table.name}; with split.pool_per_class = {rule.pool_per_class} none is "
                    "left to test on"
                )
        else:  # 100 * 0.29 is 28.999999999999996
            count = max(1, int(len(pool) * (rule.test_fraction or 0) + 1e-9))
        ordered = _ordered(table, pool, "")
        tests.append(_sorted_by_id(table, ordered[:count]))
        rest.append(ordered[count:])
    return rest, tests


def _draw(
    task: Task, seed: int, table: ImageTable, class_name: str, pool: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Rows of one class for shots, validation and unused."""
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


def _check_ids(train: ImageTable, test: ImageTable) -> None:
    import pyarrow.compute as pc

    shared = test.ids.array.filter(pc.is_in(test.ids.array, value_set=train.ids.array))
    if len(shared):
        raise DataError(
            f"{len(shared)} ids are both in {train.name} and in {test.name}, "
            f"such as {min(shared.to_pylist())!r}: test images must not be trained on"
        )


def _sorted_by_id(table: ImageTable, rows: list[int]) -> list[int]:
    return [row for _, row in sorted(zip(table.ids[rows], rows, strict=True))]


def _ordered(table: ImageTable, rows: list[int], salt: str) -> list[int]:
    """Rows in the order of sha256(salt + id): fixed, and unrelated to the ids themselves."""
    keys = [hashlib.sha256((salt + name).encode()).digest() for name in table.ids[rows]]
    return [row for _, row in sorted(zip(keys, rows, strict=True))]


def _image_set(table: ImageTable, parts: list[list[int]], size: int) -> ImageSet:
    """One set of the rows of all classes, class by class."""
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rows = np.array([row for part in parts for row in part], np.int64)
    return ImageSet(table, rows, labels.astype(np.int64), size)

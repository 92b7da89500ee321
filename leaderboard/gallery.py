"""The images a contest was fought with: per class, real shots beside what every method added.

One sprite sheet per class and method, so that a page holds hundreds of small pictures instead of
thousands; every thumbnail keeps its provenance.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmark.leaderboard.families import order_of
from PIL import Image

from benchmark.data.split import load_split
from benchmark.errors import BenchError, DataError
from benchmark.images import decode

if TYPE_CHECKING:
    from benchmark.data.card import Task
    from benchmark.records.store import StoredRecord
    from benchmark.registry import Registry

COLUMNS, LINES = 3, 2  # thumbnails of one sprite sheet
PER_TABLE = 5  # classes side by side
# At about 5 kB each with their provenance, 400 sheets keep a page below 3 MB.
MAX_SHEETS = 400
_MAX_SIDE = 64  # pixels of a thumbnail in its sheet
_COLOURS = 128  # of a sheet: a third of the bytes of all colours


@dataclass(frozen=True)
class Thumb:
    """Where one thumbnail came from, in words, and whether it is flagged: near a test image."""

    source: str
    near_test: bool = False


@dataclass(frozen=True)
class Sheet:
    """Up to ``COLUMNS * LINES`` thumbnails of one class and method in one PNG (a data URI)."""

    image: str
    width: int
    height: int
    alt: str
    thumbs: tuple[Thumb, ...]


@dataclass(frozen=True)
class Strip:
    """One method's sheets, a class each; None where it made nothing for that class."""

    method: str
    title: str
    family: str
    sheets: tuple[Sheet | None, ...]


@dataclass(frozen=True)
class Matrix:
    """A table: classes across, the real shots and the methods down."""

    classes: tuple[str, ...]
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Gallery:
    """One task's images.

    Attributes:
        split, budget: of the trials shown.
        hidden: classes that are left out to keep the page small.
        near: thumbnails that are flagged as near to a test image.
        citation, homepage, licence: of the real images.
        credits: (collection, licence) of the corpus images shown.
        notes: what could not be shown, and why.
    """

    task: str
    title: str
    split: int
    budget: str
    matrices: tuple[Matrix, ...]
    hidden: int
    near: int
    citation: str
    homepage: str
    licence: str
    credits: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """One image with its class and its words, before it is laid out."""

    label: int
    data: bytes | np.ndarray
    thumb: Thumb
    credit: tuple[str, str] | None = None


def build_galleries(
    stored: Sequence[StoredRecord], registry: Registry, root: Path, budget: str
) -> tuple[Gallery, ...]:
    """A gallery per registered task that has images, from the first split and, where there is
    one, the budget named ``budget``; each method once, with its default parameters if run."""
    chosen = {}
    for name, task in registry.tasks.items():
        trials = choose([item for item in stored if item.record.task == name], budget)
        if trials:
            chosen[name] = (task, trials)
    rows = sum(len(trials) + 1 for _, trials in chosen.values())
    most = max(PER_TABLE, MAX_SHEETS // max(rows, 1) // PER_TABLE * PER_TABLE)
    return tuple(_gallery(task, trials, registry, root, most) for task, trials in chosen.values())


def choose(stored: Sequence[StoredRecord], budget: str) -> list[StoredRecord]:
    """One trial per method: the same split and budget for all, if they have it."""
    made = [item for item in stored if item.record.images_accepted]
    if not made:
        return []
    budgets = {item.record.budget for item in made}
    budget = budget if budget in budgets else min(budgets)
    made = [item for item in made if item.record.budget == budget]
    first: dict[str, StoredRecord] = {}
    for item in sorted(made, key=lambda item: (item.record.split, item.record.method)):
        first.setdefault(item.record.method_name, item)
    return sorted(first.values(), key=_place)


def _place(item: StoredRecord) -> tuple[int, str]:
    return (order_of(item.record.family), item.record.method)


def _gallery(
    task: Task, trials: Sequence[StoredRecord], registry: Registry, root: Path, most: int
) -> Gallery:
    record = trials[0].record
    names = [entry.name for entry in task.card.classes]
    count = min(len(names), most)
    notes: list[str] = []
    strips, shown = [], []
    for method, title, family, read in readers(task, trials, registry, root):
        try:
            images = [image for image in read() if image.label < count]
        except (BenchError, OSError) as error:
            notes.append(f"{title}: not shown: {error}")
            continue
        side = min(task.card.image_size, _MAX_SIDE)
        strips.append(Strip(method, title, family, _sheets(images, names[:count], title, side)))
        shown += images
    credits = Counter(image.credit for image in shown if image.credit)
    return Gallery(
        task.name,
        task.card.title,
        record.split,
        record.budget,
        tuple(_matrices(strips, names[:count])),
        len(names) - count,
        sum(image.thumb.near_test for image in shown),
        task.card.citation,
        task.card.homepage,
        task.card.licence,
        tuple(sorted(credits)),
        tuple(notes),
    )


# Label, title, family, and what reads the images.
Reader = tuple[str, str, str, Callable[[], list[Shown]]]


def readers(
    task: Task,
    trials: Sequence[StoredRecord],
    registry: Registry,
    root: Path,
    count: int = COLUMNS * LINES,
) -> Iterable[Reader]:
    """The real shots first, then every trial; of each class up to ``count`` images are read."""
    record = trials[0].record
    shots = partial(_shots, task, record.split, record.split_hash, root, count)
    yield "shots", "Real shots", "real", shots
    for item in trials:
        entry = registry.methods.get(item.record.method_name)
        title = entry.facts.title if entry else item.record.method
        if item.record.split != record.split:
            title += f" (split {item.record.split})"
        yield item.record.method, title, item.record.family, partial(_added, item, count)


def _shots(task: Task, seed: int, expected: str, root: Path, count: int) -> list[Shown]:
    """The first shots of every class.

    Raises:
        DataError: the data are missing, or draw another split than the record's.
    """
    split = load_split(task, seed, root)
    if split.hash != expected:
        raise DataError(f"task {task.name}: the data here draw another split than the record's")
    labels = split.shots.labels
    rows = [row for label in range(len(task.card.classes)) for row in _first(labels, label, count)]
    pixels = split.shots.pixels(rows)
    return [
        Shown(int(labels[row]), image, Thumb(f"real shot {split.shots.ids[row]}"))
        for row, image in zip(rows, pixels, strict=True)
    ]


def _first(labels: np.ndarray, label: int, count: int) -> list[int]:
    return [int(row) for row in np.flatnonzero(labels == label)[:count]]


def _added(item: StoredRecord, count: int) -> list[Shown]:
    """The first accepted images of every class.

    Raises:
        RecordError: the artefacts are missing or damaged.
    """
    ledger, images, flagged = item.ledger(), item.images(), _flagged(item)
    counts: Counter[int] = Counter()
    shown = []
    known = ledger.astype(object).where(ledger.notna(), None)
    for values in known[ledger["accepted"]].to_dict("records"):
        row = {str(key): value for key, value in values.items() if value is not None}
        label, index = int(row["label"]), int(row["index"])
        if counts[label] < count and index in images:
            counts[label] += 1
            thumb = _thumb(row, flagged.get(index, ""))
            shown.append(Shown(label, images[index], thumb, _credit(row)))
    return shown


def _flagged(item: StoredRecord) -> dict[int, str]:
    """The nearest test image of every flagged one in words, by ledger index."""
    table = item.flagged()
    if table is None:
        return {}
    nearest = table.sort_values(["rms", "test_id"]).drop_duplicates("index")
    return {
        int(row["index"]): f"very near to test image {row['test_id']} ({row['reason']}, "
        f"{row['distance']} bits, cosine {row['similarity']:.3f})"
        for row in nearest.to_dict("records")
    }


def _thumb(row: dict[str, Any], flagged: str) -> Thumb:
    """A ledger row in words; absent columns are those that do not apply."""
    parts = [str(row["origin"])]
    if "corpus_id" in row:
        parts.append(str(row["corpus_id"]))
    if "prompt" in row:
        words = "found by" if row["origin"] == "retrieved" else "prompt"
        parts.append(f"{words} “{row['prompt']}”")
    for key, words in (("seed", "seed {}"), ("guidance_scale", "guidance {:g}"), ("nfe", "{} NFE")):
        if key in row:
            parts.append(words.format(row[key]))
    if "similarity" in row:
        parts.append(f"cosine {row['similarity']:.2f}")
    if row["parents"] != "[]":
        parts.append(f"from {row['parents'][1:-1].replace(chr(34), '')}")
    if "licence" in row:
        parts.append(str(row["licence"]))
    if flagged:
        parts.append(flagged)
    return Thumb(" · ".join(parts), bool(flagged))


def _credit(row: dict[str, Any]) -> tuple[str, str] | None:
    """Whom a corpus image is owed to: what its id says before the first slash, else the corpus."""
    if "corpus_id" not in row:
        return None
    collection, slash, _ = str(row["corpus_id"]).partition("/")
    return (collection if slash else str(row["source"]), str(row.get("licence", "not stated")))


def _sheets(
    images: Sequence[Shown], names: Sequence[str], title: str, side: int
) -> tuple[Sheet | None, ...]:
    return tuple(
        _sheet([image for image in images if image.label == label], f"{title}: {name}", side)
        for label, name in enumerate(names)
    )


def _sheet(images: Sequence[Shown], words: str, side: int) -> Sheet | None:
    """The sprite sheet: a PNG of few colours, enough for a handful of thumbnails."""
    if not images:
        return None
    columns = min(COLUMNS, len(images))
    lines = math.ceil(len(images) / columns)
    canvas = Image.new("RGB", (side * columns, side * lines), "white")
    for place, image in enumerate(images):
        data = image.data
        pixels = data if isinstance(data, np.ndarray) else decode(data, side, words)
        tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(tile, (place % columns * side, place // columns * side))
    sheet = canvas.quantize(_COLOURS, dither=Image.Dither.NONE)
    clear: dict[str, int] = {}
    if len(images) < columns * lines:  # one more colour, which stands for nothing
        palette = sheet.getpalette() or []
        clear["transparency"] = len(palette) // 3
        sheet.putpalette([*palette, 255, 255, 255])
        start = len(images) % columns * side
        sheet.paste(clear["transparency"], (start, canvas.height - side, *canvas.size))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True, **clear)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    alt = f"{words}, {len(images)} image{'s' if len(images) > 1 else ''}"
    return Sheet(uri, canvas.width, canvas.height, alt, tuple(image.thumb for image in images))


def _matrices(strips: Sequence[Strip], names: Sequence[str]) -> Iterable[Matrix]:
    """``PER_TABLE`` classes at a time."""
    for start in range(0, len(names), PER_TABLE):
        part = slice(start, start + PER_TABLE)
        cut = [Strip(s.method, s.title, s.family, s.sheets[part]) for s in strips]
        yield Matrix(tuple(names[part]), tuple(cut))

"""Contact sheets: what every method made, one small picture each, and one of them all.

A row is a class: the real shots at the left, then the first images that were accepted.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmark.leaderboard.families import order_of
from benchmark.leaderboard.gallery import Shown, choose, readers
from PIL import Image, ImageDraw, ImageFont

from benchmark.errors import BenchError, RecordError
from benchmark.files import write_file
from benchmark.images import decode
from benchmark.statistics import counted

if TYPE_CHECKING:
    from benchmark.data.card import Task
    from benchmark.records.record import Record
    from benchmark.records.store import StoredRecord
    from benchmark.registry import Registry

TILE = 64  # pixels of an image as drawn; smaller ones are enlarged without blurring
SHOTS, MADE, CLASSES = 5, 8, 5  # of a sheet: images of a row, and rows of a task
WIDE, ROW = 2, 3  # of the overview: images of a class, and classes of a task
MAX_BYTES = 60_000  # of a sheet: fewer colours are taken until it is smaller
_COLOURS = (128, 64, 32, 16)
_LABEL, _LINE, _GAP = 130, 22, 12  # pixels: names at the left, a line of text, between blocks


Images = Mapping[int, Sequence[np.ndarray]]  # uint8 [S, S, 3] by label, first made first


@dataclass(frozen=True)
class Made:
    """What one method made for one task, beside the real shots it was given."""

    task: Task
    record: Record
    title: str
    shots: Images
    images: Images

    @property
    def caption(self) -> str:
        """The caption of its images."""
        record = self.record
        rejected = f", {record.images_rejected:,} rejected" if record.images_rejected else ""
        return (
            f"{record.task}, split {record.split}, budget {record.budget}, "
            f"record {record.record_id[:12]}: {record.images_accepted:,} images{rejected}"
        )


def write_contact(
    stored: Sequence[StoredRecord], registry: Registry, budget: str, out: Path, overview: Path
) -> list[str]:
    """Writes ``<method>.png`` for every method that made images, and ``README.md`` to show them.

    Args:
        stored: the results; of each method and task the trial of the first split is drawn, of
            the version that counts, and of the budget named ``budget`` where there is one.
        out: folder of the sheets.
        overview: file of the picture of all methods.

    Returns:
        What could not be drawn, and why.

    Raises:
        RecordError: no trial of a registered task made images.
        StorageError: a file cannot be written.
    """
    notes: list[str] = []
    methods: dict[str, list[Made]] = defaultdict(list)
    stored = counted(stored)
    for task in registry.tasks.values():
        trials = choose([item for item in stored if item.record.task == task.name], budget)
        for made in _read(task, trials, registry, notes):
            methods[made.record.method_name].append(made)
    if not methods:
        raise RecordError("\n".join(["no images to draw", *notes]))
    ordered = dict(sorted(methods.items(), key=lambda entry: _place(entry[1][0].record)))
    for name, entries in ordered.items():
        write_file(out / f"{name}.png", _small_png(_sheet(entries)))
    write_file(out / "README.md", _index(ordered).encode())
    write_file(overview, _png(_overview(ordered), _COLOURS[0]))
    return notes


def _place(record: Record) -> tuple[int, str]:
    return (order_of(record.family), record.method_name)


def _read(
    task: Task, trials: Sequence[StoredRecord], registry: Registry, notes: list[str]
) -> Iterator[Made]:
    """The images of every trial; one that cannot be read is noted and left out."""
    if not trials:
        return
    (_, _, _, read_shots), *added = readers(task, trials, registry, registry.root, MADE)
    shots: Images = {}
    try:
        shots = _by_label(read_shots())
    except (BenchError, OSError) as error:
        notes.append(f"{task.name}, real shots: {error}")
    for item, (label, title, _, read) in zip(trials, added, strict=True):
        try:
            yield Made(task, item.record, title, shots, _by_label(read()))
        except (BenchError, OSError) as error:
            notes.append(f"{task.name}, {label}: {error}")


def _by_label(shown: Iterable[Shown]) -> Images:
    images: dict[int, list[np.ndarray]] = defaultdict(list)
    for image in shown:
        data = image.data
        pixels = data if isinstance(data, np.ndarray) else decode(data, None, image.thumb.source)
        images[image.label].append(pixels)
    return images


def _sheet(made: Sequence[Made]) -> Image.Image:
    """The tasks under each other, each with its caption."""
    width = _LABEL + (SHOTS + MADE) * TILE + _GAP
    rows = [_spread(len(entry.task.classes), CLASSES) for entry in made]
    height = sum(_LINE + len(labels) * TILE + _GAP for labels in rows)
    canvas = Image.new("RGB", (width, height), "white")
    top = 0
    for entry, labels in zip(made, rows, strict=True):
        _write(canvas, (0, top), entry.caption)
        top += _LINE
        for label in labels:
            _write(canvas, (0, top + TILE // 2 - 8), entry.task.classes[label].name, _LABEL)
            _paste(canvas, (_LABEL, top), entry.shots.get(label, ())[:SHOTS])
            start = _LABEL + SHOTS * TILE + _GAP
            _paste(canvas, (start, top), entry.images.get(label, ())[:MADE])
            top += TILE
        top += _GAP
    return canvas


def _overview(methods: Mapping[str, Sequence[Made]]) -> Image.Image:
    """A row for the real shots and one for every method; the columns are classes of each task."""
    tasks = {made.task.name: made.task for entry in methods.values() for made in entry}
    shots = {made.task.name: made.shots for entry in methods.values() for made in entry}
    columns = [
        (task, label) for task in tasks.values() for label in _spread(len(task.classes), ROW)
    ]
    wide, left = WIDE * TILE + _GAP, 2 * _LABEL
    size = (left + len(columns) * wide, _LINE + (len(methods) + 1) * (TILE + 4))
    canvas = Image.new("RGB", size, "white")
    for column, (task, label) in enumerate(columns):
        _write(canvas, (left + column * wide, 0), task.classes[label].name, wide)
    made = [("real shots", shots)]
    made += [
        (name, {entry.task.name: entry.images for entry in entries})
        for name, entries in methods.items()
    ]
    for row, (name, images) in enumerate(made):
        top = _LINE + row * (TILE + 4)
        _write(canvas, (0, top + TILE // 2 - 8), name, left)
        for column, (task, label) in enumerate(columns):
            tiles = images.get(task.name, {}).get(label, ())[:WIDE]
            _paste(canvas, (left + column * wide, top), tiles)
    return canvas


def _spread(count: int, wanted: int) -> list[int]:
    """Up to ``wanted`` of ``count`` classes, from the first to the last."""
    return sorted({int(label) for label in np.linspace(0, count - 1, wanted).round()})


def _paste(canvas: Image.Image, corner: tuple[int, int], images: Sequence[np.ndarray]) -> None:
    for place, pixels in enumerate(images):
        tile = Image.fromarray(pixels)
        kind = Image.Resampling.NEAREST if tile.width <= TILE else Image.Resampling.BICUBIC
        canvas.paste(tile.resize((TILE, TILE), kind), (corner[0] + place * TILE, corner[1]))


def _write(
    canvas: Image.Image, corner: tuple[int, int], text: str, width: int | None = None
) -> None:
    """One line of text, cut where it is wider than ``width`` pixels."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    while width is not None and len(text) > 1 and draw.textlength(text, font) > width - 4:
        text = text.rstrip("…")[:-1] + "…"
    draw.text(corner, text, "black", font)


def _small_png(canvas: Image.Image) -> bytes:
    """With the most colours that leave it small enough, else with the fewest."""
    file = b""
    for colours in _COLOURS:
        file = _png(canvas, colours)
        if len(file) <= MAX_BYTES:
            break
    return file


def _png(canvas: Image.Image, colours: int) -> bytes:
    buffer = io.BytesIO()
    canvas.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _index(methods: Mapping[str, Sequence[Made]]) -> str:
    """The page that shows the sheets, by family."""
    lines = [
        "# Contact sheets",
        "",
        "What the methods made: a row is a class, at the left the real shots, then the first",
        "images that were accepted, in the order in which they were made. Nothing was chosen by",
        "eye; rejected images are not shown. Written by `bench docs sheets`.",
    ]
    family = ""
    for name, made in methods.items():
        first = made[0]
        if first.record.family != family:
            family = first.record.family
            lines += ["", f"## {family}"]
        tasks = " and ".join(entry.task.name for entry in made)
        lines += ["", f"### `{name}`: {first.title}", ""]
        lines += [f"![Images of {first.title} for {tasks}]({name}.png)", ""]
        for entry in made:
            names = [entry.task.classes[i].name for i in _spread(len(entry.task.classes), CLASSES)]
            lines += [f"- {entry.caption}; from the top: {', '.join(names)}"]
    return "\n".join(lines) + "\n"

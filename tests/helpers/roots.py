"""A root folder of its own: a protocol, a task of drawn shapes, two methods."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

BENCH = """
[defaults]
upstream = "pocket"
budget = "S"
classifiers = ["resnet-scratch", "linear-probe"]
splits = [0, 1]
control = "none"

[upstream.pocket]
title = "The pocket upstream"
corpus = { data_files = ["pocket/corpus/train.parquet"], licence = "license" }
encoder = { model = "local-dir:pocket/clip" }

[upstream.pocket.generator]
model = "pocket/stable-diffusion"
size = 32
batch_size = 8
sampling = { steps = 4, guidance_scale = 2.0 }

[budget.S]
images_per_class = 2
compute = 400

[classifier.resnet-scratch]
kind = "scratch"
layers = [1, 1, 1]
width = 8
steps = 6
batch_size = 8
lr = 3e-3
weight_decay = 0.05
checkpoints = 2

[classifier.linear-probe]
kind = "probe"
steps = 20
batch_size = 8
lr = 1e-2
weight_decays = [0.0, 1e-2]
"""


CARD = """
name = "shapes"
title = "Shapes"
description = "Discs and squares, drawn for the tests."
licence = "CC0-1.0"
homepage = "https://example.org/shapes"
citation = "The tests (2026)"
shots = [1, 3]
image_size = 32
flip = true
prompts = ["an emoji of {{name}}"]
queries = ["an emoji of {{name}}"]
split.rule = "carve"
split.test_fraction = 0.5
split.val_per_class = 1
train.path = "data/shapes.parquet"
train.sha256 = "{sha256}"
train.rows = {rows}
classes = [
  {{ label = 0, name = "red circle" }},
  {{ label = 1, name = "green circle" }},
  {{ label = 2, name = "blue square" }},
]
"""


NONE = '''
"""Adds nothing."""

from benchmark import Facts

FACTS = Facts(title="No augmentation", family="control", adds_images=False)


def augment(shots, upstream, meter, rng, params):
    yield from ()
'''


REPEAT = '''
"""The shots again, with a little noise."""

import benchmark
import numpy as np

FACTS = benchmark.Facts(title="Repeated shots", family="classical")


class Params(benchmark.Params):
    noise: int = benchmark.param(8, help="largest change of a pixel", ge=0, le=64)


def augment(shots, upstream, meter, rng, params):
    for _ in range(meter.budget.images_per_class):
        for label in range(len(shots.classes)):
            row = int(rng.choice(shots.rows(label)))
            noise = rng.integers(-params.noise, params.noise + 1, shots.images[row].shape)
            pixels = np.clip(shots.images[row] + noise, 0, 255).astype(np.uint8)
            told = benchmark.Provenance("transformed", "noise", parents=(shots.ids[row],))
            yield benchmark.Images(pixels[None], [label], [told])
'''


def shapes_table(per_class: int = 12, size: int = 32) -> pa.Table:
    """id, image {bytes, path}, label 0..2: discs and squares of varying place and size."""
    rng = np.random.default_rng(0)
    colours = [(214, 40, 40), (40, 160, 70), (30, 90, 200)]
    rows = []
    for index in range(3 * per_class):
        label = index % 3
        x, y, radius = rng.integers(11, 21, 2).tolist() + [int(rng.integers(6, 10))]
        image = Image.new("RGB", (size, size), "white")
        draw = ImageDraw.Draw(image)
        shape = draw.rectangle if label == 2 else draw.ellipse
        shape((x - radius, y - radius, x + radius, y + radius), fill=colours[label])
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        picture = {"bytes": buffer.getvalue(), "path": None}
        rows.append({"id": f"shapes/{index:02}", "image": picture, "label": label})
    return pa.Table.from_pylist(rows)


def sha256(path: Path) -> str:
    """Of a file, as a card declares it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_root(folder: Path, pocket: Path, methods: dict[str, str]) -> None:
    """``bench.toml`` with the pocket upstream and short recipes, a task of 3 x 12 drawn images
    (``shapes-1shot``, ``shapes-3shot``), the methods ``none``, ``repeat`` and those given."""
    for inner in ("tasks", "methods", "data"):
        (folder / inner).mkdir(parents=True)
    (folder / "bench.toml").write_text(BENCH)
    (folder / "pocket").symlink_to(pocket)
    table = folder / "data" / "shapes.parquet"
    pq.write_table(shapes_table(), table)
    (folder / "tasks" / "shapes.toml").write_text(CARD.format(sha256=sha256(table), rows=36))
    for name, source in {"none": NONE, "repeat": REPEAT, **methods}.items():
        (folder / "methods" / f"{name}.py").write_text(source)


def change_rows(folder: Path, changed: Callable[[list[dict]], object]) -> None:
    """Rewrites the table of such a root and declares it rightly in the card, so that only what a
    test attacks is wrong."""
    path, card = folder / "data" / "shapes.parquet", folder / "tasks" / "shapes.toml"
    rows = pq.read_table(path).to_pylist()
    text = card.read_text().replace(sha256(path), "{sha256}")
    text = text.replace(f"rows = {len(rows)}", "rows = {rows}")
    changed(rows)
    pq.write_table(pa.Table.from_pylist(rows), path)
    text = text.replace("{sha256}", sha256(path)).replace("{rows}", str(len(rows)))
    card.write_text(text)

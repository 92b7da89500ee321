"""A set of images of any size: written, read back, evaluated; a kill meanwhile loses nothing.

Small here; ``BENCH_LARGE=1`` makes it 25,000 images at 224 px, 3.7 GB of PNG files.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmark.images import decode
from benchmark.records.store import Place, Store, read_results

LARGE = bool(os.environ.get("BENCH_LARGE"))
SIDE, PER_CLASS = (224, 8334) if LARGE else (32, 400)
NOISE = '''
"""Noise: PNG cannot compress it."""

import benchmark
import numpy as np

FACTS = benchmark.Facts(title="Noise", family="control", uses_shots=False)


def augment(shots, upstream, meter, rng, params):
    size, count = shots.image_size, meter.budget.images_per_class
    for label in range(len(shots.classes)):
        for start in range(0, count, 100):
            n = min(100, count - start)
            pixels = rng.integers(0, 256, (n, size, size, 3), np.uint8)
            yield benchmark.Images(
                pixels, [label] * n, [benchmark.Provenance("transformed", "noise")] * n
            )
'''
# Reads a set of images; says so after the 100th, and waits to be killed.
READER = """
import sys, time
from pathlib import Path
from benchmark.images import decode
from benchmark.records.store import Place, Store

count = 0

def slow(data, size, where):
    global count
    count += 1
    if count == 100:
        print("reading", flush=True)
        time.sleep(600)
    return decode(data, size, where)

folder, task, method, images_id = sys.argv[1:]
Store(Path(folder)).read_augmented(Place(task, method, images_id), slow)
"""


@pytest.mark.timeout(7200 if LARGE else 300)
def test_a_large_set_of_images(tiny_root, edit, tmp_path):
    root, results = tiny_root(noise=NOISE), tmp_path / "results"
    edit(root / "tasks" / "shapes.toml", "image_size = 32", f"image_size = {SIDE}")
    edit(root / "bench.toml", "images_per_class = 2", f"images_per_class = {PER_CLASS}")
    run(root, results)
    (item,) = [item for item in read_results(results) if item.record.method == "noise"]
    place = Place(item.record.task, "noise", item.record.images_id)
    store = Store(results)
    images = store.images_folder(place) / "augment" / "images.parquet"
    groups = pq.ParquetFile(images).metadata
    assert groups.num_rows == item.record.images_accepted == 3 * PER_CLASS
    assert max(groups.row_group(i).num_rows for i in range(groups.num_row_groups)) <= 1000
    assert item.record.status == "ok" and item.record.n_test == 18

    kill_while_reading(results, place)
    made = store.read_augmented(place, decode)
    assert made is not None and made.pixels.shape == (3 * PER_CLASS, SIDE, SIDE, 3)
    assert not list(results.rglob("*.damaged"))
    written = images.stat().st_mtime_ns
    run(root, results)
    assert images.stat().st_mtime_ns == written, "a finished set of images was made again"


def run(root: Path, results: Path) -> None:
    command = [sys.executable, "-m", "benchmark.cli", "run", "-m", "noise", "-t", "shapes-1shot"]
    command += ["--splits", "0,", "--classifier", "linear-probe", "--jobs", "1", "--quiet"]
    done = subprocess.run(
        [*command, "--results", str(results)],
        env=os.environ | {"BENCH_ROOT": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def kill_while_reading(results: Path, place: Place) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", READER, str(results), *place], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "reading\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()

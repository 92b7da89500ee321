"""Make the pocket's corpus and held-out sets from their public sources.

Made:  ``<out>/corpus/train.parquet`` and ``<out>/heldout/{openmoji,emojione-v1,
       fashion-mnist-train,fashion-mnist-test}.parquet``, 32x32 RGB.
From:  the npm packages and Debian packages named in ``_sources.py``, fetched with ``npm pack`` and
       ``apt-get download`` into ``<work>`` (what lies there already is not fetched again).
Order: **make_corpus**, make_tokenizer, train_clip, train_vae, train_unet, ship_unet.

Rendering needs ``resvg_py`` (0.5.0 for these files) and takes some minutes on two cores.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterable
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from _corpus import FASHION_CLASSES, POCKET
from _sources import (
    DEBIAN_PACKAGES,
    EMOJIBASE_PACKAGE,
    HELDOUT_SOURCES,
    ICON_PACKAGES,
    LICENSES,
    Drawing,
    clip_art_drawings,
    encode,
    enlarge_fashion,
    icon_drawings,
    read_fashion_mnist,
    read_subgroups,
    render,
    short_flag_name,
)

CORPUS_FASHION = 12_000
TEST_FASHION = 3_000
SHOTS_PER_CLASS = 200

CORPUS_COLUMNS = ["id", "image", "caption", "source", "license"]
DESIGN_COLUMNS = ["id", "image", "caption", "subgroup", "source", "license"]
FASHION_COLUMNS = ["id", "image", "label", "class_name", "source", "license"]


def fetch(work: Path) -> None:
    """Fetch and unpack every package that `work` does not hold yet."""
    work.mkdir(parents=True, exist_ok=True)
    for name, package in {**ICON_PACKAGES, "emojibase-data": EMOJIBASE_PACKAGE}.items():
        if not (work / name).exists():
            command = ["npm", "pack", "--silent", package]
            packed = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)
            with tarfile.open(work / packed.stdout.split()[-1]) as tar:
                tar.extractall(work / f"{name}.unpacked", filter="data")
            (work / f"{name}.unpacked" / "package").rename(work / name)
    for name in DEBIAN_PACKAGES:
        if not (work / name).exists():
            subprocess.run(["apt-get", "download", name], cwd=work, check=True)
            (file,) = work.glob(f"{name}_*.deb")
            subprocess.run(["dpkg-deb", "-x", file.name, name], cwd=work, check=True)


def read_drawings(work: Path) -> list[Drawing]:
    """Every icon, set by set in alphabetical order, then the clip art."""
    drawings: list[Drawing] = []
    for source in sorted(ICON_PACKAGES):
        drawings += icon_drawings(source, json.loads((work / source / "icons.json").read_text()))
    return drawings + list(clip_art_drawings(work / "openclipart-svg/usr/share/openclipart/svg"))


def row(identity: str, source: str, image: bytes, **columns: Any) -> dict[str, Any]:
    """One parquet row, its image in the struct that `datasets` reads as an Image feature."""
    facts = {"id": identity, "source": source, "license": LICENSES[source]}
    return facts | {"image": {"bytes": image, "path": None}} | columns


def draw(drawing: Drawing) -> dict[str, Any] | None:
    """The row of a drawing; None if nothing is to be seen in it."""
    image = render(drawing.svg)
    if image is None:
        return None
    return row(drawing.id, drawing.source, encode(image), caption=drawing.caption)


def fashion_rows(
    pixels: np.ndarray, labels: np.ndarray, split: str, numbers: Iterable[int]
) -> pd.DataFrame:
    """Rows of the numbered Fashion-MNIST images, captioned with their class name."""
    rows = []
    for i in numbers:
        name = FASHION_CLASSES[labels[i]]
        image = encode(enlarge_fashion(pixels[i]))
        rows.append(
            row(
                f"fashion-mnist/{split}-{i}",
                "fashion-mnist",
                image,
                caption=name,
                class_name=name,
                label=int(labels[i]),
            )
        )
    return pd.DataFrame(rows)


def choose_shots(
    labels: np.ndarray, taken: Iterable[int], per_class: int, rng: np.random.Generator
) -> list[int]:
    """Numbers of `per_class` images of each class in turn, none of them `taken`."""
    free = np.setdiff1d(np.arange(len(labels)), np.fromiter(taken, int))
    return [
        int(i)
        for label in range(len(FASHION_CLASSES))
        for i in rng.permutation(free[labels[free] == label])[:per_class]
    ]


def fashion_splits(folder: Path) -> dict[str, pd.DataFrame]:
    """Corpus, shots (from train images that the corpus lacks) and test rows of Fashion-MNIST."""
    train, train_labels = read_fashion_mnist(folder, "train")
    test, test_labels = read_fashion_mnist(folder, "t10k")
    rng = np.random.default_rng(0)
    in_corpus = rng.permutation(len(train))[:CORPUS_FASHION]
    in_test = rng.permutation(len(test))[:TEST_FASHION]
    shots = choose_shots(train_labels, in_corpus, SHOTS_PER_CLASS, np.random.default_rng(0))
    return {
        "corpus": fashion_rows(train, train_labels, "train", in_corpus),
        "shots": fashion_rows(train, train_labels, "train", shots),
        "test": fashion_rows(test, test_labels, "t10k", in_test),
    }


def write(frame: pd.DataFrame, columns: list[str], path: Path, row_group_size: int) -> None:
    """Write those columns as parquet and print how many rows there are of each source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame[columns].to_parquet(path, index=False, row_group_size=row_group_size)
    print(path, frame.groupby("source").size().to_dict(), flush=True)


def main(
    work: Annotated[Path, typer.Option(help="Folder for the fetched packages.")],
    out: Annotated[Path, typer.Option(help="Where corpus/ and heldout/ are written.")] = POCKET,
    processes: Annotated[int, typer.Option(help="Drawing processes.")] = 2,
) -> None:
    """Fetch the sources, draw them, and write the parquet files."""
    fetch(work)
    drawings = read_drawings(work)
    with Pool(processes) as pool:
        rendered = pd.DataFrame(r for r in pool.imap(draw, drawings, chunksize=32) if r is not None)
    fashion = fashion_splits(work / "dataset-fashion-mnist/usr/share/datasets/fashion-mnist")

    corpus = pd.concat([rendered[~rendered.source.isin(HELDOUT_SOURCES)], fashion["corpus"]])
    write(corpus, CORPUS_COLUMNS, out / "corpus/train.parquet", 2000)
    subgroups = read_subgroups(work)
    names = rendered.id.str.split("/", n=1).str[1]
    rendered["subgroup"] = names.map(lambda name: subgroups.get(short_flag_name(name)))
    for source in HELDOUT_SOURCES:
        design = rendered[rendered.source == source]
        write(design, DESIGN_COLUMNS, out / f"heldout/{source}.parquet", 1000)
    for split, name in (("shots", "train"), ("test", "test")):
        file = out / f"heldout/fashion-mnist-{name}.parquet"
        write(fashion[split], FASHION_COLUMNS, file, 1_000_000)


if __name__ == "__main__":
    typer.run(main)

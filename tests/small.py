"""The pocket upstream with every 40th image of its corpus: real models, features in seconds."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmark.contract import Shots
from benchmark.data.split import load_split
from benchmark.home import cache_folder
from benchmark.protocol import BudgetSpec, UpstreamSpec
from benchmark.registry import load_registry

EVERY = 40
torch.set_num_threads(1)  # the models are small: on a busy machine more threads only wait


def small_spec(root: Path, **changes: dict) -> UpstreamSpec:
    """The specification; ``changes`` replace keys of corpus, encoder or generator. The corpus
    lies in the cache folder under one path, so that its features are computed once."""
    spec = {
        "title": "A fortieth of the pocket",
        "corpus": {"data_files": [str(_corpus(root))], "licence": "license"},
        "encoder": {"model": "local-dir:pocket/clip", "batch_size": 64},
        "generator": {"model": "pocket/stable-diffusion", "size": 32, "batch_size": 4},
    }
    return UpstreamSpec.model_validate(
        {
            key: value | changes.get(key, {}) if key != "title" else value
            for key, value in spec.items()
        }
    )


def budget(images_per_class: int = 2, **caps: float) -> BudgetSpec:
    """Caps that a small trial does not reach, unless they are given."""
    return BudgetSpec(
        **{"images_per_class": images_per_class, "tflops": 100, "nfe": 10**6, "seconds": 600} | caps
    )


def fashion(root: Path, seed: int = 0, with_reserve: bool = False) -> Shots:
    """One shot of each of ten classes of clothes."""
    return load_split(load_registry(root).task("fashion-1shot"), seed, root).as_shots(with_reserve)


@cache
def _corpus(root: Path) -> Path:
    path = cache_folder() / "tests" / f"every-{EVERY}.parquet"
    table = pq.read_table(root / "pocket" / "corpus" / "train.parquet")
    buffer = io.BytesIO()
    pq.write_table(table.take(np.arange(0, table.num_rows, EVERY)), buffer)
    if not path.is_file() or path.read_bytes() != buffer.getvalue():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    return path


def of_classes(shots: Shots, chosen: range) -> Shots:
    """The shots, and their reserve, of a range of classes alone: fewer to compute."""

    def cut(part: Shots) -> Shots:
        rows = np.flatnonzero(np.isin(part.labels, chosen))
        return replace(
            part,
            images=part.images[rows],
            labels=part.labels[rows] - chosen.start,
            ids=tuple(part.ids[row] for row in rows),
            classes=part.classes[chosen.start : chosen.stop],
        )

    reserve = cut(shots.reserve) if shots.reserve is not None else None
    return replace(cut(shots), reserve=reserve)


def damage(path: Path, keep: float = 0.5) -> None:
    """Truncates a file, or a link's copy of it."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: int(len(data) * keep)])


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)

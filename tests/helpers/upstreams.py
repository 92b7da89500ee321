"""The pocket upstream with every 40th image of its corpus: real models, features in seconds."""

from __future__ import annotations

import hashlib
import io
import os
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmark.home import cache_folder
from benchmark.protocol import UpstreamSpec
from benchmark.upstream import Upstream

EVERY = 40


def small_spec(root: Path, **changes: dict) -> UpstreamSpec:
    """The specification; ``changes`` replace keys of corpus, encoder or generator. The corpus
    lies in the cache folder under one path, so that its features are computed once."""
    spec = {
        "title": "A fortieth of the pocket",
        "corpus": {"data_files": [str(_corpus(root))], "licence": "license"},
        "encoder": {"model": "local-dir:pocket/clip", "batch_size": 64},
        "generator": {
            "model": "pocket/stable-diffusion",
            "size": 32,
            "batch_size": 4,
            "sampling": {"steps": 12, "guidance_scale": 3.0},
        },
    }
    return UpstreamSpec.model_validate(
        {
            key: value | changes.get(key, {}) if key != "title" else value
            for key, value in spec.items()
        }
    )


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


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random vectors of length 1."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def weight_hashes(upstream: Upstream) -> dict[str, str]:
    """A hash per module of the upstream: its weights, their names, and its mode."""
    modules = {"encoder": upstream.encoder.model} | {
        name: part
        for name, part in upstream.generator.pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    hashes = {}
    for name, module in modules.items():
        digest = hashlib.sha256(str(module.training).encode())
        for key, value in module.state_dict().items():
            digest.update(key.encode() + value.float().numpy().tobytes())
        assert not any(weight.requires_grad for weight in module.parameters()), name
        hashes[name] = digest.hexdigest()
    return hashes

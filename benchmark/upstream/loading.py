"""Loading models: which device and precision, and errors that name the damaged file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmark.errors import BenchError, ConfigError, DataError


def pick_device(wanted: str = "auto") -> str:
    """``auto`` is the first CUDA device, else Apple's GPU, else the CPU. Anything else is a
    device as torch names it: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        ConfigError: torch does not know it, or this machine does not have it.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ConfigError(
            "device", [f"{wanted!r}: expected auto, cpu, cuda, cuda:N, mps"]
        ) from None
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError("device", [f"{wanted!r}: torch sees {gpus} CUDA devices"])
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device", [f"{wanted!r}: torch sees no Apple GPU"])
    return str(device)


def half_precision(device: str) -> torch.dtype:
    """What models compute in on CUDA: bfloat16, or float16 on GPUs that lack it. Elsewhere
    float32: on CPUs half precision is no faster for small models."""
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@contextmanager
def loading(what: str, folder: Path | None) -> Iterator[None]:
    """Whatever a library raises while it loads a model becomes a ``DataError``. The files of a
    local folder are looked at first, so that a truncated one is named.

    Args:
        folder: where the model lies; None for one that a library fetches itself.

    Raises:
        DataError: naming the model, and the file where one is at fault.
    """
    if folder is not None:
        check_folder(what, folder)
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # the loaders of three libraries raise many types
        where = f"{folder}: " if folder is not None else ""
        raise DataError(f"{what}: {where}{type(error).__name__}: {error}") from error


def check_folder(what: str, folder: Path) -> None:
    """Every JSON and safetensors file of a folder is whole (of weights, the header and the
    length are read, not the content).

    Raises:
        DataError: no such folder, or naming the first damaged file.
    """
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise DataError(f"{what}: no such folder: {folder}")
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
        except (ValueError, OSError, SafetensorError) as error:
            raise DataError(f"{what}: {path}: damaged or truncated: {error}") from None

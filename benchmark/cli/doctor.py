"""``bench doctor``: will it run here, and if not, what to do."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Literal

import typer

from benchmark.cli.arguments import Json
from benchmark.errors import BenchError
from benchmark.home import cache_folder, find_root, is_packaged, results_folder
from benchmark.protocol import load_protocol
from benchmark.records.environment import package_versions
from benchmark.registry import load_registry
from benchmark.upstream.hashes import upstream_hash

_MIN_FREE_GB = 1.0


@dataclass(frozen=True)
class Check:
    """One line of the report; ``wrong`` means that trials cannot run."""

    subject: str
    status: Literal["ok", "note", "wrong"]
    finding: str


def doctor(as_json: Json = False) -> None:
    """Check packages, devices, faiss, entries, disk; exit code 1 if trials cannot run."""
    checks = examine()
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks], indent=1))
    else:
        report(checks)
    if any(check.status == "wrong" for check in checks):
        raise typer.Exit(1)


def examine() -> list[Check]:
    """Every check, in order; one that raises is reported as wrong and the rest go on."""
    checks: list[Check] = []
    for part in (_root, _entries, _upstreams, _packages, _devices, _faiss, _folders, _browser):
        checks += _guarded(part)
    return checks


def report(checks: list[Check]) -> None:
    """Prints the checks as a table."""
    from rich.table import Table
    from rich.text import Text

    from benchmark.cli.console import out

    marks = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "wrong": "[red]✗[/]"}
    table = Table(box=None, show_header=False)
    for check in checks:
        table.add_row(marks[check.status], check.subject, Text(check.finding))
    out.print(table)


def _guarded(part: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(part())
    except BenchError as error:
        return [Check(part.__name__.strip("_"), "wrong", str(error))]
    except Exception as error:  # the doctor must finish its round
        return [Check(part.__name__.strip("_"), "wrong", f"{type(error).__name__}: {error}")]


def _root() -> Iterator[Check]:
    root = find_root()
    kind = "packaged copy" if is_packaged(root) else "folder"
    yield Check("root", "ok", f"{root} ({kind})")


def _entries() -> Iterator[Check]:
    protocol = load_protocol(find_root())
    registry = load_registry(find_root(), protocol)
    found = f"{len(registry.tasks)} tasks, {len(registry.methods)} methods"
    yield Check("entries", "ok", found)
    for entry in registry.broken:
        yield Check("entries", "wrong", f"{entry.kind} {entry.name} is broken: {entry.reason}")


def _upstreams() -> Iterator[Check]:
    root = find_root()
    for name, spec in load_protocol(root).upstream.items():
        yield Check("upstream", "ok", f"{name}: {upstream_hash(spec, root)[:12]}, files readable")


def _packages() -> Iterator[Check]:
    versions = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    yield Check("packages", "ok", versions)
    for module in ("torch", "torchvision", "timm", "open_clip", "diffusers", "datasets"):
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken binary raises nearly anything
            yield Check("packages", "wrong", f"{module} does not import: {error}")


def _devices() -> Iterator[Check]:
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    yield Check("cpu", "ok", f"{os.cpu_count()} cores, {memory:.0f} GiB of memory")
    if not torch.cuda.is_available():
        yield Check("gpu", "note", "no CUDA device; trials run on the CPU")
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        found = f"cuda:{number} {device.name}, {device.total_memory / 2**30:.0f} GiB"
        yield Check("gpu", "ok", found)


def _faiss() -> Iterator[Check]:
    owners = packages_distributions().get("faiss", [])
    if not owners:
        yield Check(
            "faiss",
            "note",
            "not installed: exact search in torch is used; "
            "pip install 'augbench[cpu]' or 'augbench[gpu]'",
        )
    elif len(set(owners)) > 1:
        yield Check(
            "faiss",
            "wrong",
            f"{' and '.join(sorted(set(owners)))} overwrite each other: "
            "uninstall all of them, then install one",
        )
    else:
        import faiss
        import torch  # noqa: F401  before faiss: two CUDA versions in one process

        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        yield Check("faiss", "ok", f"{owners[0]} {faiss.__version__}, {gpus} GPUs")


def _folders() -> Iterator[Check]:
    for name, folder in (("cache", cache_folder()), ("results", results_folder(find_root()))):
        place = _existing(folder)
        free = shutil.disk_usage(place).free / 2**30
        writable = os.access(place, os.W_OK)
        status: Literal["ok", "wrong"] = "ok" if writable and free > _MIN_FREE_GB else "wrong"
        finding = f"{folder}: {free:.0f} GiB free" + ("" if writable else ", not writable")
        yield Check(name, status, finding)


def _browser() -> Iterator[Check]:
    found = [
        name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)
    ]
    text = found[0] if found else "none found; only the page's own tests need one"
    yield Check("browser", "ok" if found else "note", text)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())

"""What several commands take: names separated by commas, seeds, devices, folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from benchmark.home import find_root, results_folder
from benchmark.protocol import Protocol, load_protocol
from benchmark.registry import Registry, load_registry


def _device(device: str) -> str:
    """Refuses what torch cannot mean, before anything is loaded; whether this machine has it, the
    workers see."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise typer.BadParameter(f"{device!r}: give auto, cpu, cuda, cuda:N such as cuda:0, or mps")
    return device


COSTS = Path("docs/costs.json")  # what methods were counted to cost, in the root
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Device = Annotated[
    str, typer.Option(help="One of auto, cpu, cuda, cuda:N and mps.", callback=_device)
]
Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Results folders and submissions (default: results/ in the root; without one, "
        "submissions/).",
        show_default=False,
    ),
]


def load_entries() -> tuple[Protocol, Registry]:
    """``bench.toml`` and the entries of the root; raises ``ConfigError``."""
    root = find_root()
    protocol = load_protocol(root)
    return protocol, load_registry(root, protocol)


def parse_seeds(option: str, text: str) -> list[int]:
    """``"3"`` -> [0, 1, 2]; ``"0,4"`` -> [0, 4]; ``"7,"`` -> [7].

    Raises:
        typer.BadParameter: neither a count nor a list of distinct seeds; names ``option``.
    """
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part.strip()]
        else:
            seeds = list(range(int(text)))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise typer.BadParameter(
            f"{text!r}: give a count such as '5' (the seeds 0 to 4), distinct seeds such as "
            "'0,1,7', or one seed as '7,'",
            param_hint=repr(option),
        )
    return seeds


def split_names(text: str) -> list[str]:
    """Names separated by commas, but not by the commas inside ``name[a=1,b=2]``."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def chosen_folders(given: list[Path] | None, root: Path) -> list[Path]:
    """What was named, each of which must exist; else ``results/`` where it is there, else
    ``submissions/``."""
    for folder in given or ():
        need_folder(folder)
    results = results_folder(root)
    return given or [results if results.is_dir() else root / "submissions"]


def need_folder(folder: Path) -> None:
    """Raises ``typer.BadParameter`` where there is no such folder."""
    if not folder.is_dir():
        why = "it is a file" if folder.exists() else "no such folder"
        raise typer.BadParameter(
            f"{str(folder)!r}: {why}; give a folder of results, such as results, or a submission"
        )

"""The commands that make something to be read by others: ``bench site | pack | validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.root import find_root, results_folder

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Results folders and submissions [default: results/ in the root; without one, "
        "submissions/].",
        show_default=False,
    ),
]


def site(
    folders: Folders = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder [default: site/ beside results].")
    ] = None,
) -> None:
    """Build the leaderboard page from validated records; print its path."""
    from benchmark.page import build_site

    root = find_root()
    out = out or results_folder(root).parent / "site"
    typer.echo(build_site(_folders(folders, root), root, out))


def pack(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    out: Annotated[Path, typer.Argument(help="Such as submissions/<year>-<month>-<name>.")],
    images: Annotated[
        int, typer.Option(min=0, help="Images kept of each class, of the first seed.")
    ] = 6,
) -> None:
    """Pack results into a submission: a few files for a pull request; print their sizes."""
    from benchmark.submission import pack

    _need(results)
    folder = pack(results, out, images)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for name, size in sizes.items():
        typer.echo(f"{folder / name}  {size / 1e6:.2f} MB")
    typer.echo(f"{folder}  {sum(sizes.values()) / 1e6:.2f} MB in all")


def validate(folders: Folders = None) -> None:
    """Check records against their tables and the data; exit code 2 with every fault."""
    from benchmark.errors import RecordError
    from benchmark.registry import load_registry
    from benchmark.store import read_results
    from benchmark.submission import check_records

    root = find_root()
    chosen = _folders(folders, root)
    checked = check_records(read_results(*chosen), load_registry(root))
    if checked.faults:
        raise RecordError("\n".join(checked.faults))
    typer.echo(
        f"{checked.records} records in order, {checked.scored} with a score: ids, hashes, counts "
        f"and values agree with the tables; {checked.with_data} compared with the data set, "
        f"{checked.images} images with their ledgers; {checked.unpaired} without their control"
    )


COMMANDS = (site, pack, validate)


def _folders(given: list[Path] | None, root: Path) -> list[Path]:
    """What was named, each of which must exist; else what is there."""
    for folder in given or ():
        _need(folder)
    results = results_folder(root)
    return given or [results if results.is_dir() else root / "submissions"]


def _need(folder: Path) -> None:
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder}: no such folder")

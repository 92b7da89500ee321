"""``bench site``: the leaderboard, built from validated records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.arguments import Folders, chosen_folders
from benchmark.home import find_root, results_folder


def site(
    folders: Folders = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder [default: site/ beside results].")
    ] = None,
) -> None:
    """Build the leaderboard page from validated records; print the verdict and the page's path."""
    from benchmark.cli.console import err
    from benchmark.leaderboard.site import build_site

    root = find_root()
    chosen = chosen_folders(folders, root)
    _tell_sources(chosen, root)
    out = out or results_folder(root).parent / "site"
    headlines: list[str] = []
    with err.status("building the page"):
        page = build_site(chosen, root, out, tell=headlines.append)
    typer.echo("\n".join([*headlines, str(page)]))


def _tell_sources(chosen: list[Path], root: Path) -> None:
    """Which folders are read, how many records come from each, and which are not read."""
    from benchmark.records.store import read_results

    stored = read_results(*(folder for folder in chosen if folder.is_dir()))
    places = [item.folder for item in stored]
    for folder in chosen:
        mine = [place for place in places if place.is_relative_to(folder)]
        places = [place for place in places if not place.is_relative_to(folder)]
        typer.echo(f"{folder}: {len(mine)} records", err=True)
    others = [results_folder(root), root / "submissions"]
    for folder in others:
        if folder.is_dir() and folder.resolve() not in [path.resolve() for path in chosen]:
            typer.echo(f"{folder}: not read; name the folders to read several", err=True)

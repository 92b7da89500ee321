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
    """Build the leaderboard page from validated records; print its path."""
    from benchmark.leaderboard.site import build_site

    root = find_root()
    out = out or results_folder(root).parent / "site"
    typer.echo(build_site(chosen_folders(folders, root), root, out))

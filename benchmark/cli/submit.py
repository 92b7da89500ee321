"""``bench pack | validate``: results for a pull request, and their checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.arguments import Folders, chosen_folders, need_folder
from benchmark.home import find_root


def pack(
    results: Annotated[Path, typer.Argument(help="Results folder, such as results.")],
    out: Annotated[Path, typer.Argument(help="Such as submissions/2026-11-mine.")],
    images: Annotated[
        int, typer.Option(min=0, help="Images kept of each class, of the first seed.")
    ] = 6,
) -> None:
    """Pack results into a submission: a few files for a pull request; print their sizes."""
    from benchmark.submission.pack import pack

    need_folder(results)
    folder = pack(results, out, images)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for name, size in sizes.items():
        typer.echo(f"{folder / name}  {size / 1e6:.2f} MB")
    typer.echo(f"{folder}  {sum(sizes.values()) / 1e6:.2f} MB in all")


def validate(folders: Folders = None) -> None:
    """Check records against their tables and the data; exit code 2 with every fault."""
    from benchmark.cli.console import err
    from benchmark.errors import RecordError
    from benchmark.records.store import read_results
    from benchmark.registry import load_registry
    from benchmark.submission.check import check_records

    root = find_root()
    chosen = chosen_folders(folders, root)
    stored = read_results(*(folder for folder in chosen if folder.is_dir()))
    if not stored:
        names = ", ".join(map(str, chosen))
        raise RecordError(f"{names}: no record; bench run makes results, bench pack submissions")
    with err.status(f"checking {len(stored)} records"):
        checked = check_records(stored, load_registry(root))
    if checked.faults:
        raise RecordError("\n".join(checked.faults))
    typer.echo(
        f"{checked.records} records in order, {checked.scored} with a score: ids, hashes, counts "
        f"and values agree with the tables; {checked.with_data} compared with the data set, "
        f"{checked.images} images with their ledgers; {checked.unpaired} without their control"
    )

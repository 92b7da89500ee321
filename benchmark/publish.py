"""The commands that make something for others to read: ``bench site | pack | validate |
catalogue | spend | contact``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.home import find_root, results_folder

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Results folders and submissions [default: results/ in the root; without one, "
        "submissions/].",
        show_default=False,
    ),
]

Out = Annotated[Path | None, typer.Option(help="File [default: docs/methods.md].")]
SPEND = Path("docs/spend.json")


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
    from benchmark.records.store import read_results
    from benchmark.registry import load_registry
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


def catalogue(out: Out = None) -> None:
    """Write the list of methods, their parameters and what they spend; print its path."""
    from benchmark.files import write_file
    from benchmark.leaderboard.catalogue import catalogue
    from benchmark.records.cost import read_costs
    from benchmark.registry import load_registry

    root = find_root()
    out = out or root / "docs" / "methods.md"
    text = catalogue(load_registry(root), read_costs(root / SPEND))
    write_file(out, text.encode())
    typer.echo(out)


def spend(
    methods: Annotated[str, typer.Option(help="Names separated by commas, or 'all'.")] = "all",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
) -> None:
    """Count what methods spend, in the cell that docs/spend.json names; the same command again
    finishes what is missing."""
    from benchmark.protocol import load_protocol
    from benchmark.records.cost import MethodCost, read_costs
    from benchmark.registry import load_registry
    from benchmark.spend import measure
    from benchmark.upstream import open_upstream

    root = find_root()
    protocol, registry = load_protocol(root), load_registry(root)
    names = [name.strip() for name in methods.split(",")] if methods != "all" else registry.methods
    chosen = [registry.method(name) for name in names]
    cell = read_costs(root / SPEND)
    spec = protocol.pick("upstream", cell.upstream)
    upstream = open_upstream(cell.upstream, spec, root, device)

    def tell(name: str, spent: MethodCost) -> None:
        tflops = sum(phase.tflops for phase in spent.phases.values())
        nfe = sum(phase.nfe for phase in spent.phases.values())
        why = f": {spent.reason}" if spent.reason else ""
        typer.echo(f"{name}: {tflops:.4g} TFLOPs, {nfe:,} NFE, {spent.status}{why}")

    measure(root / SPEND, cell, chosen, registry, protocol, upstream, tell)


def contact(
    folders: Folders = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder [default: docs/contact in the root].")
    ] = None,
    overview: Annotated[
        Path | None, typer.Option(help="File [default: docs/img/methods.png in the root].")
    ] = None,
) -> None:
    """Draw a sheet of every method's images, and one picture of all; print the index's path."""
    from benchmark.leaderboard.sheets import write_contact
    from benchmark.protocol import load_protocol
    from benchmark.records.store import read_results
    from benchmark.registry import load_registry

    root = find_root()
    docs = root / "docs"
    out, overview = out or docs / "contact", overview or docs / "img" / "methods.png"
    stored = read_results(*_folders(folders, root))
    budget = load_protocol(root).defaults.budget
    for note in write_contact(stored, load_registry(root), budget, out, overview):
        typer.echo(f"not shown: {note}", err=True)
    typer.echo(out / "README.md")


COMMANDS = (site, pack, validate, catalogue, spend, contact)


def _folders(given: list[Path] | None, root: Path) -> list[Path]:
    """What was named, each of which must exist; else what is there."""
    for folder in given or ():
        _need(folder)
    results = results_folder(root)
    return given or [results if results.is_dir() else root / "submissions"]


def _need(folder: Path) -> None:
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder}: no such folder")

"""``bench docs methods | costs | sheets``: pages that are made from entries and records, for those
who maintain a checkout. Inside an installed package they are refused: there is nothing to write
to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.arguments import COSTS, Device, Folders, chosen_folders, split_names
from benchmark.errors import ConfigError
from benchmark.home import find_root, is_packaged

app = typer.Typer(
    name="docs",
    help="Write the pages of a checkout, for its maintainers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
Out = Annotated[Path | None, typer.Option(help="File [default: docs/methods.md in the root].")]


@app.command()
def methods(out: Out = None) -> None:
    """Write the list of methods, their parameters and what they spend; print its path."""
    from benchmark.files import write_file
    from benchmark.leaderboard.catalogue import catalogue
    from benchmark.records.cost import read_costs
    from benchmark.registry import load_registry

    root = _checkout()
    out = out or root / "docs" / "methods.md"
    text = catalogue(load_registry(root), read_costs(root / COSTS))
    write_file(out, text.encode())
    typer.echo(out)


@app.command()
def costs(
    methods: Annotated[str, typer.Option(help="Names separated by commas, or 'all'.")] = "all",
    device: Device = "cpu",
) -> None:
    """Count what methods spend, in the cell that docs/costs.json names; the same command again
    finishes what is missing."""
    from benchmark.protocol import load_protocol
    from benchmark.records.cost import MethodCost, read_costs
    from benchmark.registry import load_registry
    from benchmark.run.cost import measure
    from benchmark.upstream import open_upstream

    root = _checkout()
    protocol, registry = load_protocol(root), load_registry(root)
    names = split_names(methods) if methods != "all" else list(registry.methods)
    chosen = [registry.method(name) for name in names]
    cell = read_costs(root / COSTS)
    spec = protocol.upstream_named(cell.upstream)
    upstream = open_upstream(cell.upstream, spec, root, device)

    def tell(name: str, spent: MethodCost) -> None:
        tflops = sum(phase.tflops for phase in spent.phases.values())
        nfe = sum(phase.nfe for phase in spent.phases.values())
        why = f": {spent.reason}" if spent.reason else ""
        typer.echo(f"{name}: {tflops:.4g} TFLOPs, {nfe:,} NFE, {spent.status}{why}")

    measure(root / COSTS, cell, chosen, registry, protocol, upstream, tell)


@app.command()
def sheets(
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

    root = _checkout()
    docs = root / "docs"
    out, overview = out or docs / "contact", overview or docs / "img" / "methods.png"
    stored = read_results(*chosen_folders(folders, root))
    budget = load_protocol(root).defaults.budget
    for note in write_contact(stored, load_registry(root), budget, out, overview):
        typer.echo(f"not shown: {note}", err=True)
    typer.echo(out / "README.md")


def _checkout() -> Path:
    """The root, where it is a folder of the user's own; raises ``ConfigError``."""
    root = find_root()
    if is_packaged(root):
        raise ConfigError(
            "bench docs",
            [f"{root} is the read-only copy of an installed package: run it in a checkout"],
        )
    return root

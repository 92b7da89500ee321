"""``bench new method``: a file to start from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer

from benchmark.errors import ConfigError
from benchmark.files import write_file
from benchmark.home import find_root, is_packaged

_TEMPLATE = Path(__file__).with_name("method_template.py")

app = typer.Typer(
    name="new",
    help="Write a file to start from.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.callback()
def _top() -> None:
    """Keeps ``method`` a command of its own."""


@app.command()
def method(
    name: Annotated[str, typer.Argument(help="Small letters, digits and _, a letter first.")],
) -> None:
    """Write methods/NAME.py, which runs as it is; say what to edit and what to run next."""
    root = find_root()
    if is_packaged(root):
        raise ConfigError(
            "bench new",
            [
                f"{root} is the read-only copy of an installed package; make a root of your own: "
                f"cp -r {root} my-bench && cd my-bench"
            ],
        )
    _check_name(name)
    path = root / "methods" / f"{name}.py"
    if path.exists():
        raise ConfigError(
            path, [f"is there already: edit it (bench check {name}), or choose another name"]
        )
    write_file(path, _TEMPLATE.read_bytes())
    typer.echo(path)
    typer.echo(
        "edit its three parts from the top down: FACTS, Params, augment; after each step run\n"
        f"  bench check {name}\n"
        "and when all is well\n"
        f"  bench run --method {name} --task TASK    (bench list shows the tasks)"
    )


def _check_name(name: str) -> None:
    """A file name that can be imported, and is no word of the command line."""
    near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789") or "mine"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        why = "a method's name has small letters, digits and _, a letter first"
    elif keyword.iskeyword(name) or name in ("all", "protocol"):
        why, near = "the name has a meaning of its own", f"{name}_method"
    else:
        return
    raise typer.BadParameter(f"{name!r}: {why}; such as {near!r}", param_hint="'NAME'")

"""The command line: ``bench list | show | run | sweep | new | check | site | pack | validate |
docs | doctor``.

Results go to stdout, progress to stderr. Exit codes: 0 done, 1 a trial failed, 2 wrong usage or
declaration, 130 interrupted. Heavy packages are imported inside the commands that need them.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from benchmark import __version__
from benchmark.cli import check, docs, doctor, entries, new, run, site, submit
from benchmark.errors import BenchError

app = typer.Typer(
    name="bench",
    help="Generate or retrieve? The contest of data augmentation for few-shot classification.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",  # "rich" would read what stands in brackets as markup, and drop it
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(entries.list_)
app.command()(entries.show)
app.command()(run.run)
app.command()(run.sweep)
app.add_typer(new.app)
app.command()(check.check)
app.command()(site.site)
app.command()(submit.pack)
app.command()(submit.validate)
app.command()(doctor.doctor)
app.add_typer(docs.app)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"augbench {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script: one message and an exit code instead of a traceback, where it
    is an error the user can fix."""
    try:
        app(standalone_mode=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

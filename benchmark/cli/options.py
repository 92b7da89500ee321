"""The options that ``run`` and ``sweep`` share, stated once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from benchmark.cli import names
from benchmark.cli.arguments import Device, Json, parse_seeds, split_names

if TYPE_CHECKING:
    from benchmark.run.plan import Conditions


@dataclass(frozen=True)
class Options:
    """As they were typed; None: as the task's card says, else as ``bench.toml`` does."""

    budget: Annotated[
        str | None,
        typer.Option(
            help="Budget tier of bench.toml [default: the task's].", autocompletion=names.budgets
        ),
    ] = None
    classifier: Annotated[
        str | None,
        typer.Option(
            help="Classifiers of bench.toml, separated by commas [default: the task's].",
            autocompletion=names.classifiers,
        ),
    ] = None
    upstream: Annotated[
        str | None,
        typer.Option(
            help="Upstream of bench.toml [default: the task's].", autocompletion=names.upstreams
        ),
    ] = None
    splits: Annotated[
        str | None,
        typer.Option(
            help="Seeds of the few-shot split: '5' for 0 to 4, or a list such as '0,1,7' "
            "[default: those of bench.toml]."
        ),
    ] = None
    draws: Annotated[
        str | None, typer.Option(help="Seeds of the images, written as for --splits.")
    ] = None
    trainings: Annotated[
        str | None, typer.Option(help="Seeds of the classifier, written as for --splits.")
    ] = None
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Worker processes [default: one per GPU, or core].")
    ] = None
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of each worker; part of what makes runs equal.")
    ] = 1
    device: Device = "auto"
    results: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Results folder [default: results/ in the root]."),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run and what it would spend.")
    ] = False
    as_json: Json = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False

    def conditions(self) -> Conditions:
        """What a contest is to be held under; raises ``typer.BadParameter``."""
        from benchmark.run.plan import Conditions

        seeds = {
            name: parse_seeds(f"--{name}", text)
            for name in ("splits", "draws", "trainings")
            if (text := getattr(self, name)) is not None
        }
        classifiers = split_names(self.classifier) if self.classifier else None
        return Conditions(self.upstream, self.budget, classifiers, **seeds)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command(..., options)`` as typer is to read it: its own parameters, then a parameter for
    every field of ``Options``."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    hints = get_type_hints(Options, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(Options)
    ]

    def joined(**values: Any) -> None:
        options = Options(**{field.name: values.pop(field.name) for field in fields(Options)})
        command(**values, options=options)

    parameters = [part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in own] + shared
    joined.__name__, joined.__doc__ = command.__name__, command.__doc__
    joined.__annotations__ = {part.name: part.annotation for part in parameters}
    joined.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return joined

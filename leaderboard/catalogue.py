"""The list of methods as a page of Markdown, made from their own declarations.

A test compares the committed page with what is made here, so it cannot say what is not so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap

from benchmark.leaderboard.families import FAMILIES

from benchmark.errors import ConfigError
from benchmark.records.cost import CostTable, MethodCost
from benchmark.registry import Method, Registry

_NONE = "–"
_REASON = 100  # characters of a failure's reason


def catalogue(registry: Registry, spend: CostTable) -> str:
    """The page: per family what each method is and spends, then every parameter.

    Args:
        spend: a method that is not in it, or has changed since, is shown as not measured.

    Raises:
        ConfigError: a method is broken; all of them at once.
        UnknownNameError: the task of ``spend`` is not registered.
    """
    broken = [entry for entry in registry.broken if entry.kind == "method"]
    if broken:
        raise ConfigError("methods", [f"{entry.name}: {entry.reason}" for entry in broken])
    families = [
        family
        for family in FAMILIES
        if any(method.facts.family == family for method in registry.methods.values())
    ]
    lines = [*_head(registry, spend, len(families))]
    for family in families:
        mine = [method for method in registry.methods.values() if method.facts.family == family]
        lines += ["", f"## {family}", "", *_overview(mine, spend)]
        if any(method.params.model_fields for method in mine):
            lines += ["", *_parameters(mine)]
    return "\n".join(lines) + "\n"


def _head(registry: Registry, spend: CostTable, families: int) -> Iterator[str]:
    classes = len(registry.task(spend.task).classes)
    made = (
        f"{len(registry.methods)} methods of {families} families. This page is made by `make docs` "
        "from the facts that the files in [`methods/`](../methods) state, and from "
        "[`costs.json`](costs.json), which `bench docs costs` counts: change those, not this."
    )
    units = (
        "**TFLOPs** and **NFE** (evaluations of the denoiser) are those of one trial on "
        f"`{spend.task}` ({classes} classes) with budget `{spend.budget}`, upstream "
        f"`{spend.upstream}` and seed {spend.seed}, in brackets by phase. They are counted, not "
        "timed: the same on every machine. A default **in bold** is not the published one."
    )
    yield from ("# Methods", "", *wrap(made, 100), "", *wrap(units, 100))


def _overview(methods: Iterable[Method], spend: CostTable) -> Iterator[str]:
    yield from _table_head("method", "paper", "trains", "query", "filters", "TFLOPs", "NFE")
    for method in methods:
        facts = method.facts
        link = f"[`{method.name}`](../methods/{method.path.name})"
        citation = facts.citation or facts.paper or _NONE
        spent = spend.methods.get(method.name)
        yield _row(
            f"{link} {_text(facts.title)}",
            f"[{_text(citation)}]({facts.paper})" if facts.paper else _text(citation),
            *(_NONE if fact == "none" else fact for fact in (facts.adaptation, facts.query)),
            ", ".join(facts.filters) or _NONE,
            *_spend(spent if spent and spent.holds_for(method) else None),
        )


def _spend(spent: MethodCost | None) -> tuple[str, str]:
    """The cells for TFLOPs and NFE."""
    if spent is None:
        return "not measured", ""
    if spent.status in ("failed", "skipped"):
        reason = _text(spent.reason)
        cut = reason[:_REASON].rstrip() + "…" if len(reason) > _REASON else reason
        return f"{spent.status}: {cut}", ""
    tflops = {name: phase.tflops for name, phase in spent.phases.items() if phase.tflops}
    parts = ", ".join(f"{name} {_quantity(value)}" for name, value in tflops.items())
    total = _quantity(sum(tflops.values())) + (f" ({parts})" if parts else "")
    stopped = f"; stopped by its cap of {spent.cap}" if spent.cap not in ("", "images") else ""
    return total + stopped, f"{sum(phase.nfe for phase in spent.phases.values()):,}"


def _parameters(methods: Iterable[Method]) -> Iterator[str]:
    yield from _table_head("method", "parameter", "here", "published", "what it is")
    for method in methods:
        for name, entry in method.params.model_fields.items():
            default = entry.get_default(call_default_factory=True)
            extra = entry.json_schema_extra if isinstance(entry.json_schema_extra, dict) else {}
            published = extra.get("published", default)
            here = f"`{_value(default)}`"
            yield _row(
                f"`{method.name}`",
                f"`{name}`",
                here if published == default else f"**{here}**",
                f"`{_value(published)}`",
                _text(entry.description or ""),
            )


def _table_head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row(*["---"] * len(names))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """One line that breaks no table."""
    return " ".join(text.split()).replace("|", "\\|")


def _value(value: object) -> str:
    """A default as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return ", ".join(_value(part) for part in value) or "none"
    return "none" if value is None else _text(str(value)) or "empty"


def _quantity(value: float) -> str:
    """Three digits; 0 where nothing was spent."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"

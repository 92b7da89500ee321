"""Names that the shell completes, from the entries of the root. Nothing is offered where the root
does not load: the command itself then says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from benchmark.errors import BenchError
from benchmark.home import find_root
from benchmark.protocol import load_protocol
from benchmark.registry import load_registry


def methods(incomplete: str) -> list[str]:
    """Of one option that takes a method, or several separated by commas; so do the next ones."""
    return _completed(incomplete, lambda root: load_registry(root).methods)


def tasks(incomplete: str) -> list[str]:
    """See ``methods``."""
    return _completed(incomplete, lambda root: load_registry(root).tasks)


def budgets(incomplete: str) -> list[str]:
    """See ``methods``."""
    return _completed(incomplete, lambda root: load_protocol(root).budget)


def classifiers(incomplete: str) -> list[str]:
    """See ``methods``."""
    return _completed(incomplete, lambda root: load_protocol(root).classifier)


def upstreams(incomplete: str) -> list[str]:
    """See ``methods``."""
    return _completed(incomplete, lambda root: load_protocol(root).upstream)


def _completed(incomplete: str, known: Callable[[Path], Iterable[str]]) -> list[str]:
    """The last name of a list is the one to complete."""
    before, comma, last = incomplete.rpartition(",")
    try:
        return [before + comma + name for name in known(find_root()) if name.startswith(last)]
    except BenchError:
        return []

"""Entries found by folder: every ``tasks/*.toml`` and ``methods/*.py`` of the root.

Files that start with an underscore are helpers. An entry that does not load is kept as
``Broken`` with its reason: listed as such, and an error where it is used.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from benchmark.contract import Facts, Images, Params, Provenance
from benchmark.data.card import Task, load_tasks
from benchmark.errors import BenchError, ConfigError, MethodError, UnknownNameError
from benchmark.schema import declare, faults
from benchmark.source import source_hash

if TYPE_CHECKING:
    from benchmark.protocol import Protocol

Augment = Callable[..., Iterator[Images]]
Mix = Callable[..., Any]
_AUGMENT = "augment(shots, upstream, meter, rng, params)"
_MIX = "mix(images, targets, meter, rng, params)"
# What a method's file declares, by the name that pydantic gives to its faults.
_DECLARED: dict[str, type[Any]] = {model.__name__: model for model in (Facts, Provenance)}
_CALL = re.compile(r"([^\[\]]+)(?:\[([^\[\]]+)\])?")


@dataclass(frozen=True)
class Method:
    """A loaded method file. ``mix`` is its batch hook, where it has one."""

    name: str
    facts: Facts
    params: type[Params]
    augment: Augment
    path: Path
    mix: Mix | None = None

    @cached_property
    def hash(self) -> str:
        """sha256 of what its code means; see ``benchmark.source``."""
        return source_hash(self.path)


@dataclass(frozen=True)
class MethodCall:
    """A method with its parameters resolved: what a trial runs.

    ``label`` is the name, with the parameters that differ from their defaults in brackets:
    ``prompt_simple[guidance_scale=5.0]``.
    """

    method: Method
    params: Params

    @property
    def label(self) -> str:
        """The name shown in tables and used in paths."""
        defaults = self.method.params()
        changed = {
            key: value
            for key, value in self.params.model_dump().items()
            if value != getattr(defaults, key)
        }
        inside = ",".join(f"{key}={value}" for key, value in sorted(changed.items()))
        return f"{self.method.name}[{inside}]" if inside else self.method.name


@dataclass(frozen=True)
class Broken:
    """An entry that does not load, and why."""

    kind: str
    name: str
    path: Path
    reason: str


@dataclass
class Registry:
    """All entries of a root."""

    root: Path
    tasks: dict[str, Task] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    def task(self, name: str) -> Task:
        """The task called ``name``; raises ``UnknownNameError`` or, for a broken card,
        ``ConfigError``."""
        task: Task = self._get("task", self.tasks, name)
        return task

    def method(self, name: str) -> Method:
        """The method called ``name``; errors as for ``task``."""
        method: Method = self._get("method", self.methods, name)
        return method

    def call(self, text: str) -> MethodCall:
        """``name`` or ``name[key=value,...]`` with its parameters checked.

        Raises:
            UnknownNameError: no such method.
            ConfigError: broken method; unknown parameter, or a value out of its range.
        """
        name, given = split_call(text)
        method = self.method(name)
        return MethodCall(method, declare(method.params, given, f"method {name}"))

    def _get(self, kind: str, entries: dict[str, Any], name: str) -> Any:
        if name in entries:
            return entries[name]
        for entry in self.broken:
            if entry.kind == kind and (entry.name == name or name.startswith(f"{entry.name}-")):
                raise ConfigError(f"{kind} {name!r} is broken", entry.reason.splitlines())
        raise UnknownNameError(kind, name, entries)


def load_registry(root: Path, protocol: Protocol | None = None) -> Registry:
    """All entries of ``root``, in the order of their file names.

    Raises:
        ConfigError: two cards register the same task.
        UnknownNameError: ``protocol`` names a control that is not among the methods.
    """
    registry = Registry(root)
    for path in sorted((root / "tasks").glob("*.toml")):
        _add_tasks(registry, path)
    for path in sorted((root / "methods").glob("*.py")):
        if not path.stem.startswith("_"):
            _add_method(registry, path)
    if protocol is not None:
        registry.method(protocol.defaults.control)
    return registry


def split_call(text: str) -> tuple[str, dict[str, str]]:
    """``"a[x=1,y=2]"`` -> ``("a", {"x": "1", "y": "2"})``; raises ``ConfigError``."""
    parts = _CALL.fullmatch(text.strip())
    if parts is None:
        raise ConfigError("method", [f"{text!r}: expected name[key=value,key=value]"])
    name, inside = parts[1].strip(), parts[2]
    if inside is None:
        return name, {}
    pairs = [[word.strip() for word in pair.partition("=")] for pair in inside.split(",")]
    given = {key: value for key, _, value in pairs}
    if any(not sign or not key for key, sign, _ in pairs) or len(given) < len(pairs):
        raise ConfigError(
            "method", [f"{text!r}: expected name[key=value,key=value], keys distinct"]
        )
    return name, given


def method_error(method: str, error: BaseException) -> MethodError:
    """For what came out of a method's own code: the error, and the method's line it came from."""
    return MethodError(f"method {method!r} raised {'; '.join(_told(error))}")


def _told(error: BaseException) -> list[str]:
    """What a method's code raised, for its author: a line for every fault of a declaration, else
    type and message; each with the method's own line, however deep in a library it was raised."""
    if isinstance(error, ValidationError):
        model = _DECLARED.get(error.title, BaseModel)
        lines = [f"{error.title}: {fault}" for fault in faults(error, model)]
    else:
        lines = [f"{type(error).__name__}: {error}"]
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [frame for frame in frames if _is_entry(frame[0].f_globals.get("__name__"))]
    frame, number = (own or frames)[-1]
    where = f"{Path(frame.f_code.co_filename).name}:{number}"
    return [f"{line} ({where})" for line in lines]


def _is_entry(module: str | None) -> bool:
    return (module or "").startswith("benchmark.entries.")


def _add_tasks(registry: Registry, path: Path) -> None:
    try:
        tasks = load_tasks(path)
    except ConfigError as error:
        registry.broken.append(Broken("task", path.stem, path, "\n".join(error.faults)))
        return
    for task in tasks:
        if task.name in registry.tasks:
            raise ConfigError(path, [f"task {task.name!r} is registered by another card too"])
        registry.tasks[task.name] = task


def _add_method(registry: Registry, path: Path) -> None:
    try:
        registry.methods[path.stem] = _load_method(path)
    except BenchError as error:
        registry.broken.append(Broken("method", path.stem, path, str(error)))
    except (Exception, SystemExit) as error:  # anything a stranger's file may raise at import
        registry.broken.append(Broken("method", path.stem, path, "\n".join(_told(error))))


def _load_method(path: Path) -> Method:
    import benchmark.entries

    root = str(path.parents[1])
    if list(benchmark.entries.__path__) != [root]:  # another root in the same process
        benchmark.entries.__path__ = [root]
        for name in [name for name in sys.modules if name.startswith("benchmark.entries.")]:
            del sys.modules[name]
        importlib.invalidate_caches()
    module = importlib.import_module(f"benchmark.entries.methods.{path.stem}")
    facts, augment = getattr(module, "FACTS", None), getattr(module, "augment", None)
    mix = getattr(module, "mix", None)
    params = getattr(module, "Params", Params)
    wrong = []
    if not isinstance(facts, Facts):
        wrong.append("FACTS is missing or is not benchmark.Facts(...)")
    wrong += _faults_of(augment, _AUGMENT)
    if mix is not None and not (isinstance(facts, Facts) and facts.mixes_batches):
        wrong.append("mix is there, but FACTS does not say mixes_batches = True")
    if mix is not None or (isinstance(facts, Facts) and facts.mixes_batches):
        wrong += _faults_of(mix, _MIX)
    if not (isinstance(params, type) and issubclass(params, Params)):
        wrong.append("Params must be a subclass of benchmark.Params")
    else:
        lacking = [name for name, field in params.model_fields.items() if field.is_required()]
        wrong += [
            f"Params: {name!r} has no default: give it with benchmark.param(...)"
            for name in lacking
        ]
    if wrong:
        raise ConfigError(path, wrong)
    assert isinstance(facts, Facts) and callable(augment)
    return Method(path.stem, facts, params, augment, path, mix)


def _faults_of(function: Any, expected: str) -> list[str]:
    """What is wrong with one of a method's functions; ``expected`` is its name and arguments."""
    name, arguments = expected.rstrip(")").split("(")
    if not callable(function):
        return [f"the function {expected} is missing"]
    given = ", ".join(inspect.signature(function).parameters)
    return [f"{name}({given}): the arguments must be ({arguments})"] if given != arguments else []

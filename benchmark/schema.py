"""Declarations: frozen pydantic models read from TOML or stated in Python.

One place turns pydantic's faults into lines that name the key, the value and the choices.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.errors import ConfigError, did_you_mean


class Declared(BaseModel):
    """Base of every declaration: immutable, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,  # most models of a process are never used: lists stay instant
    )


Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The parsed file.

    Raises:
        ConfigError: missing, unreadable or malformed (with line and column).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(path, ["no such file"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, [f"not valid TOML: {error}"]) from None


def canonical_hash(value: Any) -> str:
    """sha256 of the canonical JSON (sorted keys, no spaces) of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def declare(model: type[Model], values: Any, source: object) -> Model:
    """``model`` made of ``values``.

    Raises:
        ConfigError: every fault at once, each with its dotted key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(source, faults(error, model)) from None


def faults(error: ValidationError, model: type[Any]) -> list[str]:
    """One line per fault of a validation: the key, the value, the choices. ``model``: the
    declaration or pydantic dataclass that was to be made."""
    return [_fault(dict(item), model) for item in error.errors(include_url=False)]


def _fault(item: dict[str, Any], model: type[Any]) -> str:
    loc, allowed = _walk(model, item["loc"])
    key, kind, value = ".".join(loc) or "(whole)", item["type"], item["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key!r}{did_you_mean(loc[-1], allowed)}"
    if kind == "missing":
        return f"missing key {key!r}"
    if kind == "literal_error" and isinstance(value, str):
        choices = re.findall("'([^']*)'", item["ctx"]["expected"])
        return f"{key}: unknown value {value!r}{did_you_mean(value, choices)}"
    message = item["msg"].removeprefix("Value error, ")
    given = "" if isinstance(value, dict | BaseModel) else f" (got {value!r})"
    return f"{key}: {message}{given}"


def _walk(model: Any, loc: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The keys as the file spells them (pydantic inserts a union's tag, and numbers what was given
    by position), and the keys allowed where the last one stands."""
    # ``choices`` are the models that the value reached so far may be of: one, or the members of a
    # union. pydantic's ``loc`` names a field, then a key or position inside a container, then, for
    # a union, the tag of the member that was tried, which the file does not hold.
    path, choices = [], [model]
    allowed = list(_fields(model))
    if loc and isinstance(loc[0], int) and loc[0] < len(allowed):
        loc = (allowed[loc[0]], *loc[1:])
    inside = False  # a dict or list: the next part is the file's own key or a position
    for part in loc:
        if inside:
            path.append(str(part))
            inside = False
            continue
        tagged = [choice for choice in choices if len(choices) > 1 and _tag(choice) == part]
        if tagged:
            choices = tagged
            allowed = list(_fields(tagged[0]))
            continue
        path.append(str(part))
        allowed = [name for choice in choices for name in _fields(choice)]
        fields = [_fields(choice)[str(part)] for choice in choices if part in _fields(choice)]
        if fields:
            choices = _models(fields[0].annotation)
            inside = get_origin(fields[0].annotation) in (dict, list, tuple)
    return path, allowed


def _fields(model: Any) -> dict[str, Any]:
    """Of a model or a pydantic dataclass."""
    found: dict[str, Any] = model.__pydantic_fields__
    return found


def _tag(model: type[BaseModel]) -> str | None:
    """The value of the field ``kind`` that tells the members of a union apart."""
    kind: Any = _fields(model).get("kind")
    return getattr(kind and kind.annotation, "__args__", (None,))[0]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models inside ``list[M]``, ``dict[str, M]``, ``M | None``, ``A | B`` or ``M``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models(inner)]

"""The shape of the code: one-way imports, no entry known by name, functions of a screen."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import benchmark

ROOT = Path(__file__).resolve().parents[1]
CORE, SITE, METHODS, TESTS = (
    sorted((ROOT / folder).rglob("*.py"))
    for folder in ("benchmark", "leaderboard", "methods", "tests")
)

# Folders and modules of ``benchmark/``. An import may only point to an earlier line.
ORDER = """
errors
home
schema images labels entries
contract protocol files stall
content source
data meter
registry flops
records upstream
classify statistics
trial
run
submission leaderboard
cli
""".split("\n")
RANK = {name: rank for rank, line in enumerate(ORDER) for name in line.split()}
# The site is made of records: it builds where nothing of a trial can run.
NOT_FOR_THE_SITE = {"upstream", "classify", "trial", "run"}
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "diffusers",
    "transformers",
    "faiss",
    "peft",
    "datasets",
    "pandas",
    "pandera",
    "scipy",
    "altair",
}
MAY_BE_HEAVY = {"upstream", "classify"}
SCREEN = 60  # lines
PRIVATE = re.compile(r"\S*\._[a-zA-Z]\w*")  # the last name begins with one underscore


def module(path: Path) -> str:
    """The name by which the module is imported, as ``benchmark.home`` and ``entries`` place it."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    before = {"leaderboard": ["benchmark"], "methods": ["benchmark", "entries"]}
    parts = before.get(parts[0], []) + parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(name: str) -> str:
    """The folder or module of ``benchmark/`` in which a module lies; of the package itself: ''."""
    return (name.split(".") + [""])[1]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Full names of what is imported at run time, of modules and of names in them; what stands
    under TYPE_CHECKING is for annotations only."""
    skipped = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = module(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in tree(path).body if top_only else ast.walk(tree(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    return name.split(".")[0]


# --- who imports whom ---------------------------------------------------------------------------


def test_every_folder_and_module_has_its_place_in_the_order():
    assert {place(module(path)) for path in CORE} - {""} <= set(RANK)


def test_imports_point_one_way():
    wrong = []
    for path in [*CORE, *SITE]:
        here = place(module(path))
        for name in imports(path):
            there = place(name) if top(name) == "benchmark" else ""
            later = there in RANK and here and there != here and RANK[there] >= RANK[here]
            if later or (here == "leaderboard" and there in NOT_FOR_THE_SITE):
                wrong.append(f"{module(path)} imports {name}")
    assert not wrong


def test_no_module_imports_itself_by_way_of_others():
    paths = {module(path): path for path in [*CORE, *SITE, *METHODS]}
    graph = {
        name: {known(target, paths) for target in imports(path)} - {name, "", "benchmark"}
        for name, path in paths.items()
    }
    assert sum(map(len, graph.values())) > 200
    list(TopologicalSorter(graph).static_order())  # raises CycleError, with the cycle


def known(name: str, paths: dict[str, Path]) -> str:
    """The module that an imported name is, or is of; '' for one of another package."""
    while name and name not in paths:
        name = name.rpartition(".")[0]
    return name


def test_methods_import_the_contract_and_the_upstream_alone():
    """And one another. The harness behind them may change as it likes."""
    paths = {module(path): path for path in [*CORE, *METHODS]}
    used = {(path.name, known(name, paths)) for path in METHODS for name in imports(path)}
    allowed = re.compile(r"|benchmark|benchmark\.errors|benchmark\.(upstream|entries)(\..+)?")
    assert [each for each in sorted(used) if not allowed.fullmatch(each[1])] == []


def test_entries_are_imported_through_the_root_alone():
    for path in [*CORE, *SITE, *METHODS]:
        tops = {top(name) for name in imports(path)}
        assert not tops & {"methods", "tasks", "leaderboard", "tests"}, path.name


def test_no_test_file_imports_another():
    wrong = [
        f"{path.name} imports {name}"
        for path in TESTS
        for name in imports(path)
        if re.match(r"tests\.(test_|conftest)", name)
    ]
    assert not wrong


def test_no_test_names_a_private_function():
    """What stands behind an underscore may change without a test."""
    wrong = [f"{path.name}: {name}" for path in TESTS for name in private_names(path)]
    assert not wrong


def private_names(path: Path) -> Iterator[str]:
    """Names with an underscore that are taken from modules of the project: imported, looked up,
    or written out to be replaced."""
    modules = {module(each) for each in [*CORE, *SITE, *METHODS]}
    bound = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if top(getattr(node, "module", None) or alias.name) in ("benchmark", "methods")
    }
    for name in imports(path):
        if top(name) == "benchmark" and PRIVATE.fullmatch(name) and name not in modules:
            yield name
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(f".{node.attr}"):
            if ast.unparse(node.value).partition(".")[0] in bound:
                yield ast.unparse(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if top(node.value) == "benchmark" and PRIVATE.fullmatch(node.value):
                yield node.value


# --- what is slow to import ---------------------------------------------------------------------


def test_heavy_packages_are_imported_where_they_are_needed():
    for path in [*CORE, *SITE]:
        if place(module(path)) not in MAY_BE_HEAVY:
            tops = {top(name) for name in imports(path, top_only=True)}
            assert not tops & HEAVY, module(path)


def test_methods_import_nothing_slow_until_they_run():
    for path in METHODS:
        tops = {top(name) for name in imports(path, top_only=True)}
        assert not tops & (HEAVY | {"numpy", "PIL"}), path.name


# --- what the core does not know ----------------------------------------------------------------


def test_the_core_names_no_entry_and_no_upstream():
    entries = {path.stem for path in (ROOT / "methods").glob("[!_]*.py")} - {"none"}
    entries |= {path.stem for path in (ROOT / "tasks").glob("*.toml")} | {"pocket"}
    assert len(entries) >= 10
    for path in [*CORE, *SITE]:
        code = "\n".join(
            ast.unparse(node)
            for node in tree(path).body
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        )
        strings = set(re.findall(r"'([^'\n]*)'", code))
        assert not strings & entries, f"{path.name}: {strings & entries}"


def test_methods_do_not_ask_which_upstream_they_have():
    for path in METHODS:
        assert "pocket" not in path.read_text(), path.name


# --- size and names -----------------------------------------------------------------------------


def test_every_function_fits_a_screen():
    sizes = [
        (node.end_lineno - node.lineno + 1, f"{module(path)}.{node.name}")
        for path in [*CORE, *SITE, *METHODS]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(sizes) > 500
    assert [each for each in sorted(sizes, reverse=True) if each[0] > SCREEN] == []


def test_public_names_are_listed_and_exist():
    assert benchmark.__all__ == sorted(benchmark.__all__)
    assert all(hasattr(benchmark, name) for name in benchmark.__all__)

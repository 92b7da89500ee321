"""The shape of the code: one-way imports, no entry known by name, what the wheel holds."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import benchmark

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "benchmark").rglob("*.py"))

# An import may only point to an earlier line.
ORDER = """
errors
root
declared
contract targets
cards protocol
registry
records imaging fingerprint
sources
data
meter
upstream
ledger mixing contamination
classify
files
packed
store environment
trial
worker
runner
statistics
board
charts gallery flagged
submission spend
catalogue contact
page
console
report doctor
publish
cli
""".split("\n")
RANK = {name: rank for rank, line in enumerate(ORDER) for name in line.split()}
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "diffusers",
    "transformers",
    "faiss",
    "datasets",
    "pandas",
    "pandera",
    "scipy",
    "altair",
}
MAY_BE_HEAVY = ("upstream", "classify")


def module(path: Path) -> str:
    return path.relative_to(ROOT / "benchmark").parts[0].removesuffix(".py")


def imports(path: Path, top_only: bool):
    """Names imported at run time; what stands under TYPE_CHECKING is for annotations only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in tree.body if top_only else ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "benchmark":
                yield from (f"benchmark.{alias.name}" for alias in node.names)


def test_every_module_has_its_place_in_the_order():
    names = {module(path) for path in CORE} - {"__init__", "entries"}
    assert names == set(RANK)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    here = module(path)
    if here in ("__init__", "entries"):
        return
    for name in imports(path, top_only=False):
        parts = name.split(".")
        if parts[0] == "benchmark" and len(parts) > 1 and parts[1] in RANK:
            assert parts[1] == here or RANK[parts[1]] < RANK[here], f"{here} imports {name}"


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_imported_where_they_are_needed(path):
    if module(path) not in MAY_BE_HEAVY:
        tops = {name.split(".")[0] for name in imports(path, top_only=True)}
        assert not tops & HEAVY


def test_the_core_names_no_entry_and_no_upstream():
    entries = {path.stem for path in (ROOT / "methods").glob("[!_]*.py")} - {"none"}
    entries |= {path.stem for path in (ROOT / "tasks").glob("*.toml")} | {"pocket"}
    assert len(entries) >= 10
    for path in CORE:
        code = "\n".join(
            ast.unparse(node)
            for node in ast.parse(path.read_text()).body
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        )
        strings = set(re.findall(r"'([^'\n]*)'", code))
        assert not strings & entries, f"{path.name}: {strings & entries}"


def test_methods_do_not_ask_which_upstream_they_have():
    for path in (ROOT / "methods").glob("*.py"):
        assert "pocket" not in path.read_text(), path.name


def test_methods_import_nothing_slow_until_they_run():
    for path in (ROOT / "methods").glob("*.py"):
        tops = {name.split(".")[0] for name in imports(path, top_only=True)}
        assert not tops & (HEAVY | {"numpy", "PIL"}), path.name


def test_entries_never_import_the_root_folders_directly():
    for path in [*CORE, *(ROOT / "methods").glob("*.py")]:
        tops = {name.split(".")[0] for name in imports(path, top_only=False)}
        assert not tops & {"methods", "tasks", "leaderboard", "tests"}, path.name


def test_public_names_are_listed_and_exist():
    assert benchmark.__all__ == sorted(benchmark.__all__)
    assert all(hasattr(benchmark, name) for name in benchmark.__all__)


def test_the_wheel_runs_in_an_empty_folder(tmp_path):
    """Built, unpacked where nothing else is, and used from there."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("augbench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path / "installed")
    assert {top for top in tops if not top.endswith(".dist-info")} == {"benchmark"}
    empty = tmp_path / "empty"
    empty.mkdir()
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from benchmark.cli import main; main()"
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(tmp_path / "installed"),
        "COLUMNS": "200",
    }
    for command in (
        ["list"],
        [
            "run",
            "-m",
            "randaugment",
            "-t",
            "fashion-1shot",
            "--seeds",
            "0,",
            "--classifier",
            "linear-probe",
            "--quiet",
        ],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "installed"), *command],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert list((empty / "results").rglob("record.json"))

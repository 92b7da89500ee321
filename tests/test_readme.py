"""The method in the README is a whole file: pasted, it loads, runs, and passes every check."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.registry import Method, load_registry


@pytest.fixture(scope="module")
def example(root: Path) -> str:
    readme = (root / "README.md").read_text()
    (block,) = re.findall(r"## Add a method\n.*?```python\n(.*?)```", readme, re.DOTALL)
    return block


@pytest.fixture
def pasted(example, tiny_root, edit) -> Method:
    folder = tiny_root(example=example)
    shipped = 'licence = "license", features = "pocket/corpus/features.safetensors" }'
    edit(folder / "bench.toml", 'licence = "license" }', shipped)  # else all would be encoded
    registry = load_registry(folder)
    assert not registry.broken
    return registry.method("example")


def test_it_declares_all_that_a_method_declares(pasted):
    facts = pasted.facts
    assert facts.paper and facts.citation and not facts.uses_shots and not facts.stochastic
    assert not pasted.params.model_fields


def test_it_fills_the_budget_without_shots_and_without_chance(pasted, root):
    from benchmark.data.split import load_split
    from benchmark.upstream import open_upstream
    from tests.helpers.trials import PER_CLASS, run_method
    from tests.helpers.upstreams import small_spec

    split = load_split(load_registry(root).task("fashion-1shot"), 0, root)
    upstream = open_upstream("small", small_spec(root), root, "cpu")
    first, second = (run_method(pasted, upstream, split, seed)[0] for seed in (0, 1))
    assert first.count == PER_CLASS * len(split.task.classes)
    assert first.frame().equals(second.frame())


@pytest.mark.parametrize(
    "tool", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join
)
def test_it_passes_the_checks_of_the_project(tool, pasted, root):
    settings = ["--config" if tool[0] == "ruff" else "--config-file", str(root / "pyproject.toml")]
    command = [sys.executable, "-m", *tool, *settings, str(pasted.path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bench_check_finds_no_fault(pasted):
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.cli", "check", "example"],
        env=os.environ | {"BENCH_ROOT": str(pasted.path.parents[1])},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_passes_the_tests_of_the_project_with_no_other_edit(example, root, tmp_path):
    """In a copy of the project, with one file more: the contract tests over that file, and every
    test that looks at all files."""
    copied = ("augbench", "benchmark", "docs", "leaderboard", "methods", "tasks", "tests")
    for name in copied:
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pocket", "perf", "submissions"):
        (tmp_path / name).symlink_to(root / name)
    for name in ("bench.toml", "pyproject.toml", "README.md"):
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / "methods" / "pasted.py").write_text(example)
    files = [f"tests/test_{name}.py" for name in ("methods", "layout", "catalogue")]
    chosen = "pasted or layout or committed_page"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "BENCH_ROOT": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[100%]" in done.stdout

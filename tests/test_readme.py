"""The method in the README is a whole file: pasted, it loads, runs, and passes every check."""

from __future__ import annotations

import re
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
def pasted(example, tiny_root) -> Method:
    registry = load_registry(tiny_root(example=example))
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

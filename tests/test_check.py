"""``bench new method`` and ``bench check``: a file that passes as it is, and faults with what to
mend."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.registry import load_registry

METHOD = """
import benchmark
FACTS = benchmark.Facts(title="A method", family="classical"{facts})
SOURCE = benchmark.Provenance("transformed", "test")

def images(shots, pixels, label):
    return benchmark.Images(pixels[None], [label], [SOURCE])

def augment(shots, upstream, meter, rng, params):
    import numpy as np
    for label in range(len(shots.classes)):
        {body}
"""
NOISE = "yield images(shots, rng.integers(0, 256, (32, 32, 3)).astype('uint8'), label)"
SHOT = "yield images(shots, shots.of(label)[0], label)"
PLAIN = "yield images(shots, np.full((32, 32, 3), 20 * label, 'uint8'), label)"
FREE = ", uses_shots=False"
MIX = """
def mix(images, targets, meter, rng, params):
    import torch
    return images * {factor}, targets
"""
Check = Callable[..., dict[str, dict]]


@pytest.fixture
def check(tiny_root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """A function that checks a method of a tiny root: the findings by their subject."""

    def run(body: str, facts: str = "", more: str = "", exit_code: int = 1) -> dict[str, dict]:
        root = tiny_root(mine=METHOD.format(body=body, facts=facts) + more)
        monkeypatch.setenv("BENCH_ROOT", str(root))
        monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
        done = CliRunner().invoke(app, ["check", "mine", "--json"])
        assert done.exit_code == exit_code, done.output
        assert not (tmp_path / "results").exists()
        return {found["subject"]: found for found in json.loads(done.stdout)}

    return run


# --- a new file ---------------------------------------------------------------------------------


@pytest.fixture
def new(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that ``bench new method fresh`` writes."""
    monkeypatch.setenv("BENCH_ROOT", str(shapes))
    done = CliRunner().invoke(app, ["new", "method", "fresh"])
    assert done.exit_code == 0, done.output
    path = shapes / "methods" / "fresh.py"
    assert done.stdout.splitlines()[0] == str(path)
    assert "bench check fresh" in done.stdout and "bench run --method fresh" in done.stdout
    return path


def test_a_new_method_passes_its_check(new: Path) -> None:
    done = CliRunner().invoke(app, ["check", "fresh"])
    assert done.exit_code == 0, done.output
    assert "✗" not in done.stdout and "•" not in done.stdout and done.stdout.count("✓") >= 8


def test_a_new_method_has_a_comment_for_each_fact_to_state(new: Path) -> None:
    facts = new.read_text().partition("FACTS")[2].partition(")\n\n")[0]
    stated = {"title", "family", "adaptation", "query", "uses", "uses_shots", "stochastic"}
    assert all(f"    {name}=" in facts for name in stated)
    assert facts.count("#") >= len(stated)
    assert load_registry(new.parents[1]).call("fresh[shift=2]").params.shift == 2


@pytest.mark.parametrize(
    "tool", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join
)
def test_a_new_method_passes_the_tools_of_the_project(
    tool: list[str], new: Path, root: Path
) -> None:
    settings = ["--config" if tool[0] == "ruff" else "--config-file", str(root / "pyproject.toml")]
    command = [sys.executable, "-m", *tool, *settings, str(new)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_is_never_overwritten(new: Path) -> None:
    new.write_text("mine")
    done = CliRunner().invoke(app, ["new", "method", "fresh"])
    assert "is there already" in str(done.exception) and str(new) in str(done.exception)
    assert new.read_text() == "mine"


def test_an_installed_package_is_not_written_to(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_ROOT", str(shapes))
    monkeypatch.setattr("benchmark.cli.new.is_packaged", lambda root: root == shapes)
    done = CliRunner().invoke(app, ["new", "method", "fresh"])
    assert f"cp -r {shapes} my-bench" in str(done.exception)
    assert not (shapes / "methods" / "fresh.py").exists()


# --- a check ------------------------------------------------------------------------------------


def test_a_method_that_keeps_its_word_passes(check: Check) -> None:
    found = check(NOISE, FREE, exit_code=0)
    assert {line["status"] for name, line in found.items() if name != "paper"} == {"ok"}
    assert found["paper"]["status"] == "note" and "citation" in found["paper"]["remedy"]
    assert "3 images of at most 3" in found["trial"]["finding"]
    assert "without images" in found["uses_shots"]["finding"]


def test_a_broken_file_is_told_by_its_faults(check: Check) -> None:
    found = check(NOISE, ', famly="edit"')["loads"]
    assert found["status"] == "wrong" and "did you mean 'family'?" in found["finding"]
    assert "mine.py" in found["remedy"]


@pytest.mark.parametrize(
    ("body", "facts", "subject", "finding", "remedy"),
    [
        (NOISE.replace("rng", "np.random.default_rng()"), "", "same seed", "other", "rng alone"),
        (PLAIN, FREE, "stochastic", "True, but another draw seed gives the same", "=False"),
        (NOISE, FREE + ", stochastic=False", "stochastic", "gives other images", "=True"),
        (NOISE, "", "uses_shots", "another few-shot split gives the same", "uses_shots=False"),
        (SHOT, FREE, "trial", "IndexError", "mine.py"),
        (PLAIN.replace("32, 32", "8, 8"), FREE, "trial", "expected shape", "mine.py"),
        ("benchmark.Provenance('me', 'x'); yield", "", "trial", "Provenance: origin: ", "mine.py"),
        ("yield from ()", "", "trial", "yielded no image", "mine.py"),
        (SHOT, ', uses=("encoder",)', "uses", "nothing charged", "FACTS.uses"),
        (f"upstream.encoder.encode_texts(['x']); {SHOT}", "", "uses", "TFLOPs", "uses=(...)"),
        (SHOT, ', adaptation="full"', "adaptation", "adaptation='full'", 'meter.phase("fit")'),
    ],
)
def test_a_fault_is_told_with_what_to_mend(
    check: Check, body: str, facts: str, subject: str, finding: str, remedy: str
) -> None:
    found = check(body, facts)[subject]
    assert found["status"] == "wrong"
    assert finding in found["finding"] and remedy in found["remedy"], found


def test_what_a_method_raises_names_its_own_line(check: Check) -> None:
    """However deep in a library it was raised."""
    found = check("benchmark.Provenance('real', 'x', rank=-1); yield")["trial"]
    assert "rank: Input should be greater than or equal to 0 (got -1)" in found["finding"]
    assert "(mine.py:12)" in found["finding"]


def test_a_tier_too_small_for_the_first_image_is_a_note(check: Check) -> None:
    body = f"meter.charge(flops=10**15); {SHOT}"
    found = check(body, exit_code=0)["trial"]
    assert found["status"] == "note" and "before its budget ended" in found["finding"]
    assert "yield early" in found["remedy"]


def test_what_cannot_be_tried_here_is_a_note(check: Check) -> None:
    body = "raise benchmark.Unavailable('it needs two shots'); yield"
    found = check(body, exit_code=0)["trial"]
    assert found["status"] == "note" and "it needs two shots" in found["finding"]


def test_slow_imports_are_noted(check: Check) -> None:
    found = check(SHOT, ", stochastic=False", "import pandas\n", exit_code=0)["imports"]
    assert found["status"] == "note" and "pandas" in found["finding"]


def test_a_default_out_of_its_limits_is_a_fault(check: Check) -> None:
    params = "class Params(benchmark.Params):\n    n: int = benchmark.param(9, help='n', le=5)\n"
    found = check(SHOT, ", stochastic=False", params)["parameters"]
    assert (
        found["status"] == "wrong"
        and "n: Input should be less than or equal to 5" in found["finding"]
    )


def test_a_batch_hook_is_tried_too(check: Check) -> None:
    facts = ", mixes_batches=True, stochastic=False"
    fixed = check(SHOT, facts, MIX.format(factor="rng.random()"), exit_code=0)["mix"]
    assert fixed["status"] == "ok"


@pytest.mark.parametrize(
    ("factor", "subject", "finding"),
    [("torch.rand(1).new_tensor(np_random())", "mix", "other batches"), ("2", "trial", "0..1")],
)
def test_a_faulty_batch_hook_is_told(check: Check, factor: str, subject: str, finding: str) -> None:
    chance = (
        "\ndef np_random():\n    import numpy as np\n    return np.random.default_rng().random()\n"
    )
    facts = ", mixes_batches=True, stochastic=False"
    found = check(SHOT, facts, MIX.format(factor=factor) + chance)[subject]
    assert found["status"] == "wrong" and finding in found["finding"]

"""What an installation holds: the wheel, unpacked where nothing else is, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Bench = Callable[..., None]


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (path,) = folder.glob("augbench-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def bench(installed: Path, tmp_path: Path) -> Bench:
    """A function that runs ``bench`` from the installation, in an empty folder."""
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from benchmark.cli import main; main()"
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(installed),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }

    def run(*arguments: str) -> None:
        command = [sys.executable, "-c", code, str(installed), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return run


def test_two_packages_land_beside_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"augbench", "benchmark"}


def test_it_lists_what_it_holds(bench: Bench) -> None:
    bench("list")


def test_it_runs_in_an_empty_folder(bench: Bench, tmp_path: Path) -> None:
    cell = ("-m", "randaugment", "-t", "openmoji-1shot", "--classifier", "linear-probe")
    bench("run", *cell, "--splits", "0,", "--quiet")
    assert len(list((tmp_path / "results").rglob("record.json"))) == 2  # with its control

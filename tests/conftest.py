"""Fixtures that several test files share. What they are made of is in ``tests.helpers``, imported
where it is used: most tests need no torch."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the models here are small, and more
# threads than cores only wait for one another where several processes share the tests
os.environ.setdefault("BENCH_CACHE", str(Path(__file__).parents[1] / ".pytest_cache/augbench"))

import pytest

from tests.helpers import roots

if TYPE_CHECKING:
    from benchmark.upstream.generator import Generator
    from tests.helpers.generators import LoadedPipeline

TinyRoot = Callable[..., Path]
Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return Path(__file__).resolve().parents[1]


# --- a root of its own --------------------------------------------------------------------------


@pytest.fixture
def tiny_root(tmp_path: Path, root: Path) -> TinyRoot:
    """A function that writes a root folder (``roots.write_root``), with methods that are given as
    ``name=source`` beside its own."""

    def make(name: str = "tiny", **methods: str) -> Path:
        roots.write_root(tmp_path / name, root / "pocket", methods)
        return tmp_path / name

    return make


@pytest.fixture
def shapes(tiny_root: TinyRoot) -> Path:
    """A tiny root as it is."""
    return tiny_root()


@pytest.fixture
def change_rows() -> Callable[[Path, Callable[[list[dict]], object]], None]:
    return roots.change_rows


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """A function that replaces text in a file, and fails if it does not hold the text."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text, f"{path.name} does not hold {old!r}"
        path.write_text(text.replace(old, new))

    return replace


# --- results and the page -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that returns a folder of that name, written by the first test that asks for it.
    A test that changes it copies it first."""
    folder = tmp_path_factory.mktemp("once")

    def written(name: str, write: Callable[[Path], object]) -> Path:
        if not (folder / name).exists():
            write(folder / "unfinished")
            (folder / "unfinished").rename(folder / name)
        return folder / name

    return written


@pytest.fixture
def results(shapes: Path, tmp_path: Path, once: Once) -> Path:
    """The results of ``results.write_results`` for the root ``shapes``."""
    from tests.helpers.results import write_results

    made = once("results", lambda folder: write_results(shapes, folder))
    return shutil.copytree(made, tmp_path / "results")


@pytest.fixture
def packed(results: Path, tmp_path: Path, once: Once) -> Path:
    """A submission of these results."""
    from benchmark.submission.pack import pack

    made = once("packed", lambda folder: pack(results, folder))
    return shutil.copytree(made, tmp_path / "submissions" / "first")


@pytest.fixture
def contest(tiny_root: TinyRoot, tmp_path: Path, once: Once) -> tuple[Path, Path]:
    """A root, and results of a retrieval that leads, on three seeds and two classifiers; one
    trial failed."""
    from tests.helpers import contests

    root = tiny_root(find=contests.FIND, paint=contests.PAINT)
    made = once("contest", lambda folder: contests.write_contest(root, folder))
    return root, shutil.copytree(made, tmp_path / "results")


@pytest.fixture
def site(contest: tuple[Path, Path], once: Once) -> Path:
    """The site of that contest, for tests that only read it."""
    from benchmark.leaderboard.site import build_site

    root, results = contest
    return once("site", lambda folder: build_site(results, root, folder))


# --- generators of other shapes -----------------------------------------------------------------


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def pipeline(
    request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> LoadedPipeline:
    """A tiny pipeline of a published shape, loaded once for a file of tests."""
    from tests.helpers.generators import load_pipeline

    return load_pipeline(request.param, root, tmp_path_factory.mktemp("pipelines"))


@pytest.fixture
def loaded(pipeline: LoadedPipeline) -> Iterator[LoadedPipeline]:
    """That pipeline; whatever a test does with it, its weights and layers are put back."""
    from tests.helpers.upstreams import weight_hashes

    yield pipeline
    assert weight_hashes(pipeline.upstream) == pipeline.before


@pytest.fixture
def generator(loaded: LoadedPipeline) -> Generator:
    return loaded.generator


# --- the scripts that make the pocket -----------------------------------------------------------


@pytest.fixture
def script(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A function that imports one of them. They import one another by name, as they do when one
    of them is run."""
    monkeypatch.syspath_prepend(root / "pocket" / "build")
    return importlib.import_module


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder for one test."""
    from benchmark.home import cache_folder

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    cache_folder.cache_clear()
    yield tmp_path / "cache"
    monkeypatch.undo()
    cache_folder.cache_clear()

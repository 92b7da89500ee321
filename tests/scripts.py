"""The scripts that make the pocket, importable: fixtures for the tests that import them."""

import importlib
import sys
from pathlib import Path

import pytest

POCKET = Path(__file__).parents[1] / "pocket"


@pytest.fixture(scope="module", autouse=True)
def build_scripts_importable():
    """The scripts import one another by name, as they do when one of them is run."""
    folder = str(POCKET / "build")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture
def script():
    return importlib.import_module


@pytest.fixture
def one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

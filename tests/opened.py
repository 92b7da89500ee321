"""Folders of the shapes of Stable Diffusion 1, 2 and XL (``tests.folders``), opened: fixtures for
the tests that import them, and what these ask of a generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.generator import Generator
from benchmark.upstream.training import denoising_loss
from tests.folders import SHAPES, SIDE, folder_spec
from tests.test_methods import weights

TEXTS = ["an emoji of a hat", "an emoji of a coat", "an emoji of a bag"]
WIDTHS = {"sd1": (32, None), "sd2": (32, None), "sdxl": (48, 24)}


@dataclass
class Opened:
    """A folder that is open: its shape, the upstream with it, all its weights."""

    shape: str
    upstream: Upstream
    before: dict[str, str]

    @property
    def generator(self) -> Generator:
        return self.upstream.generator


@pytest.fixture(scope="module", params=sorted(SHAPES))
def opened(request, root, tmp_path_factory) -> Opened:
    folder = tmp_path_factory.mktemp("folders") / request.param
    SHAPES[request.param](root, folder)
    upstream = open_upstream(request.param, folder_spec(root, folder), root, "cpu")
    return Opened(request.param, upstream, weights(upstream))


@pytest.fixture
def generator(opened) -> Generator:
    return opened.generator


@pytest.fixture(autouse=True)
def left_as_it_was(request):
    """Whatever a test does with a folder's generator, its weights and layers are put back."""
    yield
    if "opened" in request.fixturenames:
        opened = request.getfixturevalue("opened")
        assert weights(opened.upstream) == opened.before


def pictures(count: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def draw(generator: Generator, texts=TEXTS, guidance_scale=1.0, steps=2, **more) -> np.ndarray:
    count = len(texts)
    asked = {"size": SIDE, "guidance_scale": guidance_scale, "steps": steps} | more
    made = list(generator.text_to_image(texts, range(count), range(count), **asked))
    return np.concatenate([images.pixels for images in made])


def edit(generator: Generator, images: np.ndarray, strength: float, steps: int = 4, **more):
    count = len(images)
    asked = {"size": SIDE, "guidance_scale": 1.0, "steps": steps, "strength": strength} | more
    return list(
        generator.image_to_image(images, TEXTS[:count], range(count), range(count), **asked)
    )


def loss_at(generator: Generator, conditioning, timestep: int = 500, count: int = 3):
    """The denoising loss of fixed latents, noise and time step."""
    latents = generator.encode(pictures(count))
    times = torch.full((count,), timestep)
    rng = np.random.default_rng(0)
    return denoising_loss(generator, latents, conditioning, rng, timesteps=times)

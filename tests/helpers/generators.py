"""Pipelines of the shapes of Stable Diffusion 1, 2 and XL, loaded, and what tests ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.contract import Images
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.conditioning import Conditioning
from benchmark.upstream.generator import Generator
from benchmark.upstream.training import denoising_loss
from tests.helpers.pipelines import SHAPES, SIDE, folder_spec
from tests.helpers.upstreams import weight_hashes

TEXTS = ["an emoji of a hat", "an emoji of a coat", "an emoji of a bag"]
WIDTHS = {"sd1": (32, None), "sd2": (32, None), "sdxl": (48, 24)}


@dataclass
class LoadedPipeline:
    """Its shape, the upstream with it, and hashes of all weights as they were loaded."""

    shape: str
    upstream: Upstream
    before: dict[str, str]

    @property
    def generator(self) -> Generator:
        return self.upstream.generator


def load_pipeline(shape: str, root: Path, folder: Path) -> LoadedPipeline:
    """A pipeline of that shape, saved under ``folder`` and opened from there."""
    SHAPES[shape](root, folder / shape)
    upstream = open_upstream(shape, folder_spec(root, folder / shape), root, "cpu")
    return LoadedPipeline(shape, upstream, weight_hashes(upstream))


def pictures(count: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def draw(
    generator: Generator,
    texts: Sequence[str] = TEXTS,
    guidance_scale: float = 1.0,
    steps: int = 2,
    **more: Any,
) -> np.ndarray:
    count = len(texts)
    asked = {"size": SIDE, "guidance_scale": guidance_scale, "steps": steps} | more
    made = list(generator.text_to_image(texts, range(count), range(count), **asked))
    return np.concatenate([images.pixels for images in made])


def edit(
    generator: Generator, images: np.ndarray, strength: float, steps: int = 4, **more: Any
) -> list[Images]:
    count = len(images)
    asked = {"size": SIDE, "guidance_scale": 1.0, "steps": steps, "strength": strength} | more
    return list(
        generator.image_to_image(images, TEXTS[:count], range(count), range(count), **asked)
    )


def loss_at(
    generator: Generator, conditioning: Conditioning, timestep: int = 500, count: int = 3
) -> torch.Tensor:
    """The denoising loss of fixed latents, noise and time step."""
    latents = generator.encode(pictures(count))
    times = torch.full((count,), timestep)
    rng = np.random.default_rng(0)
    return denoising_loss(generator, latents, conditioning, rng, timesteps=times)

"""Write ``samples.png``, a sheet of images that the pocket's Stable Diffusion generates: prompts by
seeds.

Nothing is picked: the prompts stand below, the seeds are 0, 1, 2, …
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from _corpus import POCKET
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

PROMPTS = (
    "a photo of a t-shirt",
    "trousers, product photo",
    "a photo of a sneaker",
    "a photo of a bag",
    "ankle boot, product photo",
    "an emoji of flag france",
    "an emoji of flag japan",
    "an emoji of grinning face",
    "an emoji of red heart",
    "an emoji of tiger face",
    "an emoji of penguin",
    "an emoji of tulip",
    "an emoji of hamburger",
    "an emoji of red apple",
    "an emoji of automobile",
    "an emoji of airplane",
    "an emoji of full moon",
    "clip art of tree",
)
SEEDS = 8
STEPS = 25
GUIDANCE = 3.0
ZOOM = 2
LABEL_WIDTH = 190


def generate(pipeline: StableDiffusionPipeline, prompt: str, seeds: int) -> list[Image.Image]:
    """One image per seed 0..seeds-1, each from a generator of its own."""
    return pipeline(
        [prompt] * seeds,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(seed) for seed in range(seeds)],
    ).images


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Labelled rows of equally many images of one size."""
    tile = rows[0][1][0].width * ZOOM
    size = (LABEL_WIDTH + tile * len(rows[0][1]), tile * len(rows))
    canvas = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for y, (label, images) in enumerate(rows):
        pen.text((8, (y + 0.5) * tile), label, fill="black", font=font, anchor="lm")
        for x, image in enumerate(images):
            enlarged = image.resize((tile, tile), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (LABEL_WIDTH + x * tile, y * tile))
    return canvas


def draw_samples(model: Path, out: Path, seeds: int = SEEDS) -> None:
    """Generate every prompt with every seed and write the sheet."""
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    sheet([(p, generate(pipeline, p, seeds)) for p in PROMPTS]).save(out, optimize=True)


def main(
    model: Annotated[Path, typer.Option(help="Pipeline folder.")] = POCKET / "stable-diffusion",
    out: Annotated[Path, typer.Option(help="Picture to write.")] = POCKET / "samples.png",
    seeds: Annotated[int, typer.Option(help="Images per prompt.")] = SEEDS,
) -> None:
    """Draw the sample sheet."""
    draw_samples(model, out, seeds)


if __name__ == "__main__":
    typer.run(main)

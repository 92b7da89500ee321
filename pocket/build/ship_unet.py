"""Put a trained UNet into the pocket, with its loss curve, samples and measurements.

Made:  ``stable-diffusion/unet`` (half precision), ``stable-diffusion/training-loss.{csv,svg}``
       ``samples.png`` and the table of ``MODEL_CARD.md``.
From:  the work folder of ``train_unet.py``, whether the run has ended or not.
Order: make_corpus, make_tokenizer, train_clip, train_vae, train_unet, **ship_unet**.
"""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from _corpus import POCKET
from _training import STATES
from diffusers import UNet2DConditionModel
from make_samples import draw_samples
from measure import measure, table, write_table
from plot_loss import plot
from train_unet import UNET


class Weights(StrEnum):
    """Which of the two sets of weights in a training state."""

    ema = "ema"
    raw = "raw"


def write_unet(state_file: Path, weights: Weights, out: Path) -> int:
    """Write the weights in half precision as a diffusers folder; return their training step."""
    state = torch.load(state_file, map_location="cpu", weights_only=True)
    unet = UNet2DConditionModel(**UNET)
    unet.load_state_dict(state[weights])
    unet.half().save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)
    return state["step"]


def main(
    work: Annotated[Path, typer.Option(help="Work folder of train_unet.py.")] = STATES / "unet",
    weights: Annotated[Weights, typer.Option(help="Averaged or raw.")] = Weights.ema,
    out: Annotated[Path, typer.Option(help="The pocket.")] = POCKET,
) -> None:
    """Put the UNet of a training run into the pocket."""
    model = out / "stable-diffusion"
    step = write_unet(work / "state.pt", weights, model / "unet")
    shutil.copyfile(work / "training-loss.csv", model / "training-loss.csv")
    plot(model / "training-loss.csv", model / "training-loss.svg")
    draw_samples(model, out / "samples.png")
    write_table(table(measure(out), step), out / "MODEL_CARD.md")
    print(f"wrote the {weights} weights of step {step} to {model}")


if __name__ == "__main__":
    typer.run(main)

"""Draw the loss curve of the UNet: ``training-loss.svg`` from ``training-loss.csv``.

The csv has one row per point: step, series, loss. The series "training" is the mean of the steps
since the row before; the others are losses on fixed batches, of the raw and the averaged weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import altair as alt
import pandas as pd
import typer
from _corpus import POCKET


def loss_chart(points: pd.DataFrame) -> alt.Chart:
    """One line per set of images; full for averaged weights, dashed for raw, dotted in training."""
    parts = points.series.str.extract(r"^(?P<images>.*?)(?: \((?P<weights>raw|ema)\))?$")
    weights = parts.weights.map({"raw": "raw", "ema": "averaged"}).fillna("in training")
    images = parts.images.replace("training", "corpus")
    order = ["in training", "raw", "averaged"]
    return (
        alt.Chart(points.assign(images=images, weights=weights))
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="optimizer steps of 128 images"),
            y=alt.Y(
                "loss:Q", scale=alt.Scale(type="log", nice=False), title="min-SNR weighted loss"
            ),
            color=alt.Color("images:N", title="images"),
            strokeDash=alt.StrokeDash(
                "weights:N",
                title="weights",
                scale=alt.Scale(domain=order, range=[[1, 2], [5, 3], [1, 0]]),
            ),
        )
        .properties(width=560, height=320)
    )


def plot(csv: Path, svg: Path) -> None:
    """Draw the chart of a loss curve file."""
    loss_chart(pd.read_csv(csv)).save(svg)


def main(
    csv: Annotated[Path, typer.Option(help="Loss curve.")] = (
        POCKET / "stable-diffusion/training-loss.csv"
    ),
    svg: Annotated[Path | None, typer.Option(help="Chart; beside the curve by default.")] = None,
) -> None:
    """Draw the loss curve."""
    plot(csv, svg or csv.with_suffix(".svg"))


if __name__ == "__main__":
    typer.run(main)

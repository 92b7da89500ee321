"""Reading the pocket's parquet files, and what training does with a caption."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

POCKET = Path(__file__).resolve().parents[1]

#: How a prompt asks for the look of one source; what is not listed is "emoji".
STYLES = {
    "noto": "noto emoji",
    "noto-v1": "blob emoji",
    "twemoji": "twemoji",
    "fluent-emoji": "fluent 3d emoji",
    "fluent-emoji-flat": "fluent flat emoji",
    "emojione": "emojione",
    "fxemoji": "firefox emoji",
    "openclipart": "clip art",
    "fashion-mnist": "product photo",
}

FASHION_CLASSES = (
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def caption_variants(caption: str, source: str) -> tuple[str, str, str, str, str]:
    """The five prompts a captioned image is trained with; the bare caption comes first."""
    if source == "fashion-mnist":
        return (
            caption,
            f"a photo of a {caption}",
            f"{caption}, product photo",
            f"a product photo of a {caption}",
            f"a picture of a {caption}",
        )
    if source == "openclipart":
        # Its captions are long keyword lists: the bare caption stays the commonest form.
        return (
            caption,
            f"clip art of {caption}",
            f"{caption}, clip art",
            f"a picture of a {caption}",
            caption,
        )
    style = STYLES.get(source, "emoji")
    return (
        caption,
        f"{caption}, {style}",
        f"an emoji of {caption}",
        f"a picture of a {caption}",
        f"{style} of {caption}",
    )


def is_mirrorable(caption: str) -> bool:
    """Whether a mirrored image still shows what the caption says (flags and letters do not)."""
    return not (caption.startswith("flag") or "alphabet" in caption)


def decode_images(column: Sequence[dict[str, bytes]]) -> Tensor:
    """Decode an ``Image`` column, structs {bytes, path}, to uint8 RGB [N, 3, H, W] in 0..255."""
    arrays = [np.asarray(Image.open(io.BytesIO(x["bytes"])).convert("RGB")) for x in column]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def to_signed(images: Tensor) -> Tensor:
    """uint8 images in 0..255 as float32 in -1..1, the range of the autoencoder."""
    return images.float() / 127.5 - 1


def read_pairs(
    parquet: Path, columns: Sequence[str], limit: int | None = None
) -> tuple[Tensor, pd.DataFrame]:
    """Images (uint8 [N, 3, 32, 32]) and the named columns: all rows, or a sample of `limit`."""
    frame = pd.read_parquet(parquet)
    if limit is not None and limit < len(frame):
        frame = frame.sample(limit, random_state=0).sort_index()
    return decode_images(frame["image"].tolist()), frame[list(columns)].reset_index(drop=True)


def caption_weights(captions: Sequence[str], power: float) -> Tensor:
    """Sampling probabilities [N] ∝ count(caption) ** -power.

    1,200 images share each clothing caption and most emoji captions have a handful: sampled
    uniformly, every second image of a batch would be clothing.
    """
    codes = torch.as_tensor(pd.factorize(pd.Series(captions))[0].copy())
    weights = torch.bincount(codes)[codes].double().pow(-power)
    return weights / weights.sum()

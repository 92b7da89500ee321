"""Measure the models on held-out data: the numbers of MODEL_CARD.md.

The CLIP classifies held-out images; the autoencoder reconstructs them; the UNet predicts the noise
of a fixed batch of them (in single precision on every machine) and generates images from class
names, which the CLIP classifies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import open_clip
import pandas as pd
import torch
import typer
from _corpus import FASHION_CLASSES, POCKET, read_pairs, to_signed
from diffusers import AutoencoderKL, StableDiffusionPipeline
from open_clip.model import CLIP
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from train_clip import naming_error, tokenize
from train_unet import Denoising, Frozen, evaluation
from transformers import CLIPTokenizer

BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
STEPS = 20
GUIDANCE = 3.0


def naming_accuracy(
    clip: CLIP, tokenizer: CLIPTokenizer, pocket: Path, limit: int | None
) -> dict[str, float]:
    """Zero-shot top-1 on Fashion-MNIST, and on OpenMoji among the names that the corpus uses."""
    clothes, classes = read_pairs(pocket / "heldout/fashion-mnist-test.parquet", ["label"], limit)
    emoji, names = read_pairs(pocket / "heldout/openmoji.parquet", ["caption"], limit)
    known = pd.read_parquet(pocket / "corpus/train.parquet", columns=["caption"]).caption
    rows = names.index[names.caption.isin(known)]
    prompts = [f"a photo of a {name}" for name in FASHION_CLASSES]
    emoji_prompts = [f"an emoji of {name}" for name in names.caption[rows]]
    labels = torch.as_tensor(classes.label.to_numpy().copy())
    shown = emoji[torch.as_tensor(rows.to_numpy().copy())]
    return {
        "CLIP: Fashion-MNIST zero-shot accuracy": 1
        - naming_error(clip, clothes, tokenize(tokenizer, prompts), labels),
        f"CLIP: OpenMoji accuracy among {len(rows)} names": 1
        - naming_error(clip, shown, tokenize(tokenizer, emoji_prompts), torch.arange(len(rows))),
    }


def reconstruction(vae: AutoencoderKL, pocket: Path, limit: int) -> dict[str, float]:
    """Peak signal-to-noise ratio, dB, of 8-bit posterior-mean reconstructions."""
    result = {}
    for name in ("fashion-mnist-test", "openmoji"):
        images = to_signed(read_pairs(pocket / f"heldout/{name}.parquet", [], limit)[0])
        decoded = torch.cat(
            [
                vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
                for x in images.split(128)
            ]
        )
        squared = ((decoded - images) / 2).pow(2).mean((1, 2, 3))
        result[f"autoencoder: {name} PSNR, dB"] = float((-10 * squared.log10()).mean())
    return result


def generated_images(pipeline: StableDiffusionPipeline, per_class: int) -> Tensor:
    """uint8 [10 * per_class, 3, 32, 32] from the Fashion-MNIST prompts, class by class."""
    images = []
    for label, name in enumerate(FASHION_CLASSES):
        generated = pipeline(
            [f"a photo of a {name}"] * per_class,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(label),
        ).images
        images += [pil_to_tensor(image) for image in generated]
    return torch.stack(images)


@torch.no_grad()
def measure(pocket: Path, limit: int | None = None, per_class: int = 40) -> dict[str, float]:
    """Every number of the model card by name.

    Args:
        pocket: folder of the data and the models.
        limit: images of each held-out set; by default all for naming, 1,000 for reconstruction.
        per_class: images generated for each Fashion-MNIST class.
    """
    model, device = pocket / "stable-diffusion", torch.device("cpu")
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    clip = open_clip.create_model_and_transforms(f"local-dir:{pocket / 'clip'}")[0].eval()
    tokenizer: CLIPTokenizer = pipeline.tokenizer
    frozen = Frozen(model / "vae", model / "text_encoder", model / "tokenizer", device)
    denoising_losses = evaluation(
        pocket / "corpus/train.parquet", pocket / "heldout", 512, frozen, Denoising(device)
    )
    labels = torch.arange(len(FASHION_CLASSES)).repeat_interleave(per_class)
    words = tokenize(tokenizer, [f"a photo of a {name}" for name in FASHION_CLASSES])
    result = naming_accuracy(clip, tokenizer, pocket, limit)
    result |= reconstruction(frozen.vae, pocket, limit or 1000)
    for name, loss in denoising_losses(pipeline.unet).items():
        result[f"UNet: denoising loss, {name}"] = loss
    result["UNet: generated clothes that the CLIP names as asked"] = 1 - naming_error(
        clip, generated_images(pipeline, per_class), words, labels
    )
    return result


def table(measured: dict[str, float], step: int) -> str:
    """The numbers as a Markdown table."""
    rows = [f"| {name} | {value:.4g} |" for name, value in measured.items()]
    return "\n".join(["| what | value |", "|---|---|", f"| UNet: step | {step} |", *rows, ""])


def write_table(markdown: str, card: Path) -> None:
    """Put a table between the two marks of the model card.

    Raises:
        ValueError: the card lacks a mark.
    """
    text = card.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{card} lacks {BEGIN.strip()} or {END.strip()}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    card.write_text(f"{before}{BEGIN}{markdown}{END}{after}")


def main(
    pocket: Annotated[Path, typer.Option(help="Folder of the data and the models.")] = POCKET,
) -> None:
    """Measure the models and print every number."""
    for name, value in measure(pocket).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    typer.run(main)

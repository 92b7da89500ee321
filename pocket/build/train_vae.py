"""Train the autoencoder of the pocket's Stable Diffusion on the pocket's corpus.

Made:  ``<work>/vae``, an AutoencoderKL folder as diffusers reads it (half precision): 32x32 RGB
       to 8x8x4 latents, each latent channel with mean 0 and standard deviation 1.
From:  ``corpus/train.parquet``.
Order: make_corpus, make_tokenizer, train_clip, **train_vae**, train_unet, ship_unet.

The autoencoder is that of Rombach et al. 2022 (arXiv 2112.10752) at the smallest useful size, with
no adversary: absolute, squared and gradient-difference error (Mathieu et al. 2016, arXiv
1511.05440) and a slight pull of the posterior to a standard normal (Kingma & Welling 2014, arXiv
1312.6114). The same command again resumes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from _corpus import POCKET, is_mirrorable, read_pairs, to_signed
from _training import (
    STATES,
    Evaluate,
    Precision,
    PrecisionOption,
    Recipe,
    Run,
    WorkOption,
    pick_device,
    uses_bf16,
)
from diffusers import AutoencoderKL
from torch import Tensor, nn

VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (32, 64, 96),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 16,
    "sample_size": 32,
    "scaling_factor": 1.0,
}
MIRROR_RATE = 0.3
GRADIENT_WEIGHT = 0.5
KL_WEIGHT = 3e-4


def reconstruction_error(images: Tensor, reconstructed: Tensor) -> Tensor:
    """Mean absolute + squared + gradient-difference error of images [B, 3, H, W] in -1..1."""
    difference = reconstructed - images
    horizontal = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    vertical = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    plain = difference.abs().mean() + difference.pow(2).mean()
    return plain + GRADIENT_WEIGHT * (horizontal + vertical)


class Reconstruction:
    """The training loss: sample, mirror some, encode, sample the posterior, decode, compare."""

    def __init__(
        self,
        images: Tensor,
        mirrorable: Tensor,
        batch: int,
        device: torch.device,
        bf16: bool,
    ):
        self.images, self.mirrorable = images, mirrorable
        self.batch, self.device, self.bf16 = batch, device, bf16

    def __call__(self, vae: AutoencoderKL, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.images), (self.batch,), generator=generator)
        mirrored = torch.rand(self.batch, generator=generator) < MIRROR_RATE
        mirrored &= self.mirrorable[rows]
        images = to_signed(self.images[rows])
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images).to(self.device)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
            reconstructed = vae.decode(posterior.mean + posterior.std * noise).sample
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        return reconstruction_error(images, reconstructed.float()) + KL_WEIGHT * divergence


def evaluation(corpus: Path, heldout: Path, limit: int, device: torch.device) -> Evaluate:
    """Mean absolute error (range -1..1) of posterior-mean reconstructions, seen and held out."""
    files = {
        "corpus": corpus,
        "fashion-mnist test": heldout / "fashion-mnist-test.parquet",
        "openmoji": heldout / "openmoji.parquet",
    }
    sets = {name: to_signed(read_pairs(file, [], limit)[0]) for name, file in files.items()}

    def error(vae: nn.Module, images: Tensor) -> float:
        total = 0.0
        for chunk in images.to(device).split(128):
            decoded = vae.decode(vae.encode(chunk).latent_dist.mean).sample.clamp(-1, 1)
            total += float((decoded - chunk).abs().mean()) * len(chunk)
        return total / len(images)

    return lambda vae: {name: error(vae, images) for name, images in sets.items()}


@torch.no_grad()
def standardize_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Give each latent channel mean 0 and standard deviation 1 on `images` (-1..1), in place.

    Stable Diffusion scales its latents by one factor (Rombach et al. 2022, appendix G). Here the
    scale and shift of every channel go into the 1x1 convolutions on both sides of the latent, so
    that decode(encode(x)) is what it was and the scaling factor is 1.
    """
    means = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(256)])
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    channels = len(mean)
    into, out_of = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()  # the second half is the log variance
    out_of.bias += (out_of.weight[:, :, 0, 0] * mean).sum(1)
    out_of.weight *= deviation.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


def train(
    work: WorkOption = STATES / "vae",
    until_step: Annotated[int, typer.Option(help="Last step.")] = 12_000,
    decay_steps: Annotated[int, typer.Option(help="Steps of the final decay.")] = 11_900,
    warmup_steps: Annotated[int, typer.Option(help="Steps of warm-up.")] = 100,
    lr: Annotated[float, typer.Option(help="Learning rate of the constant part.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of every random number.")] = 0,
    corpus: Annotated[Path, typer.Option(help="Corpus.")] = POCKET / "corpus/train.parquet",
    heldout: Annotated[Path, typer.Option(help="Held-out folder.")] = POCKET / "heldout",
    limit: Annotated[int | None, typer.Option(help="Train on that many images only.")] = None,
    evaluation_images: Annotated[int, typer.Option(help="Images per evaluation set.")] = 256,
    log_every: Annotated[int, typer.Option(help="Steps between points of the curve.")] = 200,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    precision: PrecisionOption = Precision.auto,
) -> None:
    """Train the autoencoder, or resume the training whose state is in the work folder."""
    if threads:
        torch.set_num_threads(threads)
    device = pick_device()
    torch.manual_seed(seed)
    vae = AutoencoderKL(**VAE).to(device, memory_format=torch.channels_last)
    recipe = Recipe(
        lr, until_step, warmup_steps, decay_steps, (0.9, 0.999), weight_decay=1e-4, ema_decay=0.998
    )
    run = Run(vae, recipe, work, seed)
    run.resume()
    images, rows = read_pairs(corpus, ["caption"], limit)
    mirrorable = torch.tensor([is_mirrorable(caption) for caption in rows.caption])
    run.fit(
        Reconstruction(images, mirrorable, batch, device, uses_bf16(precision, device)),
        evaluation(corpus, heldout, evaluation_images, device),
        log_every=log_every,
    )
    standardize_latents(run.averaged, to_signed(images[::3]).to(device))
    run.averaged.half().save_pretrained(work / "vae")


if __name__ == "__main__":
    typer.run(train)

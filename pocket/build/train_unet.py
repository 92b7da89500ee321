"""Train the UNet of the pocket's Stable Diffusion on the pocket's corpus.

Made:  a UNet folder as diffusers reads it, ``<work>/unet`` (moving average, fp32), beside the
       training state and the loss curve ``<work>/training-loss.csv``.
From:  ``corpus/train.parquet``, the autoencoder of ``train_vae.py`` and the text encoder of
       ``train_clip.py``, both frozen.
Order: make_corpus, make_tokenizer, train_clip, train_vae, **train_unet**, ship_unet.

The objective is noise prediction (Ho et al. 2020, arXiv 2006.11239) in the latent space of the
autoencoder (Rombach et al. 2022, arXiv 2112.10752), weighted by min-SNR-γ with γ = 5 (Hang et al.
2023, arXiv 2303.09556); one caption in ten is empty, for classifier-free guidance (Ho & Salimans
2022, arXiv 2207.12598). Every image is encoded once, plain and mirrored, and every caption variant
is embedded once, so that a step is a step of the UNet alone.

Two free CPU cores take 0.5 to 0.7 s a step. The same command again resumes. A training can also be
continued from weights alone (``--init``): without optimizer moments it warms up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from _corpus import (
    POCKET,
    caption_variants,
    caption_weights,
    is_mirrorable,
    read_pairs,
    to_signed,
)
from _training import (
    STATES,
    Evaluate,
    Precision,
    PrecisionOption,
    Recipe,
    Run,
    WorkOption,
    pick_device,
    read_history,
    uses_bf16,
)
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

SD = POCKET / "stable-diffusion"
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (64, 128, 192),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 192,
    "attention_head_dim": 32,
    "norm_num_groups": 16,
}
CAPTION_POWER = 0.35
MIRROR_RATE = 0.4
UNCONDITIONAL_RATE = 0.1
MIN_SNR_GAMMA = 5.0


@dataclass(frozen=True)
class Latents:
    """What batches are sampled from.

    Attributes:
        images: [N, 2, 4, 8, 8] latents, plain and mirrored.
        prompts: [N, V] row of `embeddings` for each of an image's caption variants.
        embeddings: float16 [M + 1, 32, D] prompt embeddings; the last row is the empty prompt.
        cumulative: [N] cumulative sampling probability.
        mirrorable: [N] whether the mirrored latent may be sampled.
    """

    images: Tensor
    prompts: Tensor
    embeddings: Tensor
    cumulative: Tensor
    mirrorable: Tensor


@dataclass(frozen=True)
class Batch:
    """Clean latents and noise [B, 4, 8, 8], prompt embeddings [B, 32, D], timesteps [B]."""

    latents: Tensor
    noise: Tensor
    embeddings: Tensor
    timesteps: Tensor

    def to(self, device: torch.device) -> Batch:
        fields = (self.latents, self.noise, self.embeddings, self.timesteps)
        return Batch(*(x.to(device) for x in fields))

    def part(self, rows: slice) -> Batch:
        return Batch(
            self.latents[rows], self.noise[rows], self.embeddings[rows], self.timesteps[rows]
        )


class Frozen:
    """The autoencoder and the text encoder of a Stable Diffusion folder, in evaluation mode."""

    def __init__(self, vae: Path, text_encoder: Path, tokenizer: Path, device: torch.device):
        self.device = device
        # Stored in half precision; computed in single, so that CPU and GPU agree.
        self.vae = AutoencoderKL.from_pretrained(vae).float().to(device).eval()
        self.text = CLIPTextModel.from_pretrained(text_encoder).float().to(device).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, 32, 32] -> posterior means [N, 4, 8, 8], scaled."""
        parts = [
            self.vae.encode(to_signed(chunk).to(self.device)).latent_dist.mean.cpu()
            for chunk in images.split(256)
        ]
        return torch.cat(parts) * self.vae.config.scaling_factor

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Last hidden states, float16 [N, 32, D], padded as StableDiffusionPipeline pads."""
        length = self.tokenizer.model_max_length
        parts = []
        for i in range(0, len(prompts), 512):
            ids = self.tokenizer(
                list(prompts[i : i + 512]),
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            ).input_ids
            parts.append(self.text(ids.to(self.device)).last_hidden_state.half().cpu())
        return torch.cat(parts)


def encode_corpus(corpus: Path, frozen: Frozen, limit: int | None) -> Latents:
    """Encode every image, plain and mirrored, and every distinct caption variant."""
    images, rows = read_pairs(corpus, ["caption", "source"], limit)
    pairs = zip(rows.caption, rows.source, strict=True)
    variants = [caption_variants(caption, source) for caption, source in pairs]
    row_of = {text: i for i, text in enumerate(dict.fromkeys(v for vs in variants for v in vs))}
    return Latents(
        images=torch.stack([frozen.encode_images(x) for x in (images, images.flip(-1))], 1),
        prompts=torch.tensor([[row_of[text] for text in texts] for texts in variants]),
        embeddings=frozen.encode_prompts([*row_of, ""]),
        cumulative=caption_weights(rows.caption, CAPTION_POWER).cumsum(0),
        mirrorable=torch.tensor([is_mirrorable(caption) for caption in rows.caption]),
    )


def sample_batch(data: Latents, size: int, generator: torch.Generator) -> Batch:
    """Sample images, mirroring, caption variants, dropped captions, noise and timesteps."""

    def random() -> Tensor:
        return torch.rand(size, generator=generator)

    rows = torch.searchsorted(data.cumulative, random().double()).clamp(max=len(data.images) - 1)
    mirrored = data.mirrorable[rows] & (random() < MIRROR_RATE)
    variant = torch.randint(data.prompts.shape[1], (size,), generator=generator)
    dropped = random() < UNCONDITIONAL_RATE
    prompt = data.prompts[rows, variant].masked_fill(dropped, len(data.embeddings) - 1)
    latents = data.images[rows, mirrored.long()]
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(NOISE_SCHEDULE["num_train_timesteps"], (size,), generator=generator)
    return Batch(latents, noise, data.embeddings[prompt], timesteps)


class Denoising:
    """The min-SNR-γ weighted noise-prediction loss: w(t) = min(SNR, γ) / SNR, Hang et al. §3.4.

    Args:
        bf16: run the UNet under autocast to bfloat16; in single precision otherwise.
    """

    def __init__(self, device: torch.device, bf16: bool = False):
        self.device, self.bf16 = device, bf16
        self.alphas = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod.to(device)
        snr = self.alphas / (1 - self.alphas)
        self.weights = snr.clamp(max=MIN_SNR_GAMMA) / snr

    def __call__(self, unet: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a batch."""
        batch = batch.to(self.device)
        alpha = self.alphas[batch.timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * batch.noise
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            predicted = unet(noisy, batch.timesteps, batch.embeddings.float()).sample
        error = (predicted.float() - batch.noise).pow(2).mean((1, 2, 3))
        return (error * self.weights[batch.timesteps]).mean()


def fixed_batch(images: Tensor, prompts: Sequence[str], frozen: Frozen) -> Batch:
    """An evaluation batch whose noise never changes and whose timesteps cover 0..999 evenly."""
    latents = frozen.encode_images(images)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator)
    last = NOISE_SCHEDULE["num_train_timesteps"] - 1
    timesteps = torch.linspace(0, last, len(latents)).round().long()
    order = torch.randperm(len(latents), generator=generator)
    return Batch(latents, noise, frozen.encode_prompts(prompts), timesteps[order])


def evaluation(
    corpus: Path, heldout: Path, limit: int, frozen: Frozen, objective: Denoising
) -> Evaluate:
    """Losses on fixed batches of the corpus and of two held-out sets.

    They show whether the model improves; nothing is chosen by them.
    """
    clothes, emoji = heldout / "fashion-mnist-test.parquet", heldout / "openmoji.parquet"
    batches = {}
    for name, parquet, column, template in (
        ("corpus", corpus, "caption", "{}"),
        ("fashion-mnist test", clothes, "class_name", "a photo of a {}"),
        ("openmoji", emoji, "caption", "an emoji of {}"),
    ):
        images, rows = read_pairs(parquet, [column], limit)
        batches[name] = fixed_batch(images, [template.format(x) for x in rows[column]], frozen)

    def evaluate(unet: nn.Module) -> dict[str, float]:
        losses = {}
        for name, batch in batches.items():
            size = len(batch.latents)
            parts = [batch.part(slice(i, i + 128)) for i in range(0, size, 128)]
            total = sum(objective(unet, part).item() * len(part.latents) for part in parts)
            losses[name] = total / size
        return losses

    return evaluate


@dataclass(frozen=True)
class Start:
    """What a training starts from: a fresh UNet by default, else the weights of an earlier one.

    Attributes:
        averaged: UNet folder of the moving average.
        raw: safetensors file of the raw weights; the averaged ones by default.
        step: how many steps these weights were trained.
        log: their loss curve (csv).
    """

    averaged: Path | None = None
    raw: Path | None = None
    step: int = 0
    log: Path | None = None

    def __post_init__(self) -> None:
        if self.averaged is None and (self.raw or self.step or self.log):
            raise typer.BadParameter(
                "--init-raw, --init-step and --init-log describe the weights that --init names: "
                "add --init FOLDER, or leave them out"
            )

    def models(self, seed: int) -> tuple[UNet2DConditionModel, UNet2DConditionModel | None]:
        """Raw and averaged UNet; no averaged one where the raw one is fresh."""
        if self.averaged is None:
            torch.manual_seed(seed)
            return UNet2DConditionModel(**UNET), None
        averaged = UNet2DConditionModel.from_pretrained(self.averaged).float()
        raw = UNet2DConditionModel.from_pretrained(self.averaged).float()
        if self.raw is not None:
            raw.load_state_dict({k: v.float() for k, v in load_file(self.raw).items()})
        return raw, averaged

    def run(self, recipe: Recipe, work: Path, seed: int, device: torch.device) -> Run:
        """A training that starts here, or where the state in `work` ended."""
        raw, averaged = self.models(seed)
        for model in filter(None, (raw, averaged)):
            model.to(device, memory_format=torch.channels_last)
        history = read_history(self.log, self.step) if self.log else []
        run = Run(raw, recipe, work, seed, self.step, history, averaged)
        run.resume()
        return run


def train(
    work: WorkOption = STATES / "unet",
    until_step: Annotated[int, typer.Option(help="Last step, from the very first.")] = 12_000,
    decay_steps: Annotated[int, typer.Option(help="Steps of the final decay.")] = 600,
    warmup_steps: Annotated[int, typer.Option(help="Steps of warm-up.")] = 300,
    lr: Annotated[float, typer.Option(help="Learning rate of the constant part.")] = 4e-4,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of every random number.")] = 0,
    init: Annotated[Path | None, typer.Option(help="UNet folder to continue from.")] = None,
    init_raw: Annotated[Path | None, typer.Option(help="Its raw weights (safetensors).")] = None,
    init_step: Annotated[int, typer.Option(help="Steps that it was trained.")] = 0,
    init_log: Annotated[Path | None, typer.Option(help="Its loss curve (csv).")] = None,
    corpus: Annotated[Path, typer.Option(help="Corpus.")] = POCKET / "corpus/train.parquet",
    heldout: Annotated[Path, typer.Option(help="Held-out folder.")] = POCKET / "heldout",
    vae: Annotated[Path, typer.Option(help="Autoencoder folder.")] = SD / "vae",
    text_encoder: Annotated[Path, typer.Option(help="Text encoder.")] = SD / "text_encoder",
    tokenizer: Annotated[Path, typer.Option(help="Tokenizer folder.")] = SD / "tokenizer",
    limit: Annotated[int | None, typer.Option(help="Train on that many images only.")] = None,
    evaluation_images: Annotated[int, typer.Option(help="Images per evaluation set.")] = 512,
    log_every: Annotated[int, typer.Option(help="Steps between points of the curve.")] = 200,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    precision: PrecisionOption = Precision.auto,
    compile_model: Annotated[bool, typer.Option("--compile", help="torch.compile it.")] = False,
) -> None:
    """Train the UNet, or resume the training whose state is in the work folder."""
    if threads:
        torch.set_num_threads(threads)
    start, device = Start(init, init_raw, init_step, init_log), pick_device()
    recipe = Recipe(lr, until_step, warmup_steps, decay_steps)
    run = start.run(recipe, work, seed, device)
    frozen = Frozen(vae, text_encoder, tokenizer, device)
    objective = Denoising(device, uses_bf16(precision, device))
    print(f"{device}, {'bfloat16' if objective.bf16 else 'single precision'}, state in {work}")
    evaluate = evaluation(corpus, heldout, evaluation_images, frozen, objective)
    data = encode_corpus(corpus, frozen, limit)
    run.fit(
        lambda unet, generator: objective(unet, sample_batch(data, batch, generator)),
        evaluate,
        log_every=log_every,
        compile_model=compile_model,
    )
    run.averaged.save_pretrained(work / "unet")


if __name__ == "__main__":
    typer.run(train)

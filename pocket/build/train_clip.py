"""Train the pocket's CLIP on the pocket's corpus.

Made:  ``<work>/clip``, an OpenCLIP folder (half precision), and ``<work>/text_encoder``, its text
       tower as transformers' CLIPTextModel, the text encoder of the pocket's Stable Diffusion.
From:  ``corpus/train.parquet`` and the tokenizer of ``make_tokenizer.py``.
Order: make_corpus, make_tokenizer, **train_clip**, train_vae, train_unet, ship_unet.

The objective is CLIP's symmetric contrastive loss (Radford et al. 2021, arXiv 2103.00020), with
every pair of equal captions in a batch a positive, after Khosla et al. 2020 (arXiv 2004.11362):
1,200 images share the caption "coat", and none of them is a negative of another.

A batch of 2,048 needs a GPU; on two CPU cores take ``--batch 256``. The same command again resumes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import torch.nn.functional as F
import typer
from _corpus import (
    FASHION_CLASSES,
    POCKET,
    caption_variants,
    caption_weights,
    is_mirrorable,
    read_pairs,
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
    uses_bf16,
)
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CONTEXT_LENGTH = 32
WIDTH = 192
TEXT_LAYERS = 4
TEXT_HEADS = 6
PREPROCESSING = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
IMAGE_SIZE = 64
CAPTION_POWER = 0.5
MAX_LOGIT_SCALE = 100.0
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")


def model_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """OpenCLIP's model_cfg: ViT 64 px / patch 8, width 192; 5.4M parameters in all."""
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "layers": 6,
            "width": WIDTH,
            "head_width": 32,
            "patch_size": 8,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": len(tokenizer),
            "width": WIDTH,
            "heads": TEXT_HEADS,
            "layers": TEXT_LAYERS,
            "eos_id": tokenizer.eos_token_id,
        },
    }


@dataclass(frozen=True)
class Pairs:
    """What batches are sampled from.

    Attributes:
        images: uint8 [N, 3, 32, 32].
        tokens: [N, V, 32] token ids of each image's caption variants.
        caption: [N] number of the caption; equal captions have equal numbers.
        probability: [N] of being sampled.
        mirrorable: [N] whether the mirrored image still fits the caption.
    """

    images: Tensor
    tokens: Tensor
    caption: Tensor
    probability: Tensor
    mirrorable: Tensor


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids [N, 32], padded with the end token."""
    return tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=CONTEXT_LENGTH,
        return_tensors="pt",
    ).input_ids


def read_corpus(corpus: Path, tokenizer: CLIPTokenizer, limit: int | None) -> Pairs:
    """Decode the images and tokenize the caption variants."""
    images, rows = read_pairs(corpus, ["caption", "source"], limit)
    pairs = zip(rows.caption, rows.source, strict=True)
    variants = [caption_variants(caption, source) for caption, source in pairs]
    tokens = tokenize(tokenizer, [text for texts in variants for text in texts])
    return Pairs(
        images=images,
        tokens=tokens.view(len(variants), -1, CONTEXT_LENGTH),
        caption=torch.as_tensor(pd.factorize(rows.caption)[0].copy()),
        probability=caption_weights(rows.caption, CAPTION_POWER),
        mirrorable=torch.tensor([is_mirrorable(caption) for caption in rows.caption]),
    )


def random_affine(images: Tensor, mirrorable: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 10°, zoom by up to 25 %, shift by up to 1/16, mirror half where allowed.

    Images are floats [B, 3, H, W]; what comes in from outside repeats the border.
    """

    def uniform(reach: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * reach

    angle, zoom = uniform(0.175), 1 + uniform(0.25)
    shift_x, shift_y = uniform(0.125), uniform(0.125)
    flip = torch.where(mirrorable & (uniform(1.0) < 0), -1.0, 1.0)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    first = torch.stack([flip * cosine, -sine, shift_x], 1)
    second = torch.stack([flip * sine, cosine, shift_y], 1)
    maps = torch.stack([first, second], 1).to(images.device)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def random_colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast ±30 %, cast ±0.1 per channel, grey 15 %, inverted 5 %; [B, 3, H, W] in 0..1."""

    def random(channels: int = 1) -> Tensor:
        values = torch.rand(len(images), channels, 1, 1, generator=generator)
        return values.to(images.device)

    contrast, cast = 0.7 + 0.6 * random(), 0.2 * random(3) - 0.1
    images = (images - 0.5) * contrast + 0.5 + cast
    grey = images.mean(1, keepdim=True).expand_as(images)
    images = torch.where(random() < 0.15, grey, images)
    return torch.where(random() < 0.05, 1 - images, images).clamp(0, 1)


def preprocess(images: Tensor) -> Tensor:
    """uint8 [B, 3, 32, 32] -> 0..1 floats [B, 3, 64, 64], bicubic."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return F.interpolate(images.float() / 255, size=size, mode="bicubic").clamp(0, 1)


def multi_positive_loss(logits: Tensor, captions: Tensor) -> Tensor:
    """Symmetric cross-entropy between logits [B, B] and a uniform target over equal captions.

    Khosla et al. 2020, the loss L_out of §3.2.2, between the two modalities.
    """
    positive = (captions[:, None] == captions[None]).float()
    target = positive / positive.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Contrast:
    """The training loss: sample, augment, embed, compare."""

    def __init__(self, pairs: Pairs, batch: int, device: torch.device, bf16: bool):
        self.pairs, self.batch, self.device, self.bf16 = pairs, batch, device, bf16

    def __call__(self, clip: nn.Module, generator: torch.Generator) -> Tensor:
        data, device = self.pairs, self.device
        rows = torch.multinomial(data.probability, self.batch, True, generator=generator)
        variant = torch.randint(data.tokens.shape[1], (self.batch,), generator=generator)
        images = preprocess(data.images[rows].to(device))
        images = random_affine(images, data.mirrorable[rows], generator)
        images = random_colour(images, generator)
        tokens = data.tokens[rows, variant].to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            image_features, text_features, scale = clip((images - 0.5) / 0.5, tokens)
        scale = scale.clamp(max=MAX_LOGIT_SCALE)
        logits = scale * image_features.float() @ text_features.float().T
        return multi_positive_loss(logits, data.caption[rows].to(device))


def naming_error(clip: CLIP, images: Tensor, tokens: Tensor, answers: Tensor) -> float:
    """Share of images (uint8 [N, 3, 32, 32]) whose nearest text [M, 32] is not the answer [N]."""
    device = clip.positional_embedding.device
    texts = torch.cat([clip.encode_text(t.to(device), normalize=True) for t in tokens.split(512)])
    wrong = 0
    for chunk, answer in zip(images.split(256), answers.split(256), strict=True):
        features = clip.encode_image((preprocess(chunk.to(device)) - 0.5) / 0.5)
        wrong += int(((features @ texts.T).argmax(1).cpu() != answer).sum())
    return wrong / len(images)


def evaluation(corpus: Path, heldout: Path, tokenizer: CLIPTokenizer, limit: int) -> Evaluate:
    """The loss on fixed pairs of the corpus, and zero-shot errors on two held-out sets.

    They show whether the model improves; nothing is chosen by them.
    """
    seen = read_corpus(corpus, tokenizer, limit)
    clothes, labels = read_pairs(heldout / "fashion-mnist-test.parquet", ["label"], limit)
    emoji, names = read_pairs(heldout / "openmoji.parquet", ["caption"], limit)
    classes = tokenize(tokenizer, [f"a photo of a {name}" for name in FASHION_CLASSES])
    emoji_names = tokenize(tokenizer, [f"an emoji of {name}" for name in names.caption])
    answers = torch.as_tensor(labels.label.to_numpy().copy())

    def evaluate(clip: CLIP) -> dict[str, float]:
        device = clip.positional_embedding.device
        images = (preprocess(seen.images.to(device)) - 0.5) / 0.5
        image_features, text_features, scale = clip(images, seen.tokens[:, 0].to(device))
        logits = scale.clamp(max=MAX_LOGIT_SCALE) * image_features @ text_features.T
        return {
            "corpus": multi_positive_loss(logits, seen.caption.to(device)).item(),
            "fashion-mnist zero-shot error": naming_error(clip, clothes, classes, answers),
            "openmoji naming error": naming_error(
                clip, emoji, emoji_names, torch.arange(len(emoji))
            ),
        }

    return evaluate


def text_state(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's text-tower weights under the names of transformers' CLIPTextModel."""
    state = {
        "embeddings.token_embedding.weight": clip["token_embedding.weight"],
        "embeddings.position_embedding.weight": clip["positional_embedding"],
        "final_layer_norm.weight": clip["ln_final.weight"],
        "final_layer_norm.bias": clip["ln_final.bias"],
    }
    renamed = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for i in range(TEXT_LAYERS):
        ours, theirs = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        for kind in ("weight", "bias"):
            joined = clip[f"{ours}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", joined, strict=True):
                state[f"{theirs}.self_attn.{name}_proj.{kind}"] = part
            for old, new in renamed.items():
                state[f"{theirs}.{new}.{kind}"] = clip[f"{ours}.{old}.{kind}"]
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}


def text_encoder(clip: CLIP, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower as transformers' CLIPTextModel: same last hidden states."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=TEXT_HEADS,
            max_position_embeddings=CONTEXT_LENGTH,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=WIDTH,
        )
    )
    # Older transformers name everything below `text_model.`.
    prefix = "text_model." if any(k.startswith("text_model.") for k in model.state_dict()) else ""
    state = text_state({name: value.cpu() for name, value in clip.state_dict().items()})
    model.load_state_dict({prefix + name: value for name, value in state.items()})
    return model.eval()


def write_folder(clip: CLIP, tokenizer: CLIPTokenizer, tokenizer_folder: Path, out: Path) -> None:
    """Write what ``open_clip`` loads as ``local-dir:<out>``, weights in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    config = model_config(tokenizer)
    # The tokenizer of this very folder; OpenCLIP's other cleanings would drop punctuation.
    config["text_cfg"] |= {"hf_tokenizer_name": ".", "tokenizer_kwargs": {"clean": "whitespace"}}
    document = {"model_cfg": config, "preprocess_cfg": PREPROCESSING}
    (out / "open_clip_config.json").write_text(json.dumps(document, indent=2))
    weights = {name: x.cpu().half().contiguous() for name, x in clip.state_dict().items()}
    save_file(weights, out / "open_clip_model.safetensors")
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_folder / name, out / name)


def write_text_encoder(model: CLIPTextModel, out: Path) -> None:
    """Write a CLIPTextModel folder, weights in half precision."""
    model.half().save_pretrained(out)
    # Stored in half precision for size only. transformers loads in the precision that the file
    # names, diffusers loads the other models in single: named so, a pipeline is of one precision.
    config = json.loads((out / "config.json").read_text()) | {"dtype": "float32"}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def train(
    work: WorkOption = STATES / "clip",
    until_step: Annotated[int, typer.Option(help="Last step.")] = 2_400,
    decay_steps: Annotated[int, typer.Option(help="Steps of the final decay.")] = 2_200,
    warmup_steps: Annotated[int, typer.Option(help="Steps of warm-up.")] = 200,
    lr: Annotated[float, typer.Option(help="Learning rate of the constant part.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Pairs in a batch.")] = 2048,
    seed: Annotated[int, typer.Option(help="Seed of every random number.")] = 0,
    corpus: Annotated[Path, typer.Option(help="Corpus.")] = POCKET / "corpus/train.parquet",
    heldout: Annotated[Path, typer.Option(help="Held-out folder.")] = POCKET / "heldout",
    tokenizer: Annotated[Path, typer.Option(help="Tokenizer folder.")] = POCKET / "clip",
    limit: Annotated[int | None, typer.Option(help="Train on that many pairs only.")] = None,
    evaluation_images: Annotated[int, typer.Option(help="Images per held-out set.")] = 512,
    log_every: Annotated[int, typer.Option(help="Steps between points of the curve.")] = 100,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    precision: PrecisionOption = Precision.auto,
    compile_model: Annotated[bool, typer.Option("--compile", help="torch.compile it.")] = False,
) -> None:
    """Train the CLIP, or resume the training whose state is in the work folder."""
    if threads:
        torch.set_num_threads(threads)
    device, words = pick_device(), CLIPTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(seed)
    recipe = Recipe(
        lr, until_step, warmup_steps, decay_steps, (0.9, 0.98), weight_decay=0.1, ema_decay=0.995
    )
    run = Run(CLIP(**model_config(words)).to(device), recipe, work, seed)
    run.resume()
    run.fit(
        Contrast(read_corpus(corpus, words, limit), batch, device, uses_bf16(precision, device)),
        evaluation(corpus, heldout, words, evaluation_images),
        log_every=log_every,
        compile_model=compile_model,
    )
    write_folder(run.averaged, words, tokenizer, work / "clip")
    write_text_encoder(text_encoder(run.averaged, words), work / "text_encoder")


if __name__ == "__main__":
    typer.run(train)

"""Folders of the shape that published Stable Diffusion models have, tiny and with random weights.

Nothing can be seen on their images. They show that code which was written for one generator finds
the parts of every other where it looks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark.protocol import UpstreamSpec
from tests.helpers.upstreams import small_spec

SIDE = 32  # pixels; latents are an eighth of it, as in the originals
CONTEXT = 77  # tokens of CLIP's text encoders
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_sd1(root: Path, folder: Path) -> None:
    """Stable Diffusion 1.5: one text encoder whose configuration has the wrong end token that
    transformers still honours, a sampler that takes a step more than it is asked for."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    torch.manual_seed(1)
    sampler = PNDMScheduler(**_NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    StableDiffusionPipeline(
        vae=_autoencoder(scaling_factor=0.18215),
        text_encoder=_text_encoder(root, width=32, eos_token_id=2),
        tokenizer=_tokenizer(root),
        unet=_denoiser(attention_head_dim=2, cross_attention_dim=32),
        scheduler=sampler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_sd2(root: Path, folder: Path) -> None:
    """Stable Diffusion 2.1: predicts v, other widths of the attention's heads, linear layers
    around it."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch.manual_seed(2)
    sampler = DDIMScheduler(
        **_NOISE,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=_autoencoder(scaling_factor=0.18215),
        text_encoder=_text_encoder(root, width=32, hidden_act="gelu"),
        tokenizer=_tokenizer(root, pad_token="!"),
        unet=_denoiser(
            attention_head_dim=[2, 4], cross_attention_dim=32, use_linear_projection=True
        ),
        scheduler=sampler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_sdxl(root: Path, folder: Path) -> None:
    """Stable Diffusion XL: two text encoders side by side, the pooled prompt of the second and
    the sizes of the image beside them."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(3)
    pooled, time = 24, 8
    StableDiffusionXLPipeline(
        vae=_autoencoder(scaling_factor=0.13025, force_upcast=True),
        text_encoder=_text_encoder(root, width=16, eos_token_id=2),
        text_encoder_2=_text_encoder(
            root, width=32, projection=pooled, hidden_act="gelu", eos_token_id=2
        ),
        tokenizer=_tokenizer(root),
        tokenizer_2=_tokenizer(root, pad_token="!"),
        unet=_denoiser(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2],
            attention_head_dim=[2, 4],
            cross_attention_dim=48,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=time,
            projection_class_embeddings_input_dim=pooled + 6 * time,
        ),
        scheduler=EulerDiscreteScheduler(**_NOISE, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder)


SHAPES: dict[str, Callable[[Path, Path], None]] = {
    "sd1": save_sd1,
    "sd2": save_sd2,
    "sdxl": save_sdxl,
}


def folder_spec(root: Path, folder: Path) -> UpstreamSpec:
    """The small upstream with the generator that lies in ``folder``."""
    return small_spec(root, generator={"model": str(folder), "size": SIDE, "batch_size": 4})


def _tokenizer(root: Path, **changes: Any) -> Any:
    from transformers import CLIPTokenizer

    place = root / "pocket" / "stable-diffusion" / "tokenizer"
    return CLIPTokenizer.from_pretrained(place, model_max_length=CONTEXT, **changes)


def _text_encoder(root: Path, width: int, projection: int = 0, **changes: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _tokenizer(root)
    end = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection or width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        **(end | changes),
    )
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return kind(config).eval()


def _autoencoder(**changes: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIDE,
        **changes,
    )


def _denoiser(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    shape = {
        "sample_size": SIDE // 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(shape | changes))

"""What the denoiser is told beside the noisy latents: embedded prompts, of one text encoder or of
two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The conditions of N images.

    Attributes:
        embeds: [N, L, D], one row per token; gradients flow where the text encoder, a
            pseudo-word or the tensor itself is trained.
        pooled: [N, P], one row per prompt (Stable Diffusion XL: Podell et al. 2023, arXiv
            2307.01952, section 2.1); None for pipelines that have none.
    """

    embeds: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeds)

    def rows(self, chosen: Sequence[int] | Tensor | slice) -> Conditioning:
        """The conditions of some of the images, in the order given; a row may come twice."""
        index = chosen if isinstance(chosen, slice) else torch.as_tensor(chosen, dtype=torch.long)
        return Conditioning(
            self.embeds[index], self.pooled[index] if self.pooled is not None else None
        )

    def tensors(self) -> list[Tensor]:
        """Those of the two that there are."""
        return [part for part in (self.embeds, self.pooled) if part is not None]

    def trained(self) -> Conditioning:
        """A copy whose tensors are leaves that gradients are collected in."""
        copies = [part.detach().clone().requires_grad_(True) for part in self.tensors()]
        return Conditioning(*copies)

    def arguments(self) -> dict[str, Tensor]:
        """As a diffusers pipeline takes them."""
        given = {"prompt_embeds": self.embeds.detach()}
        if self.pooled is not None:
            given["pooled_prompt_embeds"] = self.pooled.detach()
        return given


def encode(pipeline: Any, texts: Sequence[str]) -> Conditioning:
    """N texts through the tokenizers and text encoders of a pipeline; what exceeds their context
    is cut."""
    found = pipeline.encode_prompt(
        prompt=list(texts),
        device=pipeline.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    # Stable Diffusion: embeds, negative; XL: embeds, negative, pooled, negative pooled
    return Conditioning(found[0], found[2] if len(found) == 4 else None)


def added(pipeline: Any, conditioning: Conditioning, size: int) -> dict[str, Any]:
    """Further arguments of the denoiser: none, or for XL the pooled prompts and the sizes that
    its training images are described by (original size, crop, target size: nothing cropped)."""
    if conditioning.pooled is None:
        return {}
    ids = pipeline._get_add_time_ids(
        (size, size),
        (0, 0),
        (size, size),
        dtype=conditioning.embeds.dtype,
        text_encoder_projection_dim=conditioning.pooled.shape[-1],
    )
    ids = ids.to(conditioning.embeds.device).expand(len(conditioning), -1)
    return {"added_cond_kwargs": {"text_embeds": conditioning.pooled, "time_ids": ids}}

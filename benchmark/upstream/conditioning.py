"""Prompt embeddings for the denoiser, from one text encoder or from two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of N images.

    Attributes:
        embeds: [N, L, D], one row per token; gradients flow where the text encoder, a
            placeholder embedding or the tensor itself is trained.
        pooled: [N, P], one row per prompt (Stable Diffusion XL: Podell et al. 2023, arXiv
            2307.01952, section 2.1); None for pipelines that have none.
    """

    embeds: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeds)

    def rows(self, chosen: Sequence[int] | np.ndarray | Tensor | slice) -> Conditioning:
        """The conditioning of some of the images, in the order given; a row may come twice."""
        index = chosen if isinstance(chosen, slice) else torch.as_tensor(chosen, dtype=torch.long)
        return Conditioning(
            self.embeds[index], self.pooled[index] if self.pooled is not None else None
        )

    def tensors(self) -> list[Tensor]:
        """``embeds``, and ``pooled`` where there is one."""
        return [part for part in (self.embeds, self.pooled) if part is not None]

    def trainable(self) -> Conditioning:
        """A copy whose tensors are leaves that require gradients."""
        copies = [part.detach().clone().requires_grad_(True) for part in self.tensors()]
        return Conditioning(*copies)

    def arguments(self) -> dict[str, Tensor]:
        """As a diffusers pipeline takes it."""
        arguments = {"prompt_embeds": self.embeds.detach()}
        if self.pooled is not None:
            arguments["pooled_prompt_embeds"] = self.pooled.detach()
        return arguments


def encode(pipeline: Any, texts: Sequence[str]) -> Conditioning:
    """N texts through the tokenizers and text encoders of a pipeline; what exceeds their context
    is cut."""
    outputs = pipeline.encode_prompt(
        prompt=list(texts),
        device=pipeline.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    # Stable Diffusion: embeds, negative; XL: embeds, negative, pooled, negative pooled
    return Conditioning(outputs[0], outputs[2] if len(outputs) == 4 else None)


def added_conditions(pipeline: Any, conditioning: Conditioning, size: int) -> dict[str, Any]:
    """Further arguments of the denoiser: none, or for XL the pooled prompt embeddings and the size
    conditioning (Podell et al. 2023, arXiv 2307.01952, section 2.2: original size, crop, target
    size; here nothing is cropped)."""
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

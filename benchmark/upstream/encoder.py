"""The encoder that indexes the corpus: any OpenCLIP model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import ConfigError
from benchmark.flops import watch
from benchmark.meter import Meter
from benchmark.protocol import EncoderSpec
from benchmark.upstream.hashes import (
    HUB_ENCODER,
    LOCAL_ENCODER,
    encoder_hash,
    local_path,
)
from benchmark.upstream.loading import half_precision, loading


@dataclass(frozen=True)
class Preprocess:
    """What an image tower expects: RGB in 0..1 at ``size`` pixels, minus mean, by std."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Encoder:
    """Images and texts to one space, where the cosine says how well they agree (CLIP, Radford
    et al. 2021, arXiv 2103.00020).

    Attributes:
        model: the OpenCLIP model, frozen, in evaluation mode.
        dim: D, the length of a feature.
        hash: sha256 over its files or name.
        batch_size: images per forward pass.
        preprocess: what its image tower expects.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        root: Path,
        device: str = "cpu",
        meter_of: Callable[[], Meter | None] = lambda: None,
    ) -> None:
        self.device = device
        self.batch_size = spec.batch_size
        self.hash = encoder_hash(spec, root)
        self.model, self._transform, self._tokenize = _load(spec, root, device)
        self._texts = _TextTower(self.model)
        watch(self.model.visual, meter_of)
        watch(self._texts, meter_of)
        with torch.no_grad():  # also shows that both towers run
            self.dim = int(self.model.encode_text(self._tokens(["a photo"])).shape[-1])
        self.preprocess = _preprocess(self.model.visual)

    def encode_images(self, images: np.ndarray | Sequence[np.ndarray]) -> Tensor:
        """uint8 [N, H, W, 3], or N images of any sizes, to float32 [N, D] on the CPU,
        L2-normalised. Each goes through the model's own preprocessing."""
        batches = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            with ThreadPoolExecutor() as pool:
                inputs = torch.stack(list(pool.map(self._prepare, batch)))
            batches.append(self._normalised(self.model.visual, inputs.to(self.device)))
        return torch.cat(batches) if batches else torch.zeros(0, self.dim)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """N texts to float32 [N, D] on the CPU, L2-normalised. A text longer than the model's
        context is cut by its tokenizer."""
        batches = []
        for start in range(0, len(texts), self.batch_size):
            tokens = self._tokens(list(texts[start : start + self.batch_size]))
            batches.append(self._normalised(self._texts, tokens))
        return torch.cat(batches) if batches else torch.zeros(0, self.dim)

    def image_tower(self) -> tuple[nn.Module, Preprocess]:
        """A trainable copy of the image tower, [B, 3, S, S] to [B, D], and what it expects."""
        return copy.deepcopy(self.model.visual).requires_grad_(True), self.preprocess

    def _prepare(self, image: np.ndarray) -> Tensor:
        return self._transform(Image.fromarray(image))

    def _tokens(self, texts: list[str]) -> Tensor:
        tokens: Tensor = self._tokenize(texts).to(self.device)
        return tokens

    def _normalised(self, tower: nn.Module, inputs: Tensor) -> Tensor:
        with torch.no_grad(), self._autocast():
            found = tower(inputs)
        return functional.normalize(found.float(), dim=-1).cpu()

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = half_precision(self.device)
        if dtype == torch.float32:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=dtype)


class _TextTower(nn.Module):
    """OpenCLIP keeps the text tower as parts of the whole model; here it is a module, so that
    it can be metered as one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens)
        return features


def _load(
    spec: EncoderSpec, root: Path, device: str
) -> tuple[Any, Callable[[Image.Image], Tensor], Callable[[list[str]], Tensor]]:
    import open_clip

    name, folder = spec.model, None
    if name.startswith(LOCAL_ENCODER):
        folder = (root / Path(name.removeprefix(LOCAL_ENCODER)).expanduser()).resolve()
    elif name.startswith(HUB_ENCODER):
        folder = _downloaded(name.removeprefix(HUB_ENCODER), spec.revision, root)
    if folder is not None:
        name = f"{LOCAL_ENCODER}{folder}"
    weights = str(root / Path(spec.pretrained).expanduser()) if spec.pretrained else None
    with loading(f"encoder {spec.model!r}", folder):
        model, transform = open_clip.create_model_from_pretrained(
            name, pretrained=weights, device=device
        )
        tokenize = open_clip.get_tokenizer(name)
    return model.eval().requires_grad_(False), transform, tokenize


def _downloaded(name: str, revision: str | None, root: Path) -> Path:
    """The files of a repository at its revision; OpenCLIP itself would take the newest ones."""
    from huggingface_hub import snapshot_download

    if (folder := local_path(name, root)) is not None:
        return folder.resolve()
    with loading(f"encoder {name!r} at revision {revision}", None):
        return Path(snapshot_download(name, revision=revision))


def _preprocess(tower: Any) -> Preprocess:
    size, mean, std = tower.image_size, tower.image_mean, tower.image_std
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ConfigError("encoder", [f"its images must be square, not {size}"])
    return Preprocess(sides.pop(), tuple(mean), tuple(std))

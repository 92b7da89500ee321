"""The generator: any text-to-image pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmark.contract import Images, Provenance
from benchmark.errors import ConfigError, MethodError
from benchmark.flops import count_flops, watch
from benchmark.images import decode, encode_png
from benchmark.meter import Meter
from benchmark.protocol import GeneratorSpec
from benchmark.upstream.adapters import text_parts
from benchmark.upstream.conditioning import Conditioning, added_conditions, encode
from benchmark.upstream.hashes import generator_hash, local_path
from benchmark.upstream.loading import half_precision, loading

# Stable Diffusion 1.x comes with a model that blacks out images; the ledger keeps every image.
_NO_SAFETY_CHECKER = {"safety_checker": None, "requires_safety_checker": False}


class Generator:
    """A text-to-image pipeline, frozen, in evaluation mode.

    Attributes:
        pipeline: the diffusers pipeline, for methods that do more than prompt it. Its modules
            and their copies are metered wherever they are called.
        name: the repository with the first digits of its revision, or ``generator`` with those of
            its hash; the ``source`` of the images in the ledger.
        hash: sha256 over its files, or its repository and revision, and how it draws.
        sampling: steps and guidance scale where a call does not say otherwise.
        size: side in pixels at which it generates.
        batch_size: images per call.
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        root: Path,
        device: str = "cpu",
        meter_of: Callable[[], Meter | None] = lambda: None,
    ) -> None:
        self.hash = generator_hash(spec, root)
        pinned = spec.revision and local_path(spec.model, root) is None
        self.name = (
            f"{spec.model}@{str(spec.revision)[:12]}" if pinned else f"generator@{self.hash[:12]}"
        )
        self.size, self.batch_size, self.sampling = spec.size, spec.batch_size, spec.sampling
        self.device = device
        self._meter_of = meter_of
        self.pipeline = _load(spec, root, device)
        for module, is_denoiser in _modules(self.pipeline):
            watch(module, meter_of, is_denoiser)

    def text_to_image(
        self,
        prompts: Sequence[str],
        labels: Sequence[int],
        seeds: Sequence[int],
        *,
        size: int,
        guidance_scale: float | None = None,
        steps: int | None = None,
        negative_prompt: str | None = None,
        conditioning: Conditioning | None = None,
    ) -> Iterator[Images]:
        """One image per prompt, in order, yielded in batches. An image depends on its own
        prompt and seed, not on its batch (up to rounding), and the initial noise is the same on
        every device.

        Args:
            prompts: N texts; what exceeds the text encoder's context is cut by its tokenizer.
            labels: N class indices, any mixture.
            seeds: N seeds of the initial noise, 0..2**63-1.
            size: side in pixels of the images yielded.
            guidance_scale: w of classifier-free guidance (Ho & Salimans 2022, arXiv
                2207.12598); at 1 or below there is none and a step costs half. None: the
                upstream's (``sampling``).
            steps: of the pipeline's sampler; None: the upstream's.
            negative_prompt: what guidance leads away from, in place of the empty prompt.
            conditioning: of the N images, used in place of the prompts, which then only describe
                it in the ledger.

        Raises:
            MethodError: an image is not finite, as happens when training diverged.
        """
        steps, guidance_scale = self.resolve_sampling(steps, guidance_scale)
        for start in range(0, len(prompts), self.batch_size):
            batch = slice(start, start + self.batch_size)
            pixels, nfe = self.sample(
                self.pipeline,
                seeds[batch],
                size,
                **_prompt_arguments(prompts[batch], conditioning, batch, negative_prompt),
                height=self.size,
                width=self.size,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
            )
            provenance = self._provenance(prompts[batch], seeds[batch], nfe, guidance_scale)
            yield Images(pixels, list(labels[batch]), provenance)

    def image_to_image(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        labels: Sequence[int],
        seeds: Sequence[int],
        *,
        strength: float,
        size: int,
        guidance_scale: float | None = None,
        steps: int | None = None,
        conditioning: Conditioning | None = None,
        parents: Sequence[Sequence[str]] | None = None,
    ) -> Iterator[Images]:
        """Edits images: each is encoded, noised up to ``strength`` of the way, and denoised from
        there (SDEdit: Meng et al. 2022, arXiv 2108.01073). The other arguments, and errors, are
        those of ``text_to_image``.

        Args:
            images: uint8 [N, H, W, 3], any size.
            strength: in 0..1; at 1 hardly anything of an image is left. ``strength * steps``
                steps are taken, at least one.
            parents: N ids, or several, that the images are of; noted in the ledger.
        """
        editing = self._editing
        steps, guidance_scale = self.resolve_sampling(steps, guidance_scale)
        strength = _at_least_a_step(strength, steps)
        for start in range(0, len(prompts), self.batch_size):
            batch = slice(start, start + self.batch_size)
            pixels, nfe = self.sample(
                editing,
                seeds[batch],
                size,
                image=self._at_own_size(images[batch]),
                strength=strength,
                **_prompt_arguments(prompts[batch], conditioning, batch),
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
            )
            provenance = self._provenance(prompts[batch], seeds[batch], nfe, guidance_scale)
            if parents is not None:
                provenance = [
                    replace(row, parents=tuple(ids))
                    for row, ids in zip(provenance, parents[batch], strict=True)
                ]
            yield Images(pixels, list(labels[batch]), provenance)

    def condition(self, texts: Sequence[str]) -> Conditioning:
        """N texts to their prompt embeddings; see ``conditioning.encode``."""
        return encode(self.pipeline, texts)

    def encode(self, images: np.ndarray) -> Tensor:
        """uint8 [N, H, W, 3], N at least 1, to the means of their latents, [N, c, h, w], scaled as
        the denoiser was trained on them. (Their variance is left out: it is tiny beside the noise
        of training.)"""
        vae, latents = self.pipeline.vae, []
        for start in range(0, len(images), self.batch_size):
            pixels = self._at_own_size(images[start : start + self.batch_size]) * 2 - 1
            with torch.no_grad():
                posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
            latents.append(posterior.mean * vae.config.scaling_factor)
        return torch.cat(latents)

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """One evaluation of the denoiser, with gradients where they are on.

        Args:
            noisy: [B, c, h, w].
            timesteps: int64 [B].

        Returns:
            [B, c, h, w]: noise, or v, as the denoiser was trained to predict.
        """
        predicted: Tensor = denoiser(self.pipeline)(
            noisy,
            timesteps,
            encoder_hidden_states=conditioning.embeds,
            **added_conditions(self.pipeline, conditioning, self.size),
        ).sample
        return predicted

    @cached_property
    def noise_scheduler(self) -> Any:
        """The noise schedule that the generator was trained with (diffusers' DDPM scheduler)."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.pipeline.scheduler.config)

    def resolve_sampling(
        self, steps: int | None, guidance_scale: float | None
    ) -> tuple[int, float]:
        """Steps and guidance scale, the upstream's where None is given."""
        return (
            self.sampling.steps if steps is None else steps,
            self.sampling.guidance_scale if guidance_scale is None else guidance_scale,
        )

    def estimate_tflops(
        self,
        images: int,
        steps: int | None = None,
        guidance_scale: float | None = None,
        strength: float | None = None,
    ) -> float:
        """TFLOPs that generating so many images will cost: what a method that trains reserves of
        its budget. An upper bound: a pipeline may save an evaluation (XL embeds no empty prompt).

        Args:
            strength: of edits; None for images made from noise alone.
        """
        steps, guidance_scale = self.resolve_sampling(steps, guidance_scale)
        pipeline, side = self.pipeline, self.size // int(self.pipeline.vae_scale_factor)
        with self._unmetered(), torch.no_grad():
            empty = encode(pipeline, [""])
            like: dict[str, Any] = {"dtype": empty.embeds.dtype, "device": empty.embeds.device}
            config: Any = denoiser(pipeline).config
            noisy = torch.zeros(1, config.in_channels, side, side, **like)
            given = {
                "encoder_hidden_states": empty.embeds,
                **added_conditions(pipeline, empty, self.size),
            }
            ids = torch.zeros(empty.embeds.shape[:2], dtype=torch.long, device=noisy.device)
            evaluation = count_flops(denoiser(pipeline), (noisy, ids[:, 0]), given, False)
            text = sum(count_flops(part, (ids,), {}, False) for _, part in text_parts(pipeline))
            if strength is None:
                parts = pipeline.vae.decoder, getattr(pipeline.vae, "post_quant_conv", None)
                vae = sum(count_flops(part, (noisy,), {}, False) for part in parts if part)
            else:  # called as a whole, an autoencoder encodes and decodes
                pixels = torch.zeros(1, 3, self.size, self.size, **like)
                vae = count_flops(pipeline.vae, (pixels,), {}, False)
        rows = 2 if guidance_scale > 1 else 1  # with guidance, every prompt has an empty one beside
        nfe = self._evaluations(steps, strength)
        return images * (rows * (nfe * evaluation + text) + vae) / 1e12

    def sample(
        self, pipeline: Any, seeds: Sequence[int], size: int, **arguments: Any
    ) -> tuple[np.ndarray, int]:
        """One call of any pipeline that makes one image per seed, each from a random generator
        of its own.

        Returns:
            uint8 [B, S, S, 3], S = ``size``, and the NFE spent on one of them.

        Raises:
            MethodError: an image is not finite.
        """
        meter = self._meter_of()
        if meter is not None:
            meter.charge(images=len(seeds))
        noise = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        with torch.no_grad(), counting_rows(denoiser(pipeline)) as rows:
            images = pipeline(generator=noise, output_type="pt", **arguments).images
        return to_pixels(images, size), rows[0] // len(seeds)

    @cached_property
    def _editing(self) -> Any:
        from diffusers import AutoPipelineForImage2Image

        pipeline = AutoPipelineForImage2Image.from_pipe(self.pipeline)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _evaluations(self, steps: int, strength: float | None) -> int:
        """Evaluations of the denoiser for one image without guidance: some samplers take one
        more than they are asked for, or two per step."""
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        scheduler.set_timesteps(steps)
        taken = steps if strength is None else int(steps * _at_least_a_step(strength, steps))
        return len(scheduler.timesteps[(steps - taken) * scheduler.order :])

    @contextmanager
    def _unmetered(self) -> Iterator[None]:
        meter = self._meter_of()
        with meter.paused() if meter is not None else nullcontext():
            yield

    def _provenance(
        self, prompts: Sequence[str], seeds: Sequence[int], nfe: int, guidance_scale: float
    ) -> list[Provenance]:
        return [
            Provenance(
                origin="generated",
                source=self.name,
                prompt=prompt,
                seed=int(seed),
                nfe=nfe,
                guidance_scale=float(guidance_scale),
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def _at_own_size(self, images: np.ndarray) -> Tensor:
        """uint8 [N, H, W, 3] to float [N, 3, S, S] in 0..1, S = ``self.size``, on the device."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True)
        return pixels.clamp(0, 1).to(self.device)  # bicubic overshoots


def to_pixels(images: Tensor, size: int) -> np.ndarray:
    """float [B, 3, H, W] in 0..1, any device, to uint8 [B, S, S, 3], S = ``size``.

    Raises:
        MethodError: a value is NaN or infinite.
    """
    if not torch.isfinite(images).all():
        raise MethodError("the generator made an image with values that are not finite")
    rounded = (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = rounded.permute(0, 2, 3, 1).cpu().numpy()
    if pixels.shape[1:3] == (size, size):
        return pixels
    return np.stack([decode(encode_png(image), size, "a generated image") for image in pixels])


def denoiser(pipeline: Any) -> nn.Module:
    """The pipeline's UNet or transformer."""
    module: nn.Module | None = getattr(pipeline, "unet", None) or pipeline.transformer
    return module  # type: ignore[return-value]


@contextmanager
def counting_rows(module: nn.Module) -> Iterator[list[int]]:
    """Counts into the list's one number the rows that ``module`` is given: the NFE of a batch."""
    rows = [0]

    def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = [*args, *kwargs.values()]
        rows[0] += next(len(value) for value in inputs if isinstance(value, Tensor) and value.ndim)

    handle = module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def _prompt_arguments(
    prompts: Sequence[str],
    conditioning: Conditioning | None,
    batch: slice,
    negative_prompt: str | None = None,
) -> dict[str, Any]:
    """The arguments of a diffusers pipeline that say what one batch is to show."""
    negative = [negative_prompt] * len(prompts) if negative_prompt else None
    if conditioning is None:
        return {"prompt": list(prompts), "negative_prompt": negative}
    return {**conditioning.rows(batch).arguments(), "negative_prompt": negative}


def _at_least_a_step(strength: float, steps: int) -> float:
    """``strength`` for which a pipeline takes one step or more: it rounds the product with
    ``steps`` down, and 49 * (1 / 49) lies below 1."""
    return min(1.0, max(strength, (1 + 1e-9) / steps))


def _load(spec: GeneratorSpec, root: Path, device: str) -> Any:
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
    folder = local_path(spec.model, root)
    source = str(folder.resolve()) if folder is not None else spec.model
    pinned = {
        "revision": None if folder else spec.revision,
        "local_files_only": folder is not None,
    }
    with loading(f"generator {spec.model!r}", folder):
        config = DiffusionPipeline.load_config(source, **pinned)
        pipeline = AutoPipelineForText2Image.from_pretrained(
            source,
            **pinned,
            variant=spec.variant,
            dtype=half_precision(device),
            **{key: value for key, value in _NO_SAFETY_CHECKER.items() if key in config},
        )
    pipeline.set_progress_bar_config(disable=True)
    if spec.sampling.scheduler:
        pipeline.scheduler = _scheduler(spec.sampling.scheduler, pipeline)
    _check_size(pipeline, spec.model, spec.size)
    for module, _ in _modules(pipeline):
        module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return pipeline.to(device)


def _scheduler(name: str, pipeline: Any) -> Any:
    """The noise scheduler of diffusers called ``name``, on the pipeline's own noise schedule."""
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "from_config"):
        near = ", ".join(get_close_matches(name, dir(diffusers), n=3)) or "none"
        raise ConfigError(
            "bench.toml", [f"sampling.scheduler: diffusers has no {name!r}; nearest: {near}"]
        )
    return kind.from_config(pipeline.scheduler.config)


def _modules(pipeline: Any) -> Iterator[tuple[nn.Module, bool]]:
    """Everything the pipeline computes with, and whether it is the denoiser. A pipeline calls the
    encoder and the decoder of its autoencoder, never the whole, so these are listed."""
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module):
            parts = component.children() if name == "vae" else [component]
            for part in parts:
                yield part, component is denoiser(pipeline)


def _check_size(pipeline: Any, model: str, size: int) -> None:
    factor = int(getattr(pipeline, "vae_scale_factor", 8))
    if size % factor:
        raise ConfigError(
            "bench.toml", [f"generator {model!r}: size {size}: not a multiple of {factor}"]
        )

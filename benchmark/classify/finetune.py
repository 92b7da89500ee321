"""A pretrained image tower with a new linear head, all of it trained."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

from benchmark.classify._batches import Data
from benchmark.classify._training import Fitted, Normalise, fit_network
from benchmark.errors import ConfigError, DataError
from benchmark.meter import Progress
from benchmark.protocol import FinetuneSpec
from benchmark.upstream import Upstream
from benchmark.upstream.loading import loading

TIMM = "timm:"


def fit(
    spec: FinetuneSpec,
    data: Data,
    upstream: Upstream,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Fitted:
    """Trains tower and head together; see ``fit_network`` for what is chosen how.

    Raises:
        ConfigError: ``spec.model`` is neither ``encoder`` nor a model of timm.
        DataError: the weights are missing or do not fit the model.
    """
    if spec.model == "encoder":
        network = encoder_network(upstream, data.n_classes)
    elif spec.model.startswith(TIMM):
        weights = upstream.root / spec.weights if spec.weights else None
        network = timm_network(spec.model.removeprefix(TIMM), weights, data.n_classes)
    else:
        raise ConfigError(
            "classifier", [f"model = {spec.model!r}: give 'encoder' or '{TIMM}<name>'"]
        )
    return fit_network(network, spec, data, seed, device, progress)


def encoder_network(upstream: Upstream, n_classes: int) -> nn.Module:
    """A copy of the upstream's own image tower, its features [B, D] to logits [B, C]."""
    tower, expected = upstream.encoder.image_tower()
    head = nn.Linear(upstream.encoder.dim, n_classes)
    return nn.Sequential(Normalise(expected.mean, expected.std, expected.size), tower, head)


def timm_network(name: str, weights: Path | None, n_classes: int) -> nn.Module:
    """A model of timm with its published weights, or those of a file, and a new head; fed as
    its weights expect it (for ImageNet's: size and normalisation of the weights' own card).

    Raises:
        ConfigError: timm has no such model.
        DataError: the weights cannot be read, downloaded, or do not fit the model.
    """
    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=5))
        raise ConfigError("classifier", [f"model: timm has no {name!r}; nearest: {near or 'none'}"])
    if weights is not None and not weights.is_file():
        raise DataError(f"timm model {name!r}: no such file: {weights}")
    source = {"file": str(weights)} if weights else None
    with loading(f"timm model {name!r}, {weights or 'published weights'}", None):
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=source, num_classes=n_classes
        )
    expected = resolve_model_data_config(network)
    return nn.Sequential(
        Normalise(expected["mean"], expected["std"], expected["input_size"][-1]), network
    )

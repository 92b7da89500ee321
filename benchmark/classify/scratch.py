"""A residual network trained from random weights on the few images alone."""

from __future__ import annotations

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from benchmark.classify._batches import Data
from benchmark.classify._training import Fitted, Normalise, fit_network
from benchmark.errors import ConfigError
from benchmark.meter import Progress
from benchmark.protocol import ScratchSpec

SMALL = 64  # pixels: the largest side that gets the small stem
STRIDE = 2  # of the small stem
DROPOUT = 0.2  # before the last layer
MAX_STAGES = 4  # as timm's ResNet has
HALF = (0.5, 0.5, 0.5)  # pixels to -1..1


def fit(
    spec: ScratchSpec, data: Data, seed: int, device: torch.device, progress: Progress
) -> Fitted:
    """Trains the network; see ``fit_network`` for what is chosen how.

    Raises:
        ConfigError: ``spec.layers`` names no or too many stages.
    """
    side = data.real.pixels.shape[1]
    network = nn.Sequential(Normalise(HALF, HALF), resnet(spec, data.n_classes, side))
    return fit_network(network, spec, data, seed, device, progress)


def resnet(spec: ScratchSpec, n_classes: int, side: int) -> nn.Module:
    """timm's ResNet of basic blocks, ``spec.layers`` per stage, its stem fitted to ``side``.

    Stage i has ``spec.width * 2**i`` channels. Images of more than 64 pixels get the stem of
    ImageNet: 7x7 at stride 2, then a pooling. Smaller ones get 3x3 without pooling (He et al.
    2016, arXiv:1512.03385, section 4.2), but at stride 2: a quarter of the cost buys twice the
    width, which is worth more when images are few.

    Raises:
        ConfigError: ``spec.layers`` names no or too many stages.
    """
    if not 1 <= len(spec.layers) <= MAX_STAGES or min(spec.layers) < 1:
        raise ConfigError(
            "classifier", [f"layers = {list(spec.layers)}: give 1 to {MAX_STAGES} numbers >= 1"]
        )
    network = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm annotates the instance, means the class
        spec.layers,
        num_classes=n_classes,
        stem_type="deep",  # the one stem of timm whose width can be chosen; replaced below
        stem_width=spec.width // 2,
        channels=tuple(spec.width * 2**stage for stage in range(len(spec.layers))),
        drop_rate=DROPOUT,
    )
    if side <= SMALL:
        stem = nn.Conv2d(3, spec.width, 3, stride=STRIDE, padding=1, bias=False)
        network.add_module("maxpool", nn.Identity())
    else:
        stem = nn.Conv2d(3, spec.width, 7, stride=2, padding=3, bias=False)
    network.add_module("conv1", stem)
    for stage in range(len(spec.layers), MAX_STAGES):
        network.add_module(f"layer{stage + 1}", nn.Identity())
    return network

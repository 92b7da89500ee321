"""Training batches: the 1:1 sampler of real and augmented images, random crop and flip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

# Images float [B, 3, S, S] in 0..1 and targets float [B, C] to the same, mixed.
Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

# Widest shift of the random crop, as a share of the side: 3 pixels at 32, 22 at 224. CIFAR's
# usual 4 at 32 (He et al. 2016, arXiv:1512.03385, section 4.2) is an eighth.
CROP_PADDING = 0.1


@dataclass(frozen=True)
class Labelled:
    """Images in memory.

    Attributes:
        pixels: uint8 [N, S, S, 3], RGB.
        labels: int64 [N], each in 0..C-1; the primary classes, where there are targets.
        targets: float32 [N, C] where a label is soft or negative (``benchmark.labels``), else
            None.
    """

    pixels: np.ndarray
    labels: np.ndarray
    targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """All that a classifier is fitted to. Test images are not among it.

    Attributes:
        real: the shots, at least one of every class.
        added: what the method made, any number.
        val: validation images, any number; to choose among checkpoints or decays only.
        n_classes: C.
        flip: whether a mirrored image keeps its class.
        mix: what the method does to a batch, where it does.
    """

    real: Labelled
    added: Labelled
    val: Labelled
    n_classes: int
    flip: bool
    mix: Mix | None = None

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3]; rows count through the real images, then the added ones."""
        pixels = np.empty((len(rows), *self.real.pixels.shape[1:]), np.uint8)
        added = rows >= len(self.real)
        pixels[~added] = self.real.pixels[rows[~added]]
        pixels[added] = self.added.pixels[rows[added] - len(self.real)]
        return pixels

    @property
    def labels(self) -> np.ndarray:
        """int64 [N + M], of the real images, then of the added ones."""
        return np.concatenate([self.real.labels, self.added.labels])

    @property
    def targets(self) -> np.ndarray:
        """What the loss compares with: ``labels`` where all are hard and nothing is mixed, else
        float32 [N + M, C]."""
        if self.added.targets is None and self.mix is None:
            return self.labels
        hard = np.eye(self.n_classes, dtype=np.float32)
        added = hard[self.added.labels] if self.added.targets is None else self.added.targets
        return np.concatenate([hard[self.real.labels], added])


def plan_batches(
    data: Data, steps: int, batch_size: int, generator: torch.Generator
) -> torch.Tensor:
    """The rows of every batch, int64 [steps, batch_size], as ``Data.pixels`` counts them.

    Half of a batch is drawn from the real images and half from the added ones, each half
    balanced over the classes. A class without added images fills its share of the second half
    with its real ones, so that the classes weigh the same whatever a method could add; where
    nothing was added at all, every batch is real. An image counts for its primary class, a
    negative one too: it takes a place of the added half of the class that it is not of.

    Raises:
        ValueError: a class has no real image.
    """
    real = _rows_by_class(data.real.labels, data.n_classes)
    if empty := [label for label, rows in enumerate(real) if not len(rows)]:
        raise ValueError(f"no real image of class {empty[0]}")
    added = _rows_by_class(data.added.labels, data.n_classes)
    added = [
        rows + len(data.real) if len(rows) else shots
        for rows, shots in zip(added, real, strict=True)
    ]
    halves = [
        _balanced(rows, steps * batch_size // 2, generator).view(steps, -1)
        for rows in (real, added)
    ]
    return torch.cat(halves, dim=1)


def _rows_by_class(labels: np.ndarray, n_classes: int) -> list[torch.Tensor]:
    given = torch.tensor(labels)
    return [torch.nonzero(given == label).flatten() for label in range(n_classes)]


def _balanced(rows: list[torch.Tensor], count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` rows in rounds: every class once per round in a new order, and every image of
    a class once before one of them comes again."""
    rounds = -(-count // len(rows))
    columns = [_shuffled_epochs(of_class, rounds, generator) for of_class in rows]
    order = torch.rand(rounds, len(rows), generator=generator).argsort(dim=1)
    return torch.stack(columns, dim=1).gather(1, order).flatten()[:count]


def _shuffled_epochs(rows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    epochs = -(-count // len(rows))
    order = torch.rand(epochs, len(rows), generator=generator).argsort(dim=1)
    return rows[order.flatten()[:count]]


def to_float(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 [B, S, S, 3] to float [B, 3, S, S] in 0..1, stored channels-last."""
    writable = np.require(pixels, requirements=["C", "W"])  # as torch wants it
    return torch.from_numpy(writable).to(device).permute(0, 3, 1, 2).float().div_(255)


def random_crop_and_flip(
    images: torch.Tensor, flip: bool, generator: torch.Generator
) -> torch.Tensor:
    """Float [B, 3, S, S], each image padded by a tenth of its side with its edge pixels and
    cropped to its own size at a random place; mirrored half of the time where ``flip`` says that
    this keeps the class.

    Real and augmented images of every method are cropped and flipped in the same way.
    """
    count, _, side, _ = images.shape
    margin = max(1, round(CROP_PADDING * side))
    shift = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator)
    window = torch.arange(side) + shift - margin  # [2, B, S]: source row and column of each pixel
    window = window.clamp(0, side - 1)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        window[1] = torch.where(mirrored, window[1].flip(-1), window[1])
    y, x = window.to(images.device)
    # One flat index: half the time of three that are broadcast, images[batch, y, x].
    first = side * side * torch.arange(count, device=images.device)
    source = first[:, None, None] + side * y[:, :, None] + x[:, None, :]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
    cropped = pixels.index_select(0, source.flatten()).view(count, side, side, 3)
    return cropped.permute(0, 3, 1, 2)

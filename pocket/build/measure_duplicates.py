"""Measure what the contamination thresholds of ``bench.toml`` catch, and what they flag wrongly.

Known duplicates are made of the training images of a task (re-encoded, mirrored, resized, a little
brighter, cropped by a pixel); known non-duplicates are its other images. No test image is
read and no classifier is run. The numbers stand in DATA_CARD.md.

Run from the root of the repository:

    python pocket/build/measure_duplicates.py
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmark.data.split import load_split
from benchmark.home import find_root
from benchmark.images import mirrored
from benchmark.protocol import load_protocol
from benchmark.registry import load_registry
from benchmark.trial.contamination import hamming, hashes
from benchmark.upstream import open_upstream

if TYPE_CHECKING:
    from benchmark.upstream.encoder import Encoder

TASKS = ("fashion-5shot", "openmoji-5shot", "flags-1shot")
MOST = 1000  # images of a task: every second one of 2,000, so that classes stay whole
NEVER = 2.0  # a cosine that no pair has
# pixels, phash, cosine: each alone, both of the second kind, all three
RULES = {
    "pixels alone": [(pixels, 0, NEVER) for pixels in (0.0, 0.02, 0.04, 0.05, 0.06, 0.08)],
    "hash alone": [(-1.0, bits, -1.0) for bits in (0, 2, 4, 6, 8, 10, 12)],
    "cosine alone": [(-1.0, 64, cosine) for cosine in (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998)],
    "hash and cosine": [
        (-1.0, bits, cosine) for bits in (2, 4, 6, 8) for cosine in (0.9, 0.95, 0.97, 0.98)
    ],
    "pixels, or hash and cosine": [
        (pixels, bits, cosine)
        for pixels in (0.04, 0.05, 0.06)
        for bits, cosine in ((2, 0.9), (2, 0.95), (4, 0.9), (4, 0.95), (4, 0.97), (6, 0.97))
    ],
}

Rule = tuple[float, int, float]
Picture = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Picture:
    """Written as JPEG and read again."""

    def again(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return again


def smaller(image: Image.Image) -> Image.Image:
    """Down by an eighth (32 to 28 pixels) and up again."""
    side = image.width * 7 // 8
    return image.resize((side, side), Image.Resampling.BICUBIC).resize(
        image.size, Image.Resampling.BICUBIC
    )


def cropped(image: Image.Image) -> Image.Image:
    """One pixel less on every side, enlarged again."""
    return ImageOps.crop(image, 1).resize(image.size, Image.Resampling.BICUBIC)


def brighter(image: Image.Image) -> Image.Image:
    """5 % brighter, contrast raised by 10 %."""
    return ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(1.05)).enhance(1.1)


COPIES: dict[str, Picture] = {
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "mirrored": ImageOps.mirror,
    "both": lambda image: jpeg(75)(ImageOps.mirror(image)),
    "resized": smaller,
    "brighter": brighter,
    "cropped": cropped,
}


class Pool:
    """Images of a task: uint8 [M, S, S, 3], their hashes [M] and their features [M, D]."""

    def __init__(self, pixels: np.ndarray, encoder: Encoder) -> None:
        self.pixels, self.hashes = pixels, hashes(pixels)
        self.features = encoder.encode_images(pixels).numpy()


class Compared:
    """Images against the images of a task, as they are and mirrored.

    Attributes:
        distance: [2, N, M], bits of 64; as they are, mirrored.
        similarity: [2, N, M], cosine.
        rms: [2, N, M], root mean square of the differences of pixels, 0..1.
    """

    def __init__(self, images: np.ndarray, pool: Pool, encoder: Encoder) -> None:
        views = [images, mirrored(images)]
        self.distance = np.stack([hamming(hashes(view), pool.hashes) for view in views])
        features = [encoder.encode_images(view).numpy() for view in views]
        self.similarity = np.stack([view @ pool.features.T for view in features])
        self.rms = np.stack([_rms(view, pool.pixels) for view in views])

    def flagged(self, pixels: float, bits: int, cosine: float) -> np.ndarray:
        """bool [N, M]: by the rule of ``benchmark.trial.contamination``."""
        both = (self.distance <= bits) & (self.similarity >= cosine)
        flagged: np.ndarray = ((self.rms <= pixels) | both).any(0)
        return flagged


def _rms(images: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Of all pairs; float64, as it is a difference of large numbers."""
    first, second = (part.reshape(len(part), -1) / 255.0 for part in (images, pool))
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return np.sqrt(np.clip(squares, 0, None).round(9) / first.shape[1])


def copied(pool: np.ndarray, copy: Picture) -> np.ndarray:
    """uint8 [N, S, S, 3]."""
    return np.stack([np.asarray(copy(Image.fromarray(image))) for image in pool])


def table(copies: dict[str, Compared], others: Compared, rules: Sequence[Rule]) -> None:
    """Recall of every kind of copy, and the share of images that are flagged with another one."""
    print(
        f"{'pixels':>7} {'phash':>6} {'cosine':>7} ", *(f"{name:>9}" for name in (*copies, "wrong"))
    )
    for rule in rules:
        recall = [np.diagonal(copy.flagged(*rule)).mean() for copy in copies.values()]
        wrong = others.flagged(*rule)
        np.fill_diagonal(wrong, False)
        values = (f"{100 * value:>9.2f}" for value in (*recall, wrong.any(1).mean()))
        print(f"{rule[0]:>7} {rule[1]:>6} {rule[2]:>7} ", *values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", default="pocket")
    parser.add_argument("--rules", choices=[*RULES, "declared"], nargs="+", default=["declared"])
    parser.add_argument("--tasks", choices=TASKS, nargs="+", default=TASKS)
    options = parser.parse_args()
    root = find_root()
    protocol, registry = load_protocol(root), load_registry(root)
    spec = protocol.upstream_named(options.upstream)
    encoder = open_upstream(options.upstream, spec, root).encoder
    declared = spec.contamination
    rules = RULES | {"declared": [(declared.pixels, declared.phash, declared.cosine)]}
    for name in options.tasks:
        split = load_split(registry.task(name), 0, root)
        parts = [part.pixels() for part in (split.shots, split.val, split.unused) if len(part)]
        pixels = np.concatenate(parts)
        pixels = pixels[:: -(-len(pixels) // MOST)]
        pool = Pool(pixels, encoder)
        copies = {
            kind: Compared(copied(pixels, copy), pool, encoder) for kind, copy in COPIES.items()
        }
        others = Compared(pixels, pool, encoder)
        for words in options.rules:
            print(f"\n{name}, {len(pixels)} images: {words}, %", flush=True)
            table(copies, others, rules[words])


if __name__ == "__main__":
    main()

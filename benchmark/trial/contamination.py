"""Contamination: which augmented images are copies of a test image.

Every accepted image, generated ones too, is compared with the whole test split, as it is and
mirrored. A pair is flagged where

    pixels      the pixels are equal, or nearly: the root mean square of their differences, which
                Carlini et al. (2023), arXiv 2301.13188, find memorised images with,
    perceptual  the perceptual hashes differ in few bits, and the features agree as well,
    cosine      the features alone agree so well that only a copy could (for upstreams that
                declare such a threshold).

Hash and features decide only together: hashes of plain shapes collide, and an encoder may put
different photographs of trousers next to one another. The thresholds are the upstream's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from benchmark.data.split import ImageSet
from benchmark.images import mirrored, perceptual_hash
from benchmark.protocol import ContaminationSpec
from benchmark.records.tables import check, tables

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.upstream.encoder import Encoder

_DECIMALS = 6  # of similarities: what two machines agree on
_BLOCK = 256  # augmented images compared at once
_GRID = 8  # cells along a side of a sketch
_SLACK = 1e-5  # what single precision may add to a squared difference of sketches
_BYTES = 2**25  # of pixels held at once while pairs are compared

Pairs = dict[str, np.ndarray]


def examine(
    ledger: pd.DataFrame,
    pixels: np.ndarray,
    test: ImageSet,
    encoder: Encoder,
    spec: ContaminationSpec,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compares the accepted images with the test images.

    Args:
        ledger: as ``Ledger.frame`` returns it.
        pixels: uint8 [M, S, S, 3], the accepted images in ledger order.
        test: the test images.
        spec: the thresholds.

    Returns:
        A ledger that names the test image nearest to each accepted image (by the cosine of the
        encoder's features, -1..1; rejected images have none), and the table ``contamination``
        of ``benchmark.records.record``: a row per flagged pair, by ledger index and test image.
    """
    import pandas as pd

    from benchmark.upstream.features import cached_features

    columns = list(tables()["contamination"].columns)
    ledger, flagged = ledger.copy(), pd.DataFrame(columns=columns)
    accepted = ledger["accepted"].to_numpy(bool)
    if len(pixels):
        shown, features = test.pixels(), encoder.encode_images(pixels).numpy()
        known = _Images(shown, _hashes_of(test), cached_features(shown, encoder))
        kept = np.array([int(text, 16) for text in ledger.loc[accepted, "phash"]], np.uint64)
        rows, similarity = _nearest(features, known.features)
        ledger.loc[accepted, "nearest_test_id"] = [test.ids[row] for row in rows]
        ledger.loc[accepted, "nearest_test_similarity"] = similarity
        pairs = _Comparison(_Images(pixels, kept, features), known, encoder, spec).pairs()
        flagged = pd.DataFrame(
            {
                **pairs,
                "index": ledger.loc[accepted, "index"].to_numpy()[pairs["index"]],
                "test_id": [test.ids[row] for row in pairs["test_id"]],
            },
            columns=columns,
        )
    checked: tuple[pd.DataFrame, pd.DataFrame] = (
        check("ledger", ledger, "ledger"),
        check("contamination", flagged, "contamination"),
    )
    return checked


def hashes(pixels: np.ndarray) -> np.ndarray:
    """Perceptual hashes of uint8 [N, H, W, 3], as uint64 [N]."""
    return np.array([int(perceptual_hash(image), 16) for image in pixels], np.uint64)


@lru_cache(maxsize=8)
def _hashes_of(test: ImageSet) -> np.ndarray:
    """Of test images, which every trial of a task and seed is compared with."""
    return hashes(test.pixels())


def hamming(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differing bits of every pair of uint64 [N] and [M]: uint8 [N, M], 0..64."""
    found: np.ndarray = np.bitwise_count(first[:, None] ^ second)
    return found


def sketches(pixels: np.ndarray) -> np.ndarray:
    """Of uint8 [N, S, S, 3], float32 [N, 192]: the means of a grid of cells, scaled so that
    two sketches are never farther apart than the root mean square difference of the images."""
    side = pixels.shape[1]
    starts = np.linspace(0, side, _GRID + 1).astype(int)[:-1]
    length = np.diff(starts, append=side)
    scale = np.sqrt(np.outer(length, length) * (3.0 * side**2)).astype(np.float32)[:, :, None]
    found = np.empty((len(pixels), 3 * _GRID**2), np.float32)
    for start in range(0, len(pixels), _BLOCK):  # in single precision an image is four times as big
        part = slice(start, start + _BLOCK)
        sums = np.add.reduceat(pixels[part] / np.float32(255), starts, 1, dtype=np.float32)
        sums = np.add.reduceat(sums, starts, 2)
        found[part] = (sums / scale).reshape(len(sums), -1)
    return found


def _nearest(features: np.ndarray, known: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Positions [M] of the test images of largest cosine, and that cosine, float64 [M]."""
    from torch import from_numpy

    from benchmark.upstream.index.exact import ExactIndex

    similarity, rows = ExactIndex(known).search(from_numpy(features), 1)
    # through float64: a float32 has digits of its own behind the sixth decimal
    return rows[:, 0].tolist(), np.round(similarity[:, 0].numpy().astype(float), _DECIMALS)


@dataclass(frozen=True)
class _Images:
    """uint8 [N, S, S, 3], uint64 [N], float32 [N, D] of unit length."""

    pixels: np.ndarray
    hashes: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class _Comparison:
    """Augmented images against test images. A pair is named by its two positions."""

    added: _Images
    test: _Images
    encoder: Encoder
    spec: ContaminationSpec

    def pairs(self) -> Pairs:
        """The columns of the table, each pair once: seen the way in which its pixels differ
        less, where it is flagged both ways."""
        known = sketches(self.test.pixels)
        found = [*self._view(known, flip=False), *self._view(known, flip=True)]
        together = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        by = ("mirrored", "rms", "test_id", "index")  # np.lexsort: the last key counts first
        order = np.lexsort([together[name] for name in by])
        keys = np.stack([together["index"][order], together["test_id"][order]], 1)
        first = order[np.unique(keys, axis=0, return_index=True)[1]]
        return {name: values[first] for name, values in together.items()}

    def _view(self, known: np.ndarray, flip: bool) -> Iterator[Pairs]:
        """Flagged pairs with the augmented images as they are, or mirrored; block by block, so
        that no second copy of all images is made.

        Sketches and hashes cost little and miss no pair that is flagged: only what they leave is
        compared pixel by pixel.
        """
        for start in range(0, len(self.added.pixels), _BLOCK):
            part = slice(start, start + _BLOCK)
            pixels, prints = self.added.pixels[part], self.added.hashes[part]
            if flip:
                pixels = mirrored(pixels)
                prints = hashes(pixels)
            distance = hamming(prints, self.test.hashes)
            maybe = distance <= self.spec.phash
            maybe |= _squares(sketches(pixels), known) <= self.spec.pixels**2 + _SLACK
            if self.spec.cosine_alone is not None and not flip:
                scores = self.added.features[part] @ self.test.features.T
                maybe |= scores >= self.spec.cosine_alone - 10**-_DECIMALS
            rows, columns = np.nonzero(maybe)
            pairs = self._flagged(pixels, start, rows, columns, distance[rows, columns], flip)
            yield {**pairs, "index": pairs["index"] + start}

    def _flagged(
        self,
        pixels: np.ndarray,
        start: int,
        rows: np.ndarray,
        columns: np.ndarray,
        bits: np.ndarray,
        flip: bool,
    ) -> Pairs:
        """What of the given pairs is flagged, and why. Rows count in the block ``pixels``, which
        begins at ``start``. Only the mirrored images that occur in a pair are encoded: encoding
        is most of the cost."""
        wanted, place = np.unique(rows, return_inverse=True)
        features = self.added.features[wanted + start]
        if flip:
            features = self.encoder.encode_images(pixels[wanted]).numpy()
        cosine = np.einsum("nd,nd->n", features[place], self.test.features[columns], dtype=float)
        cosine, rms = cosine.round(_DECIMALS), _rms(pixels, rows, self.test.pixels, columns)
        alone = np.inf if self.spec.cosine_alone is None else self.spec.cosine_alone
        reasons = {
            "pixels": rms <= self.spec.pixels,
            "perceptual": (bits <= self.spec.phash) & (cosine >= self.spec.cosine),
            "cosine": cosine >= alone,
        }
        found = {
            "index": rows,
            "test_id": columns,
            "reason": np.select(list(reasons.values()), list(reasons), ""),
            "distance": bits.astype(np.int64),
            "rms": rms,
            "mirrored": np.full(len(rows), flip),
            "similarity": cosine,
        }
        flagged = found["reason"] != ""
        return {name: values[flagged] for name, values in found.items()}


def _squares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances of all pairs of [N, D] and [M, D]: [N, M]."""
    lengths = (first**2).sum(1)[:, None] + (second**2).sum(1)
    found: np.ndarray = lengths - 2 * first @ second.T
    return found


def _rms(
    first: np.ndarray, rows: np.ndarray, second: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Root mean square difference of pairs of images, 0..1, exact: float64 [n]."""
    count = max(1, _BYTES // (4 * first[0].size))
    found = [np.zeros(0)]
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        apart = first[rows[part]].astype(np.int32) - second[columns[part]]
        squares = (apart**2).reshape(len(apart), -1).mean(1)
        found.append(np.sqrt(squares) / 255)
    return np.concatenate(found).round(_DECIMALS)

"""Copies of test images are found, other images are not, and the clean value leaves them out."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmark.data.split import load_split
from benchmark.errors import RecordError
from benchmark.images import mirrored, perceptual_hash
from benchmark.protocol import ContaminationSpec
from benchmark.records.score import score
from benchmark.records.tables import check
from benchmark.registry import load_registry
from benchmark.trial.contamination import examine, hamming, hashes, sketches
from benchmark.upstream import open_upstream
from tests.helpers.records import contamination, ledger
from tests.helpers.upstreams import small_spec

EXACT = ContaminationSpec(pixels=0, phash=0, cosine=1)


@pytest.fixture(scope="module")
def encoder(root):
    return open_upstream("small", small_spec(root), root, "cpu").encoder


@pytest.fixture(scope="module")
def split(root):
    return load_split(load_registry(root).task("openmoji-1shot"), 0, root)


@pytest.fixture(scope="module")
def test(split):
    """Every tenth test image."""
    images = split.test.for_contamination()
    return images.select(range(0, len(images), 10))


class Colours:
    """An encoder whose feature is the mean colour, for facts that need no model."""

    hash, dim = "colours", 3

    def encode_images(self, pixels):
        means = torch.from_numpy(pixels.mean((1, 2)).astype(np.float32)) + 1
        return torch.nn.functional.normalize(means, dim=-1)


class Images:
    """A set of test images, as ``examine`` needs it."""

    def __init__(self, pixels):
        self.pixels = lambda: pixels
        self.ids = [f"t{row}" for row in range(len(pixels))]


def rows(pixels, *rejected):
    """The ledger of these images, with images in between that were rejected."""
    told = [dict(phash=perceptual_hash(image)) for image in pixels]
    for index in rejected:
        told.insert(index, dict(accepted=False, reason="score: 0.1 < 0.2"))
    table = [ledger(index=index, **row) for index, row in enumerate(told)]
    return check("ledger", pd.concat(table, ignore_index=True) if table else ledger()[:0], "test")


def jpeg(image, quality=90):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def noise(count, seed=0, size=32):
    """Smooth pictures, each of its own."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    tall = [Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in coarse]
    return np.stack([np.asarray(image) for image in tall])


def test_copies_are_flagged_with_their_test_image(test, encoder):
    shown = test.pixels([3, 8, 11])
    made = np.stack([shown[0], mirrored(shown[1]), jpeg(shown[2])])
    # the rejected row in between has no pixels: positions are not ledger indices
    done, flagged = examine(rows(made, 1), made, test, encoder, ContaminationSpec())
    found = flagged.set_index(["index", "test_id"])
    facts = ["reason", "mirrored", "distance", "rms", "similarity"]
    assert found.loc[(0, test.ids[3]), facts].tolist() == ["pixels", False, 0, 0, 1]
    assert found.loc[(2, test.ids[8]), facts].tolist() == ["pixels", True, 0, 0, 1]
    again = found.loc[(3, test.ids[11])]
    assert again["reason"] == "pixels" and 0 < again["rms"] <= 0.05 and not again["mirrored"]
    assert (done["nearest_test_id"][0], done["nearest_test_similarity"][0]) == (test.ids[3], 1)
    assert done.loc[1, ["nearest_test_id", "nearest_test_similarity"]].isna().all()


def test_other_images_are_not_flagged(split, test, encoder):
    made = split.shots.pixels()
    _, flagged = examine(rows(made), made, test, encoder, EXACT)
    assert len(flagged) == 0


def test_nothing_accepted_is_nothing_flagged(test):
    none = np.zeros((0, 32, 32, 3), np.uint8)
    for given in (rows(none), rows(none, 0)):
        done, flagged = examine(given, none, test, None, EXACT)
        assert len(flagged) == 0 and len(done) == len(given)
        assert done["nearest_test_id"].isna().all()


def test_a_near_hash_needs_the_features_to_agree():
    grey = noise(1)
    tinted = np.clip(grey.astype(int) + [60, 0, 0], 0, 255).astype(np.uint8)
    bits = int(hamming(hashes(tinted), hashes(grey))[0, 0])
    cosine = float(Colours().encode_images(tinted)[0] @ Colours().encode_images(grey)[0])
    for needed, count in ((cosine - 0.001, 1), (cosine + 0.001, 0)):
        spec = ContaminationSpec(pixels=0, phash=bits, cosine=needed)
        _, flagged = examine(rows(tinted), tinted, Images(grey), Colours(), spec)
        assert flagged["reason"].tolist() == ["perceptual"] * count
    spec = ContaminationSpec(pixels=0, phash=0, cosine=1, cosine_alone=cosine - 0.001)
    _, flagged = examine(rows(tinted), tinted, Images(grey), Colours(), spec)
    assert flagged["reason"].tolist() == (["cosine"] if bits else ["perceptual"])
    assert flagged["similarity"].tolist() == [pytest.approx(cosine, abs=1e-6)]


@pytest.mark.parametrize("size", [32, 27])
def test_the_pairs_are_those_of_a_plain_loop(size):
    """More images than a block holds, and sides that eight does not divide."""
    shown, made = noise(40, 1, size), noise(300, 2, size)
    made[::7] = np.clip(shown[np.arange(43) % 40].astype(int) + 9, 0, 255)
    made[3::7] = mirrored(shown[np.arange(43) % 40])
    spec = ContaminationSpec(pixels=0.04, phash=16, cosine=0.999)
    _, flagged = examine(rows(made), made, Images(shown), Colours(), spec)
    expected = set()
    known = Colours().encode_images(shown).numpy()
    known_hashes = [int(perceptual_hash(image), 16) for image in shown]
    for view in (made, mirrored(made)):
        features = Colours().encode_images(view).numpy()
        for row, image in enumerate(view):
            own_hash = int(perceptual_hash(image), 16)
            for column, other in enumerate(shown):
                rms = np.sqrt(((image / 255 - other / 255) ** 2).mean())
                bits = own_hash ^ known_hashes[column]
                near = bits.bit_count() <= 16 and features[row] @ known[column] >= 0.999
                if rms <= 0.04 or near:
                    expected.add((row, f"t{column}"))
    assert len(expected) > 80
    assert set(zip(flagged["index"], flagged["test_id"], strict=True)) == expected
    assert flagged[["index", "test_id"]].duplicated().sum() == 0


def test_sketches_are_never_farther_apart_than_their_images():
    first, second = noise(30, 3, 45), np.random.default_rng(0).integers(0, 256, (30, 45, 45, 3))
    apart = np.linalg.norm(sketches(first) - sketches(second.astype(np.uint8)), axis=1)
    rms = np.sqrt(((first / 255 - second / 255) ** 2).mean((1, 2, 3)))
    assert (apart <= rms + 1e-6).all() and (apart > 0).all()


@pytest.mark.parametrize(
    ("metric", "flagged", "value", "n_clean", "clean"),
    [
        ("top1", [], 4 / 6, 6, 4 / 6),
        ("top1", ["a", "a", "elsewhere"], 4 / 6, 5, 3 / 5),
        ("top1", list("abcdef"), 4 / 6, 0, None),
        ("mean_per_class", ["a", "b"], (3 / 4 + 1 / 2) / 2, 4, (1 / 2 + 1 / 2) / 2),
        ("mean_per_class", ["e", "f"], (3 / 4 + 1 / 2) / 2, 4, 3 / 4),  # a class is gone
    ],
)
def test_the_clean_value_by_hand(metric, flagged, value, n_clean, clean):
    predictions = pd.DataFrame(
        {"id": list("abcdef"), "label": [0, 0, 0, 0, 1, 1], "prediction": [0, 0, 0, 1, 1, 0]}
    )
    found = score(predictions, metric, flagged)
    assert (found["n_test"], found["n_correct"]) == (6, 4)
    assert found["value"] == pytest.approx(value) and found["n_clean"] == n_clean
    assert found["value_clean"] == (None if clean is None else pytest.approx(clean))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"reason": "near"}, "near"),
        ({"distance": 65}, "distance"),
        ({"rms": 1.5}, "rms"),
        ({"test_id": None}, "test_id"),
        ({"similarity": None}, "similarity"),
    ],
)
def test_a_wrong_row_of_flagged_pairs_is_refused(changes, word):
    check("contamination", contamination(), "good")
    with pytest.raises(RecordError, match=word):
        check("contamination", contamination(**changes), "bad")
    with pytest.raises(RecordError, match="unique"):
        check("contamination", pd.concat([contamination()] * 2, ignore_index=True), "bad")

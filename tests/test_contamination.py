"""Copies of test images are found, other images are not, and the clean score leaves them out."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.contamination import examine, hamming, hashes, sketches
from benchmark.data import load_split
from benchmark.imaging import mirrored
from benchmark.protocol import ContaminationSpec
from benchmark.records import check
from benchmark.registry import load_registry
from benchmark.upstream import open_upstream
from tests.small import small_spec
from tests.test_records import ledger


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


def rows(accepted):
    frame = pd.concat([ledger(index=index) for index in range(len(accepted))], ignore_index=True)
    reasons = ["" if kept else "score: 0.1 < 0.2" for kept in accepted]
    return check("ledger", frame.assign(accepted=accepted, reason=reasons), "test")


def jpeg(image, quality=90):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_copies_are_flagged_with_their_test_image(test, encoder):
    shown = test.pixels([3, 8, 11])
    made = np.stack([shown[0], mirrored(shown[1]), jpeg(shown[2])])
    # the rejected row in between has no pixels, so positions are not ledger indices
    done, flagged = examine(
        rows([True, False, True, True]), made, test, encoder, ContaminationSpec()
    )
    found = flagged.set_index(["index", "test_id"])
    assert found.loc[(0, test.ids[3]), ["reason", "mirrored", "rms"]].tolist() == [
        "pixels",
        False,
        0,
    ]
    assert found.loc[(2, test.ids[8]), ["reason", "mirrored", "rms"]].tolist() == [
        "pixels",
        True,
        0,
    ]
    again = found.loc[(3, test.ids[11])]
    assert again["reason"] in ("pixels", "perceptual") and 0 < again["rms"] < 0.1
    assert done["nearest_test_id"].tolist()[0] == test.ids[3]
    assert done["nearest_test_similarity"][0] == 1
    assert done.loc[1, ["nearest_test_id", "nearest_test_similarity"]].isna().all()


def test_other_images_are_not_flagged(split, test, encoder):
    made = split.shots.pixels()
    _, flagged = examine(rows([True] * len(made)), made, test, encoder, ContaminationSpec())
    assert flagged["index"].nunique() <= 0.05 * len(made)

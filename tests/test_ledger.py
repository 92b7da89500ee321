"""The image ledger: what a method yields is checked, counted and described."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmark.contract import Images, Provenance
from benchmark.data.split import Split, load_split
from benchmark.errors import MethodError
from benchmark.images import perceptual_hash, pixel_hash
from benchmark.records.tables import table_hash, tables
from benchmark.registry import load_registry
from benchmark.trial.ledger import Ledger
from tests.helpers.trials import budget

TOLD = Provenance("transformed", "test")


@pytest.fixture
def split(shapes) -> Split:
    """3 classes, one shot each."""
    return load_split(load_registry(shapes).task("shapes-1shot"), 0, shapes)


@pytest.fixture
def ledger(split) -> Ledger:
    return Ledger("mine", split, budget(2))


def images(*labels: int, value: int = 7, told: Provenance = TOLD) -> Images:
    return Images(np.full((len(labels), 32, 32, 3), value, np.uint8), labels, [told] * len(labels))


def test_a_row_holds_everything_the_table_asks_for(ledger, split):
    told = Provenance(
        origin="generated",
        source="model@1",
        prompt='a naïve "hat"',
        seed=np.int64(2**63 - 1),
        nfe=40,
        guidance_scale=3,
        similarity=0.12345678,
        corpus_id="c/1",
        parents=(split.shots.ids[0], "c/1"),
    )
    ledger.add(images(2, told=told))
    frame = ledger.frame()
    assert list(frame.columns) == list(tables()["ledger"].columns)
    row = frame.iloc[0]
    assert (row["label"], row["class_name"], row["origin"]) == (2, "blue square", "generated")
    assert (row["prompt"], row["seed"], row["nfe"]) == (told.prompt, 2**63 - 1, 40)
    assert row["similarity"] == 0.123457
    assert row["parents"] == f'["{split.shots.ids[0]}", "c/1"]'
    pixels, _ = ledger.accepted()
    assert (row["sha256"], row["phash"]) == (pixel_hash(pixels[0]), perceptual_hash(pixels[0]))


def test_an_empty_ledger_is_a_valid_table(ledger):
    assert len(ledger.frame()) == 0 and ledger.count == 0 and not ledger.full
    pixels, labels = ledger.accepted()
    assert pixels.shape == (0, 32, 32, 3) and labels.shape == (0,)
    assert pixels.dtype == np.uint8 and labels.dtype == np.int64


def test_images_beyond_the_cap_are_kept_on_paper_alone(ledger):
    ledger.add(images(0, 0, 1, value=1))
    ledger.add(images(0, 1, value=2))
    frame = ledger.frame()
    assert frame["accepted"].tolist() == [True, True, True, False, True]
    assert frame["reason"].tolist() == ["", "", "", "cap: beyond 2 images of its class", ""]
    pixels, labels = ledger.accepted()
    assert labels.tolist() == [0, 0, 1, 1]
    assert pixels[:, 0, 0, 0].tolist() == [1, 1, 1, 2]
    assert ledger.count == 4 and not ledger.full
    ledger.add(images(2, 2, 2))
    assert ledger.full and ledger.count == 6


def test_floats_become_bytes_by_rounding(ledger):
    values = np.array([0, 0.5, 1, 127.4 / 255], np.float32)
    pixels = np.broadcast_to(values[:, None, None, None], (4, 32, 32, 3))
    ledger.add(Images(pixels, [0, 0, 1, 1], [TOLD] * 4))
    assert ledger.accepted()[0][:, 0, 0, 0].tolist() == [0, 128, 255, 127]


def test_the_ledger_keeps_its_own_copy(ledger):
    given = images(0)
    ledger.add(given)
    given.pixels[:] = 0
    assert ledger.accepted()[0].min() == 7


@pytest.mark.parametrize("labels", [np.array([0, 1]), (0, 1), range(2), [np.int32(0), 1]])
def test_labels_may_be_any_sequence_of_integers(ledger, labels):
    ledger.add(dataclasses.replace(images(0, 0), labels=labels))
    assert ledger.accepted()[1].tolist() == [0, 1]


def test_soft_and_negative_labels_are_kept_beside_their_class(ledger):
    rows = np.array([[0.3, 0, 0.7], [0, -1, 0], [0, 1, 0], [0.5, 0.5, 0]])
    ledger.add(dataclasses.replace(images(0, 0, 0, 0), labels=rows))
    frame = ledger.frame()
    assert frame["label"].tolist() == [2, 1, 1, 0]
    assert frame["class_name"].tolist()[:2] == ["blue square", "green circle"]
    texts = ['{"0": 0.3, "2": 0.7}', '{"1": -1.0}', None, '{"0": 0.5, "1": 0.5}']
    assert [text or None for text in frame["target"].where(frame["target"].notna(), "")] == texts
    assert ledger.accepted()[1].tolist() == [2, 1, 1, 0] and ledger.count == 4
    ledger.add(dataclasses.replace(images(0), labels=np.array([[0, -1.0, 0]])))
    assert ledger.frame()["reason"].tolist()[-1] == "cap: beyond 2 images of its class"


def test_images_that_the_method_rejected_use_no_budget(split):
    ledger = Ledger("mine", split, budget(2), ("score", "safety"))
    reasons = ["score: 0.18 < 0.21", "", "safety: flagged", ""]
    ledger.add(dataclasses.replace(images(0, 0, 0, 0), rejected=reasons))
    frame = ledger.frame()
    assert frame["accepted"].tolist() == [False, True, False, True]
    assert frame["reason"].tolist() == reasons
    assert len(ledger.accepted()[0]) == ledger.count == 2
    ledger.add(dataclasses.replace(images(0, 0), rejected=["", "score: low"]))
    assert ledger.frame()["reason"].tolist()[4:] == [
        "cap: beyond 2 images of its class",
        "score: low",
    ]
    assert ledger.count == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["low", ""], r"rejected\[0\]: expected '' or 'score: ...', got 'low'"),
        (["", "score"], r"rejected\[1\]: .* got 'score'"),
        (["", "safety: flagged"], r"rejected\[1\]: .* got 'safety: flagged'"),
        ([None, ""], r"rejected\[0\]: .* got None"),
        ([True, False], r"rejected\[0\]: .* got True"),
        ([""], "2 images but 1 rows of rejected"),
        ("score: low", "2 images but 1 rows of rejected"),
    ],
)
def test_a_reason_names_a_filter_that_was_declared(split, given, message):
    ledger = Ledger("mine", split, budget(2), ("score",))
    with pytest.raises(MethodError, match=message) as raised:
        ledger.add(dataclasses.replace(images(0, 1), rejected=given))
    assert "'mine', batch 0" in str(raised.value) and not len(ledger.frame())


def test_a_method_without_filters_rejects_nothing(ledger):
    with pytest.raises(MethodError, match="FACTS.filters declares .it has none., got 'score: 1'"):
        ledger.add(dataclasses.replace(images(0), rejected=["score: 1"]))


U8 = np.zeros((2, 32, 32, 3), np.uint8)
FAULTS = {
    "not images": ([U8], "expected benchmark.Images, got list"),
    "a tensor": ({"pixels": torch.zeros(2, 32, 32, 3)}, "numpy array, got torch.Tensor"),
    "another size": ({"pixels": U8[:, :16]}, r"\[B, 32, 32, 3\], got \[2, 16, 32, 3\]"),
    "channels first": ({"pixels": U8.transpose(0, 3, 1, 2)}, r"got \[2, 3, 32, 32\]"),
    "one image": ({"pixels": U8[0]}, r"got \[32, 32, 3\]"),
    "another type": ({"pixels": U8.astype(np.int64)}, "uint8 0..255 or float 0..1, got int64"),
    "NaN": ({"pixels": np.full(U8.shape, np.nan)}, "not finite"),
    "infinite": ({"pixels": np.full(U8.shape, -np.inf)}, "not finite"),
    "above 1": ({"pixels": U8 + 255.0}, "float in 0..1, got 255..255"),
    "below 0": ({"pixels": U8 - 0.01}, "float in 0..1, got -0.01"),
    "too few labels": ({"labels": [0]}, "2 images but 1 labels"),
    "no list of labels": ({"labels": 1}, r"2 integers or float \[2, 3\], got int"),
    "label too large": ({"labels": [0, 3]}, r"labels\[1\]: expected an integer in 0..2, got 3"),
    "label negative": ({"labels": [-1, 0]}, r"labels\[0\]: .* got -1"),
    "label a float": ({"labels": [0, 1.0]}, "integer"),
    "label a truth": ({"labels": [True, 0]}, "integer"),
    "label a name": ({"labels": ["a", "b"]}, "integer"),
    "rows of another number of classes": (
        {"labels": np.eye(2)},
        r"2 integers or float \[2, 3\], got float64 \[2, 2\]",
    ),
    "too few rows": ({"labels": np.eye(3)[:1]}, r"got float64 \[1, 3\]"),
    "rows of integers": ({"labels": np.eye(3, dtype=int)[:2]}, r"got int64 \[2, 3\]"),
    "three axes": ({"labels": np.zeros((2, 3, 1))}, "2 integers or float .*, got numpy.ndarray"),
    "weights beyond 1": (
        {"labels": np.array([[1, 0, 0], [0.9, 0.2, 0]])},
        r"labels\[1\]: .* got {0: 0.9, 1: 0.2}, a sum of 1.1",
    ),
    "too little provenance": ({"provenance": [TOLD]}, "2 images but 1 rows of provenance"),
    "provenance alone": ({"provenance": TOLD}, "2 images but 1 rows"),
    "none": ({"provenance": [TOLD, None]}, r"provenance\[1\]: .* got NoneType"),
    "a dict": ({"provenance": [{"origin": "real"}] * 2}, "Provenance, got dict"),
}
TOLD_FAULTS = {
    "origin": {"origin": "drawn"},
    "source": {"source": ""},
    "prompt": {"prompt": 3},
    "seed": {"seed": -1},
    "nfe": {"nfe": 1.5},
    "rank": {"rank": True},
    "guidance_scale": {"guidance_scale": float("nan")},
    "similarity": {"similarity": 1.5},
    "parents": {"parents": "shapes/00"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_method_batch_and_what_came(ledger, fault):
    change, message = FAULTS[fault]
    ledger.add(images(1))
    given = change if isinstance(change, list) else dataclasses.replace(images(0, 1), **change)
    with pytest.raises(MethodError, match=message) as raised:
        ledger.add(given)
    assert "'mine', batch 1" in str(raised.value)
    assert ledger.count == len(ledger.frame()) == 1  # nothing of the faulty batch


@pytest.mark.parametrize("field", TOLD_FAULTS)
def test_a_fault_of_provenance_is_raised_where_it_is_stated(field):
    with pytest.raises(ValidationError) as raised:
        dataclasses.replace(TOLD, **TOLD_FAULTS[field])
    assert {error["loc"][0] for error in raised.value.errors()} == {field}


def test_numbers_of_numpy_are_numbers():
    told = dataclasses.replace(TOLD, seed=np.int64(3), similarity=np.float32(0.5), nfe=np.uint8(9))
    assert (told.seed, told.similarity, told.nfe) == (3, 0.5, 9)
    assert {type(told.seed), type(told.nfe)} == {int} and type(told.similarity) is float


def test_parents_are_images_the_method_was_given(ledger, split):
    for known in (split.shots.ids[0], split.unused.ids[0]):
        ledger.add(images(0, told=dataclasses.replace(TOLD, parents=(known,))))
    for unknown in (split.test.ids[0], split.val.ids[0], "x"):
        with pytest.raises(MethodError, match=f"parents: '{unknown}' is not a shot"):
            ledger.add(images(0, told=dataclasses.replace(TOLD, parents=(unknown,))))


def test_the_same_batches_have_the_same_hash(split):
    def made(value: int) -> str:
        ledger = Ledger("mine", split, budget(2))
        ledger.add(images(0, 1, value=value))
        return table_hash(ledger.frame())

    assert made(3) == made(3) != made(4)

"""Soft and negative labels: their rows, their text, their loss, and what they teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax

from benchmark.classify import train
from benchmark.classify._batches import Data, Labelled, plan_batches
from benchmark.classify._loss import target_loss
from benchmark.classify._training import fit_network
from benchmark.data.split import load_split
from benchmark.errors import MethodError
from benchmark.images import decode as decode_image
from benchmark.images import encode_png
from benchmark.labels import checked, decode, encode
from benchmark.protocol import ScratchSpec, load_protocol
from benchmark.records.environment import environment
from benchmark.records.store import Store
from benchmark.registry import load_registry
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import augment
from benchmark.trial.evaluate import evaluate
from benchmark.upstream import open_upstream

SPEC = ScratchSpec(
    kind="scratch", layers=(1, 1), width=8, steps=100, batch_size=12, lr=1e-2, weight_decay=0.0
)

# --- rows and their text ----------------------------------------------------------------------

ROWS = {
    "soft": ([0.7, 0, 0.3], 0, '{"0": 0.7, "2": 0.3}'),
    "later class": ([0.3, 0, 0.7], 2, '{"0": 0.3, "2": 0.7}'),
    "first of equals": ([0, 0.5, 0.5], 1, '{"1": 0.5, "2": 0.5}'),
    "thirds": ([1 / 3, 1 / 3, 1 / 3], 0, '{"0": 0.333333, "1": 0.333333, "2": 0.333333}'),
    "almost 1": ([0.50004, 0, 0.5], 0, '{"0": 0.50002, "2": 0.49998}'),
    "negative": ([0, -1, 0], 1, '{"1": -1.0}'),
    "hard": ([0, 0, 1], 2, None),
    "hard but for rounding": ([1e-8, 0, 1], 2, None),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_its_class_and_text_and_comes_back(name):
    row, label, text = ROWS[name]
    assert encode(checked(np.array([row]), "t")[0]) == (label, text)
    back = decode(np.array([label, 1]), [text, '{"1": -1.0}'], 3)
    assert back.dtype == np.float32 and back[1].tolist() == [0, -1, 0]
    assert back[0] == pytest.approx(row, abs=3e-5)
    assert abs(back[0].sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_every_width_of_float_is_taken(kind):
    rows = np.array([[0.25, 0.75, 0], [0, 0, -1]], kind)
    assert [encode(row)[1] for row in checked(rows, "t")] == [
        '{"0": 0.25, "1": 0.75}',
        '{"2": -1.0}',
    ]


def test_hard_labels_stay_integers():
    labels = np.array([2, 0, 1])
    assert decode(labels, [None] * 3, 3) is labels
    assert decode(np.zeros(0, np.int64), [], 3).shape == (0,)


@pytest.mark.parametrize(
    ("row", "got"),
    [
        ([0.5, 0.4, 0], "a sum of 0.9"),
        ([0, 0, 0], "a sum of 0"),
        ([1, 1, 0], "a sum of 2"),
        ([1.1, -0.1, 0], "1: -0.1"),
        ([0.5, 0.5, -1], "2: -1"),
        ([0, -1, -1], "a sum of -2"),
        ([0, -0.5, 0], "1: -0.5"),
        ([0, -2, 0], "1: -2"),
        ([np.nan, 1, 0], "0: nan"),
        ([np.inf, 0, 0], "0: inf"),
        ([0, -np.inf, 0], "1: -inf"),
    ],
)
def test_any_other_row_is_refused_by_its_number(row, got):
    with pytest.raises(MethodError, match=r"^here\[1\]: expected weights of 0 or more") as caught:
        checked(np.array([[1, 0, 0], row]), "here")
    assert got in str(caught.value)


# --- the loss ---------------------------------------------------------------------------------


def logits(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_labels_have_the_cross_entropy_they_had(smoothing):
    labels = torch.tensor([0, 3, 1, 2, 2])
    expected = cross_entropy(logits(), labels, label_smoothing=smoothing)
    assert torch.equal(target_loss(logits(), labels, smoothing), expected)
    rows = nn.functional.one_hot(labels, 4).float()
    assert target_loss(logits(), rows, smoothing).item() == pytest.approx(expected.item())


def test_a_soft_label_weighs_the_losses_of_its_classes():
    row = torch.tensor([[0.2, 0, 0.8, 0]])
    parts = cross_entropy(logits(1).repeat(2, 1), torch.tensor([0, 2]), reduction="none")
    expected = 0.2 * parts[0] + 0.8 * parts[1]
    assert target_loss(logits(1), row, 0.0).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_negative_label_has_the_complementary_loss(smoothing):
    rows = -torch.eye(4)[[0, 3, 1, 2, 2]]
    share = softmax(logits(), dim=1)[range(5), [0, 3, 1, 2, 2]]
    found = target_loss(logits(), rows, smoothing, "none")
    assert torch.allclose(found, -torch.log(1 - share), atol=1e-5)


def test_kinds_of_label_do_not_disturb_each_other_in_a_batch():
    rows = torch.tensor([[0.2, 0, 0.8, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    together = target_loss(logits(3), rows, 0.1, "none")
    alone = [target_loss(logits(3)[[row]], rows[[row]], 0.1).item() for row in range(3)]
    assert together.tolist() == pytest.approx(alone)
    assert target_loss(logits(3), rows, 0.1).item() == pytest.approx(np.mean(alone), rel=1e-5)


def test_the_loss_and_its_gradient_stay_finite_where_the_network_is_sure():
    sure = torch.tensor([[80.0, -80, 0], [80.0, -80, 0]], requires_grad=True)
    loss = target_loss(sure, torch.tensor([[-1.0, 0, 0], [0, -1.0, 0]]), 0.0, "none")
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([80, 0])
    assert sure.grad is not None and torch.isfinite(sure.grad).all()
    assert sure.grad[0].tolist() == pytest.approx([1, 0, -1], abs=1e-4)


# --- what they teach --------------------------------------------------------------------------


@pytest.fixture
def split(shapes):
    return load_split(load_registry(shapes).task("shapes-3shot"), 0, shapes)


def probability(split, added: Labelled, pixels: np.ndarray) -> np.ndarray:
    """[N, 3] of a small network after a short training."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, 32), nn.GELU())
    network.append(nn.Linear(32, 3))
    real = Labelled(split.shots.pixels(), split.shots.labels)
    data = Data(real, added, Labelled(real.pixels[:0], real.labels[:0]), n_classes=3, flip=False)
    fit_network(network, SPEC, data, 0, torch.device("cpu"), lambda *_: None)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return softmax(network(images), dim=1).detach().numpy()


def solid() -> np.ndarray:
    """Three images of one colour each, none of them a colour of the shapes."""
    colours = np.array([[0, 0, 0], [255, 255, 0], [255, 0, 255]], np.uint8)
    return np.broadcast_to(colours[:, None, None], (3, 32, 32, 3)).copy()


def test_a_negative_label_lowers_the_probability_of_its_class(split):
    pixels = solid()
    none = Labelled(pixels[:0], np.zeros(0, np.int64))
    before = probability(split, none, pixels)
    likely = before.argmax(axis=1)
    denied = Labelled(pixels, likely, -np.eye(3, dtype=np.float32)[likely])
    after = probability(split, denied, pixels)
    assert (after[range(3), likely] < 0.5 * before[range(3), likely]).all()


def test_a_soft_label_is_learnt_as_the_shares_it_states(split):
    pixels = solid()
    shares = np.array([[0.6, 0.4, 0], [0, 0.6, 0.4], [0.4, 0, 0.6]], np.float32)
    soft = probability(split, Labelled(pixels, np.arange(3), shares), pixels)
    hard = probability(split, Labelled(pixels, np.arange(3)), pixels)
    assert np.abs(soft - shares).max() < 0.25 < np.abs(hard - shares).max()


def test_the_weights_of_a_label_change_what_is_predicted(split):
    """The same images, of the same primary classes, with other weights on the second class."""
    pixels = np.repeat(split.shots.pixels(), 3, axis=0)
    labels = (np.repeat(split.shots.labels, 3) + 1) % 3  # wrong, as a hard label
    eye = np.eye(3)
    mild = 0.51 * eye[labels] + 0.49 * eye[(labels + 2) % 3]  # half of it right
    found = [
        train(SPEC, split.fresh(), (pixels, added), None, 0, "cpu").predictions
        for added in (labels, eye[labels], mild)
    ]
    truth = split.fresh().test.read().labels
    hard, rows, soft = ((predictions == truth).mean() for predictions in found)
    assert (found[0] != found[2]).any() and hard == rows < soft


BETWEEN = """
import benchmark
import numpy as np

FACTS = benchmark.Facts(title="Between", family="classical", filters=("score",))


def augment(shots, upstream, meter, rng, params):
    eye, told = np.eye(3), benchmark.Provenance("transformed", "blend", parents=shots.ids[:2])
    images = np.stack([shots.of(label)[0] for label in range(3)])
    rows = 0.45 * eye + 0.55 * np.roll(eye, 1, axis=0)
    yield benchmark.Images(images, rows, [told] * 3)
    yield benchmark.Images(images, rows, [told] * 3, ["score: 0.1 < 0.2"] * 3)
    yield benchmark.Images(images, -np.roll(eye, 1, axis=0), [told] * 3)
"""


def test_a_trial_read_back_from_disk_trains_as_it_did(tiny_root, root, tmp_path, edit):
    folder = tiny_root(between=BETWEEN)
    edit(folder / "bench.toml", "steps = 6", "steps = 40")  # enough to tell classes apart
    protocol = load_protocol(folder)
    registry = load_registry(folder, protocol)
    call = registry.call("between")
    trial = Trial(registry.task("shapes-1shot"), call, "pocket", "S", Seeds(0), protocol, folder)
    upstream = open_upstream("pocket", protocol.upstream_named("pocket"), folder, "cpu")
    made = augment(trial, upstream, environment(root, "cpu", 1), lambda *_: None)
    assert (made.facts.images_accepted, made.facts.images_rejected) == (6, 3)
    assert made.facts.status == "ok", "images that a filter turned down are not over the budget"
    Store(tmp_path).write_augmented(trial.place, made, encode_png)
    back = Store(tmp_path).read_augmented(trial.place, decode_image)
    assert np.array_equal(back.targets(3), made.targets(3)) and made.targets(3).min() == -1
    hard = replace(made, ledger=made.ledger.assign(target=None))
    for classifier in ("resnet-scratch", "linear-probe"):
        first, again, other = (
            evaluate(trial, classifier, given, upstream, trial.id, lambda *_: None)
            for given in (made, back, hard)
        )
        assert first[1].equals(again[1]) and first[0].value == again[0].value
        assert not first[1].equals(other[1]), "the targets made no difference"


def test_a_negative_image_takes_a_place_of_its_class():
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    real = Labelled(pixels, np.arange(3))
    added = Labelled(pixels[:1], np.array([2]), np.array([[0, 0, -1]], np.float32))
    data = Data(real, added, real, n_classes=3, flip=False)
    rows = plan_batches(data, 4, 6, torch.Generator().manual_seed(0))
    assert sorted(rows[:, 3:].flatten().tolist()) == [0] * 4 + [1] * 4 + [3] * 4
    assert data.targets[3].tolist() == [0, 0, -1] and data.targets[2].tolist() == [0, 0, 1]

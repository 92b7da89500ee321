"""The judges: what they are shown, how they are chosen, and that no test image is seen early."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmark.classify import probe, scratch, train
from benchmark.classify._batches import Data, plan_batches
from benchmark.classify._training import (
    checkpoints,
    fit_network,
    learning_rate_factor,
)
from benchmark.classify.finetune import timm_network
from benchmark.data.split import TestSplit, load_split
from benchmark.errors import ConfigError, DataError
from benchmark.protocol import FinetuneSpec, ProbeSpec, ScratchSpec, load_protocol
from benchmark.registry import load_registry
from benchmark.upstream import open_upstream
from tests.helpers.batches import data_of

CPU = torch.device("cpu")
NOTHING = (np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int64))
SCRATCH = ScratchSpec(
    kind="scratch", layers=(1, 1), width=8, steps=40, batch_size=12, lr=1e-2, weight_decay=0.05
)
PROBE = ProbeSpec(kind="probe", steps=40, batch_size=12, lr=1e-2, weight_decays=(0.1, 0.0, 1.0))
FINETUNE = FinetuneSpec(kind="finetune", steps=4, batch_size=8, lr=1e-4, weight_decay=0.05)
SPECS = pytest.mark.parametrize("spec", [SCRATCH, PROBE, FINETUNE], ids=lambda spec: spec.kind)


@pytest.fixture(scope="module")
def pocket(root):
    """The pocket upstream; only its CLIP is loaded here."""
    torch.set_num_threads(1)
    return open_upstream("pocket", load_protocol(root).pick("upstream", "pocket"), root, "cpu")


@pytest.fixture
def split(shapes):
    return load_split(load_registry(shapes).task("shapes-3shot"), 0, shapes)


def wrong(split):
    """The shots with labels one too high, many times over."""
    pixels = np.repeat(split.shots.pixels(), 4, axis=0)
    return pixels, (np.repeat(split.shots.labels, 4) + 1) % 3


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 300])
def test_the_learning_rate_rises_to_its_peak_and_falls(steps):
    factors = np.array([learning_rate_factor(step, steps) for step in range(steps)])
    assert (factors > 0).all() and factors.max() == 1
    peak = factors.argmax()
    assert (np.diff(factors[: peak + 1]) > 0).all() and (np.diff(factors[peak:]) < 0).all()
    assert peak <= 0.25 * steps and (steps < 10 or factors[-1] < 0.1)


class Rehearsed(nn.Module):
    """Trains as any network does; at its successive readings of validation it is right on
    ``right`` of the 5 images, and keeps the weights that it had."""

    def __init__(self, right=()) -> None:
        super().__init__()
        self.layer = nn.Linear(8 * 8 * 3, 3)
        self.right, self.seen = list(right), []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.layer(images.flatten(1))
        assert (images * 255 >= 100).all(), "not the validation images"
        self.seen.append(self.layer.weight.detach().clone())
        labels = torch.tensor([0, 1, 2, 0, 1])
        classes = torch.where(torch.arange(5) < self.right.pop(0), labels, (labels + 1) % 3)
        return nn.functional.one_hot(classes, 3)


@pytest.mark.parametrize(
    ("right", "chosen"),
    [([1, 4, 2, 3], 1), ([1, 4, 4, 3], 2), ([0, 0, 0, 0], 3), ([0, 1, 2, 3], 3)],
)
def test_the_best_checkpoint_is_kept_and_ties_go_to_the_latest(right, chosen):
    network = Rehearsed(right)
    recipe = SCRATCH.model_copy(update={"steps": 10, "checkpoints": 4})
    fitted = fit_network(network, recipe, data_of([0, 1, 2], val=5), 0, CPU, lambda *_: None)
    assert fitted.selected == f"step {[6, 7, 8, 10][chosen]}"
    assert fitted.val_value == right[chosen] / 5
    assert torch.equal(network.layer.weight, network.seen[chosen])
    assert chosen == 3 or not torch.equal(network.seen[chosen], network.seen[3])


def test_without_validation_images_the_last_step_is_kept():
    network = Rehearsed()
    told = []
    fitted = fit_network(
        network, SCRATCH, data_of([0, 1, 2]), 0, CPU, lambda *step: told.append(step)
    )
    assert (fitted.selected, fitted.val_value) == ("step 40", None)
    assert told == [("train", step, 40) for step in range(1, 41)]


def test_validation_is_read_in_the_second_half_once_per_step_at_most():
    assert checkpoints(SCRATCH.model_copy(update={"steps": 400, "checkpoints": 5})) == [
        240, 280, 320, 360, 400
    ]  # fmt: skip
    network = Rehearsed([1, 2])
    recipe = SCRATCH.model_copy(update={"steps": 3, "checkpoints": 9})
    fit_network(network, recipe, data_of([0, 1, 2], val=5), 0, CPU, lambda *_: None)
    assert len(network.seen) == 2


def test_norms_and_biases_do_not_decay():
    class Nothing(nn.Module):
        def forward(self, logits):
            return 0 * logits  # nothing is learned: weights change by their decay alone

    linear = nn.Linear(192, 4), nn.Linear(4, 3)
    network = nn.Sequential(nn.Flatten(), linear[0], nn.BatchNorm1d(4), linear[1], Nothing())
    nn.init.ones_(network[2].bias)
    before = [weight.detach().clone() for weight in network.parameters()]
    fit_network(network, SCRATCH, data_of([0, 1, 2]), 0, CPU, lambda *_: None)
    left = [(now / was).detach() for now, was in zip(network.parameters(), before, strict=True)]
    rates = [SCRATCH.lr * learning_rate_factor(step, SCRATCH.steps) for step in range(40)]
    decayed = np.prod([1 - rate * SCRATCH.weight_decay for rate in rates])
    for ratio, expected in zip(left, [decayed, 1, 1, 1, decayed, 1], strict=True):
        assert ratio.min().item() == pytest.approx(expected, abs=1e-5)
        assert ratio.max().item() == pytest.approx(expected, abs=1e-5)
    assert decayed < 0.99


# --- whole judgements -------------------------------------------------------------------------


@SPECS
def test_a_judgement_holds_a_class_for_every_test_image(spec, split, pocket):
    judged = train(spec, split, NOTHING, pocket, 0, "cpu")
    assert judged.predictions.shape == (18,) and judged.predictions.dtype == np.int64
    assert set(judged.predictions) <= {0, 1, 2}
    assert 0 <= judged.val_value <= 1 and judged.seconds > 0
    assert judged.selected.startswith("weight decay " if spec.kind == "probe" else "step ")


@SPECS
def test_the_same_seed_gives_the_same_predictions_whatever_was_drawn_before(spec, split, pocket):
    added = wrong(split)
    states, judged = [], []
    for noise in (1, 2):
        random.seed(noise), np.random.seed(noise), torch.manual_seed(noise)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        judged.append(train(spec, split.fresh(), added, pocket, 5, "cpu"))
        after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        states.append((before, after))
    assert (judged[0].predictions == judged[1].predictions).all()
    assert judged[0].val_value == judged[1].val_value
    assert judged[0].selected == judged[1].selected
    for (torch_before, numpy_before, python_before), after in states:
        assert torch.equal(torch_before, after[0])
        assert (numpy_before == after[1]).all() and python_before == after[2]


def test_another_seed_is_another_training_run(split, pocket):
    short = SCRATCH.model_copy(update={"steps": 2})
    judged = [train(short, split.fresh(), NOTHING, pocket, seed, "cpu") for seed in range(6)]
    assert len({tuple(one.predictions) for one in judged}) > 1


@pytest.mark.parametrize("spec", [SCRATCH, PROBE], ids=lambda spec: spec.kind)
def test_what_is_learned_is_right_and_added_images_are_learned_from(spec, split, pocket):
    def accuracy(added):
        judged = train(spec, split.fresh(), added, pocket, 0, "cpu")
        return (judged.predictions == split.test.labels).mean()

    true = split.reserve.pixels(), split.reserve.labels
    assert accuracy(NOTHING) >= 0.8
    assert accuracy(true) >= 0.8
    assert accuracy(wrong(split)) <= accuracy(NOTHING) - 0.2


@SPECS
def test_neither_shots_nor_added_images_are_changed(spec, split, pocket):
    pixels, labels = wrong(split)
    copies = pixels.copy(), labels.copy()
    pixels.setflags(write=False), labels.setflags(write=False)
    train(spec, split, (pixels, labels), pocket, 0, "cpu")
    assert (pixels == copies[0]).all() and (labels == copies[1]).all()


class Locked(TestSplit):
    """Refuses to be read, by any way, before ``open``."""

    open = False

    def __getattribute__(self, name):
        if name != "open" and not name.startswith("__") and not self.open:
            raise AssertionError(f"test split: {name!r} was used before training was over")
        return super().__getattribute__(name)


@SPECS
def test_no_test_image_is_seen_before_training_is_over(spec, split, pocket):
    images = split.test.for_contamination()
    locked = Locked.__new__(Locked)
    object.__setattr__(locked, "open", True)
    locked.__init__(images)
    locked.open = False

    def progress(what, done, total):
        locked.open = done == total

    judged = train(spec, replace(split, test=locked), NOTHING, pocket, 0, "cpu", progress)
    assert len(judged.predictions) == len(images)


@SPECS
def test_the_test_split_is_read_once(spec, split, pocket):
    short = spec.model_copy(update={"steps": 1})
    train(short, split, NOTHING, pocket, 0, "cpu")
    with pytest.raises(RuntimeError, match="read twice"):
        train(short, split, NOTHING, pocket, 0, "cpu")


@SPECS
def test_nothing_is_chosen_without_validation_images(spec, shapes, edit, pocket):
    edit(shapes / "tasks" / "shapes.toml", "val_per_class = 1", "val_per_class = 0")
    split = load_split(load_registry(shapes).task("shapes-1shot"), 0, shapes)
    judged = train(spec, split, NOTHING, pocket, 0, "cpu")
    last = "weight decay 0" if spec.kind == "probe" else f"step {spec.steps}"
    assert judged.val_value is None and judged.selected == last


# --- scratch ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "last"), [(32, 4), (64, 8), (96, 6), (224, 14)])
def test_the_stem_fits_the_size_of_the_images(side, last):
    spec = SCRATCH.model_copy(update={"layers": (1, 1, 1), "width": 16})
    network = scratch.resnet(spec, 7, side).eval()
    features = network.forward_features(torch.zeros(1, 3, side, side))
    assert features.shape == (1, 64, last, last)
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 7)


def test_layers_and_width_are_those_of_the_recipe():
    spec = SCRATCH.model_copy(update={"layers": (1, 2, 1, 3), "width": 24})
    network = scratch.resnet(spec, 5, 32)
    stages = [getattr(network, f"layer{stage}") for stage in (1, 2, 3, 4)]
    assert [len(stage) for stage in stages] == [1, 2, 1, 3]
    assert [stage[0].conv2.out_channels for stage in stages] == [24, 48, 96, 192]


@pytest.mark.parametrize("layers", [(), (1, 1, 1, 1, 1), (1, 0)])
def test_impossible_layers_are_refused(layers):
    with pytest.raises(ConfigError, match="layers = "):
        scratch.resnet(SCRATCH.model_copy(update={"layers": layers}), 3, 32)


# --- probe ------------------------------------------------------------------------------------


def features_of(data: Data, dim: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(data.n_classes, dim, generator=generator)
    rows = centres[torch.from_numpy(data.labels)]
    noisy = rows + 0.8 * torch.randn(rows.shape, generator=generator)
    return probe.scaled(nn.functional.normalize(noisy, dim=1))


def probes(decays, **changes):
    data = data_of([0, 1, 2] * 4, [0, 1, 2] * 6)
    spec = PROBE.model_copy(update={"steps": 300, "batch_size": 60, **changes})
    inputs = features_of(data)
    batches = plan_batches(data, spec.steps, spec.batch_size, torch.Generator().manual_seed(0))
    shown = probe.Shown(inputs, torch.tensor(data.targets), batches)
    return data, inputs, *probe.train_probes(spec, decays, shown, 3, lambda *_: None)


def test_probes_trained_together_are_those_trained_alone():
    decays = [0.0, 0.01, 1.0]
    *_, weights, biases = probes(decays)
    for place, decay in enumerate(decays):
        *_, alone, bias = probes([decay])
        assert torch.allclose(weights[place], alone[0], atol=1e-4)
        assert torch.allclose(biases[place], bias[0], atol=1e-4)


def test_a_probe_is_the_minimum_of_its_penalised_loss():
    """Compared with L-BFGS on the loss of the balanced halves, for every decay."""
    decays = [0.01, 0.1, 1.0]
    data, inputs, weights, biases = probes(decays, steps=600, lr=3e-2)
    labels = torch.from_numpy(data.labels)
    share = torch.where(torch.arange(30) < 12, 0.5 / 12, 0.5 / 18)

    def loss(weight, bias, decay):
        terms = nn.functional.cross_entropy(inputs @ weight + bias, labels, reduction="none")
        return (share * terms).sum() + 0.5 * decay * weight.square().sum()

    for place, decay in enumerate(decays):
        weight, bias = torch.zeros(16, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

        def closure(weight=weight, bias=bias, decay=decay, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(weight, bias, decay)
            value.backward()
            return value

        optimizer.step(closure)
        with torch.no_grad():
            best, found = loss(weight, bias, decay), loss(weights[place], biases[place], decay)
        assert found.item() == pytest.approx(best.item(), rel=0.03)


def test_features_are_scaled_to_a_mean_square_of_one():
    features = nn.functional.normalize(torch.randn(10, 48), dim=1)
    assert probe.scaled(features).square().mean(dim=1).tolist() == pytest.approx([1] * 10)


def test_validation_chooses_the_decay_and_ties_go_to_the_smallest(split, pocket):
    """Shapes are easy, so most decays tie; one of 10^4 leaves nothing but the class frequencies."""
    spec = PROBE.model_copy(update={"weight_decays": (1e4, 0.03, 0.01)})
    judged = train(spec, split, NOTHING, pocket, 0, "cpu")
    assert (judged.selected, judged.val_value) == ("weight decay 0.01", 1)


# --- finetune ---------------------------------------------------------------------------------


def test_the_encoder_of_the_upstream_is_not_changed(split, pocket):
    before = {name: value.clone() for name, value in pocket.encoder.model.state_dict().items()}
    train(FINETUNE, split, NOTHING, pocket, 0, "cpu")
    after = pocket.encoder.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tower_and_head_are_both_trained(split, pocket, monkeypatch):
    from benchmark.classify import finetune

    kept = []

    def fit(network, *rest):
        before = [value.clone() for value in network.parameters()]
        fitted = fit_network(network, *rest)
        kept.extend(zip(before, network.parameters(), strict=True))
        return fitted

    monkeypatch.setattr(finetune, "fit_network", fit)
    train(FINETUNE.model_copy(update={"checkpoints": 1}), split, NOTHING, pocket, 0, "cpu")
    moved = [not torch.equal(before, after) for before, after in kept]
    assert sum(moved) > 0.9 * len(moved)  # a tower may hold parts that its output does not use


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model of timm with its ten-class head, saved as its authors would."""
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), path)
    return path


def test_a_timm_model_is_read_from_a_file_with_a_new_head(weights):
    normalise, network = timm_network("test_resnet", weights, 3)
    saved, state = load_file(weights), network.state_dict()
    assert torch.equal(state["conv1.0.weight"], saved["conv1.0.weight"])
    assert network(normalise(torch.rand(2, 3, 32, 32))).shape == (2, 3)
    assert normalise.size == 160  # of the model's own card


def test_a_timm_model_judges(weights, split, pocket):
    spec = FINETUNE.model_copy(update={"model": "timm:test_resnet", "weights": str(weights)})
    judged = train(spec, split, NOTHING, pocket, 0, "cpu")
    assert judged.predictions.shape == (18,)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "clip"}, ConfigError, ["'clip'", "'encoder'", "timm:<name>"]),
        ({"model": "timm:test_resnett"}, ConfigError, ["test_resnett", "nearest: test_resnet"]),
        ({"model": "timm:resnet18", "weights": "no/such.pt"}, DataError, ["resnet18", "such.pt"]),
    ],
)
def test_a_model_that_cannot_be_made_is_named(changes, error, words, split, pocket):
    with pytest.raises(error) as caught:
        train(FINETUNE.model_copy(update=changes), split, NOTHING, pocket, 0, "cpu")
    assert all(word in str(caught.value) for word in words)


def test_truncated_weights_are_named(weights, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"test_resnet.*damaged\.safetensors"):
        timm_network("test_resnet", damaged, 3)

"""Training parts of the generator: the loop that is planned from the budget, and that the real
pocket generator learns from a few shots whatever part of it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.contract import Shots
from benchmark.data.split import load_split
from benchmark.errors import BudgetStop, MethodError
from benchmark.flops import watch
from benchmark.meter import Meter
from benchmark.registry import load_registry
from benchmark.upstream import open_upstream
from benchmark.upstream.adapters import (
    UNET_ATTENTION,
    lora,
    placeholder_embeddings,
    rare_words,
    unfrozen,
)
from benchmark.upstream.conditioning import Conditioning
from benchmark.upstream.generator import Generator
from benchmark.upstream.training import Examples, denoising_loss, train
from tests.helpers.trials import budget
from tests.helpers.upstreams import small_spec

# --- the loop -----------------------------------------------------------------------------------


class Line:
    """A layer whose every pass is charged, and the loss of it."""

    def __init__(self, tflops: float = 100, dtype: torch.dtype = torch.float32) -> None:
        self.layer = nn.Linear(16, 4, bias=False).to(dtype)
        self.given = torch.ones(8, 16, dtype=dtype)
        self.meter = Meter(budget(tflops=tflops), 2)
        watch(self.layer, lambda: self.meter)

    def loss(self) -> Tensor:
        return self.layer(self.given).square().mean()

    def train(self, **asked) -> int:
        asked = {"steps": 100, "lr": 1e-3} | asked
        return train(list(self.layer.parameters()), one(self.loss), self.meter, **asked)


def one(loss: Callable[[], Tensor]) -> Callable[[], Iterator[Tensor]]:
    """A loss of one part."""

    def parts() -> Iterator[Tensor]:
        yield loss()

    return parts


# forward, and backward for the weight alone: 2 per multiply-add
STEP = 2 * 2 * 8 * 16 * 4 / 1e12


@pytest.mark.parametrize("reserved", [0, 3])
@pytest.mark.parametrize("extra", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 49, 100])
def test_as_many_steps_as_the_budget_holds(steps, extra, reserved):
    line = Line(tflops=(steps + extra + reserved) * STEP)
    assert line.train(steps=1000, reserve_tflops=reserved * STEP) == steps
    assert line.meter.total().tflops == pytest.approx(steps * STEP)
    assert set(line.meter.spent()) == {"fit"}
    assert line.meter.tflops_left >= reserved * STEP * (1 - 1e-9)


def test_no_more_steps_than_are_asked_for():
    assert Line().train(steps=5) == 5


def test_what_was_spent_before_is_gone():
    line = Line(tflops=10 * STEP)
    assert line.train(steps=4) == 4
    assert line.train(steps=100) == 6
    with pytest.raises(BudgetStop):
        line.train(steps=1)


def test_the_first_step_is_taken_even_from_what_is_reserved():
    line = Line(tflops=3 * STEP)
    assert line.train(reserve_tflops=10 * STEP) == 1


@pytest.mark.parametrize("reserved", [0.0, 5.0, np.inf])
def test_without_a_cap_all_steps_are_taken(reserved):
    assert Line(tflops=np.inf).train(steps=5, reserve_tflops=reserved) == 5


def test_a_budget_that_holds_no_step_stops_before_it():
    line = Line(tflops=0.9 * STEP)
    before = line.layer.weight.detach().clone()
    with pytest.raises(BudgetStop):
        line.train()
    assert torch.equal(line.layer.weight, before) and line.meter.total().tflops == 0


def falls(weight: Tensor, meter: Meter, **asked) -> list[float]:
    """How far a weight moves at each step down a straight slope, where AdamW's step is the
    learning rate itself."""
    seen: list[float] = []

    def loss() -> Tensor:
        seen.append(weight.item())
        return weight.sum()

    train([weight], one(loss), meter, weight_decay=0.0, **asked)
    return [before - after for before, after in pairwise([*seen, weight.item()])]


def test_the_learning_rate_is_constant_or_falls_to_nothing():
    meter = Meter(budget(), 2)
    flat = falls(torch.ones(1, requires_grad=True), meter, steps=8, lr=0.01)
    assert flat == pytest.approx([0.01] * 8, rel=1e-4)
    fallen = falls(torch.ones(1, requires_grad=True), meter, steps=8, lr=0.01, schedule="cosine")
    expected = 0.01 * (0.5 + 0.5 * np.cos(np.pi * np.arange(8) / 8))
    assert fallen == pytest.approx(expected.tolist(), rel=1e-3)


def test_the_cosine_falls_over_the_steps_that_are_taken():
    line, seen = Line(tflops=6.5 * STEP), []
    weight = torch.ones(1, requires_grad=True)

    def loss() -> Tensor:
        seen.append(weight.item())
        return weight.sum() + 0 * line.loss()

    taken = train(
        [weight], one(loss), line.meter, steps=500, lr=0.1, weight_decay=0, schedule="cosine"
    )
    moved = [before - after for before, after in pairwise([*seen, weight.item()])]
    expected = 0.1 * (0.5 + 0.5 * np.cos(np.pi * np.arange(taken) / taken))
    assert taken < 10 and moved == pytest.approx(expected.tolist(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_steps_that_it_cannot_hold(dtype):
    """The numbers of half precision next to 1 are 1/256 or 1/2048 away: steps of 1e-4 would be
    rounded away one by one."""
    weight = torch.ones(1, dtype=dtype, requires_grad=True)
    train([weight], one(weight.sum), Meter(budget(), 2), steps=100, lr=1e-4, weight_decay=0.0)
    assert weight.dtype == dtype and weight.item() == pytest.approx(0.99, abs=1 / 256)
    assert weight.item() < 1


def test_a_weight_that_no_loss_reaches_stays():
    used, unused = (torch.ones(1, requires_grad=True) for _ in range(2))
    train([used, unused], one(used.sum), Meter(budget(), 2), steps=3, lr=0.1)
    assert unused.item() == 1 > used.item()


def test_the_parts_of_a_loss_add_up():
    whole, parted = Line(), Line()
    parted.layer.load_state_dict(whole.layer.state_dict())
    weight = parted.layer.weight

    def halves() -> Iterator[Tensor]:
        for rows in (parted.given[:4], parted.given[4:]):
            yield parted.layer(rows).square().mean() / 2

    whole.train(steps=5)
    train([weight], halves, parted.meter, steps=5, lr=1e-3)
    torch.testing.assert_close(weight, whole.layer.weight)
    assert parted.meter.total().tflops == pytest.approx(5 * STEP)


def test_training_works_where_gradients_are_off():
    with torch.no_grad():
        assert Line().train(steps=2) == 2


def test_the_loss_falls():
    line = Line()
    first = line.loss().item()
    line.train(steps=100, lr=1e-2)
    assert line.loss().item() < first / 10


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_divergence_is_told(value):
    weight = torch.ones(1, requires_grad=True)
    with pytest.raises(MethodError, match="diverged: the loss is (nan|inf)"):
        train([weight], one(lambda: weight.sum() * value), Meter(budget(), 2), steps=3, lr=0.1)
    assert weight.item() == 1


def test_nothing_to_train_is_told():
    with pytest.raises(MethodError, match="nothing to train"):
        train([], one(lambda: torch.zeros(())), Meter(budget(), 2), steps=3, lr=0.1)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_the_classes_come_in_turn(size):
    labels = np.array([4, 0, 4, 1, 4, 4])
    examples = Examples(torch.zeros(6, 1, 1, 1), labels)
    batches = list(islice(examples.batches(size, np.random.default_rng(0)), 30))
    assert {len(batch) for batch in batches} == {size}
    rows = np.concatenate(batches)
    rounds = labels[rows[: len(rows) // 3 * 3]].reshape(-1, 3)
    assert (np.sort(rounds, axis=1) == [0, 1, 4]).all()
    assert size < 5 or set(rows) == set(range(6))


# --- it learns ----------------------------------------------------------------------------------

LABELS = (1, 8)  # of the ten classes of clothes, two of very different shape
Condition = Callable[[np.ndarray], Conditioning]


@pytest.fixture(scope="module")
def generator(root) -> Generator:
    return open_upstream("small", small_spec(root), root, "cpu").generator


@pytest.fixture(scope="module")
def shots(root) -> Shots:
    task = load_registry(root).task("fashion-5shot")
    return load_split(task, 0, root).as_shots(with_unused=True)


def examples(generator: Generator, images: Shots, per_class: int) -> Examples:
    """The two classes, called 0 and 1."""
    rows = [images.rows(label)[:per_class] for label in LABELS]
    labels = np.repeat([0, 1], [len(found) for found in rows])
    return Examples(generator.encode(images.images[np.concatenate(rows)]), labels)


@contextmanager
def by_words(generator: Generator) -> Iterator[tuple[list[Tensor], Condition]]:
    words = rare_words(generator.pipeline, 2)
    with placeholder_embeddings(generator.pipeline, words, ["a"] * 2) as embeddings:
        yield (
            embeddings,
            lambda labels: generator.condition([f"a photo of {words[k]}" for k in labels]),
        )


@contextmanager
def by_conditioning(generator: Generator) -> Iterator[tuple[list[Tensor], Condition]]:
    conditioning = generator.condition(["a photo"] * 2).trainable()
    yield conditioning.tensors(), conditioning.rows


@contextmanager
def by_lora(generator: Generator) -> Iterator[tuple[list[Tensor], Condition]]:
    words = rare_words(generator.pipeline, 2)
    told = generator.condition([f"a photo of {word}" for word in words])
    with lora(generator.pipeline.unet, 4, targets=UNET_ATTENTION) as added:
        yield added, told.rows


@contextmanager
def by_weights(generator: Generator) -> Iterator[tuple[list[Tensor], Condition]]:
    words = rare_words(generator.pipeline, 2)
    told = generator.condition([f"a photo of {word}" for word in words])
    with unfrozen(generator.pipeline.unet) as weights:
        yield weights, told.rows


def preference(generator: Generator, held_out: Examples, condition: Condition) -> np.ndarray:
    """By how much the loss of each class is lower under its own condition than under the
    other's, [2], over the same noise and time steps."""
    times = torch.tensor([400, 600, 800])
    latents = held_out.latents.repeat_interleave(len(times), 0)
    labels = np.repeat(held_out.labels, len(times))
    losses = []
    for told in (labels, 1 - labels):
        with torch.no_grad():
            loss = denoising_loss(
                generator,
                latents,
                condition(told),
                np.random.default_rng(5),
                timesteps=times.repeat(len(held_out.labels)),
            )
        losses.append(loss.numpy())
    gain = losses[1] - losses[0]
    return np.array([gain[labels == label].mean() for label in (0, 1)])


@pytest.mark.parametrize(
    ("adapted", "lr", "steps"),
    [
        (by_words, 2e-2, 40),
        (by_conditioning, 5e-2, 40),
        (by_lora, 5e-3, 40),
        (by_weights, 3e-4, 30),
    ],
)
def test_a_few_shots_teach_which_condition_is_which_class(generator, shots, adapted, lr, steps):
    seen, held_out = examples(generator, shots, 5), examples(generator, shots.unused, 12)
    rng, meter = np.random.default_rng(0), Meter(budget(), 2)
    batches = seen.batches(4, rng)
    with adapted(generator) as (weights, condition):
        before = preference(generator, held_out, condition)

        def loss() -> Tensor:
            rows = next(batches)
            told = condition(seen.labels[rows])
            return denoising_loss(generator, seen.latents[rows], told, rng).mean()

        train(weights, one(loss), meter, steps=steps, lr=lr)
        after = preference(generator, held_out, condition)
    assert after.min() > max(before.min(), 0)

"""Training batches: balanced, 1:1 real and augmented, randomly cropped and flipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.classify._batches import (
    plan_batches,
    random_crop_and_flip,
    to_float,
)
from benchmark.classify._training import (
    Normalise,
)
from tests.helpers.batches import data_of

CPU = torch.device("cpu")


# --- batches ----------------------------------------------------------------------------------


def plan(data, steps=6, batch_size=12, seed=0):
    return plan_batches(data, steps, batch_size, torch.Generator().manual_seed(seed)).numpy()


def test_batches_are_half_real_and_half_added():
    rows = plan(data_of([0, 1, 2, 0, 1, 2], [0] * 5 + [1] * 9 + [2] * 30))
    assert rows.shape == (6, 12)
    assert (rows[:, :6] < 6).all() and (rows[:, 6:] >= 6).all()


def test_both_halves_are_balanced_over_the_classes():
    data = data_of([0, 1, 1, 1, 2, 2], [0] * 1 + [1] * 3 + [2] * 30)
    rows = plan(data)
    for half in (rows[:, :6], rows[:, 6:]):
        counts = [np.bincount(data.labels[batch], minlength=3).tolist() for batch in half]
        assert counts == [[2, 2, 2]] * 6


def test_every_image_of_a_class_comes_once_before_one_comes_again():
    data = data_of([0, 1, 2], [0] * 12 + [1] * 12 + [2] * 12)
    rows = plan(data, steps=6, batch_size=12)
    assert sorted(rows[:, 6:].ravel()) == list(range(3, 39))


def test_batches_smaller_than_the_number_of_classes_are_balanced_in_turn():
    data = data_of(list(range(10)), n_classes=10)
    rows = plan(data, steps=10, batch_size=4)
    assert np.bincount(rows[:, :2].ravel(), minlength=10).tolist() == [2] * 10


def test_without_added_images_every_batch_is_real():
    data = data_of([0, 1, 2, 2])
    rows = plan(data)
    assert rows.max() < 4
    assert np.bincount(data.labels[rows.ravel()]).tolist() == [24, 24, 24]


def test_a_class_without_added_images_fills_its_share_with_real_ones():
    data = data_of([0, 1, 2], [0, 0, 2])
    rows = plan(data)
    assert (np.bincount(data.labels[rows.ravel()]) == 24).all()
    assert set(rows[:, 6:].ravel()) == {3, 4, 1, 5}


def test_a_class_without_any_real_image_is_refused():
    with pytest.raises(ValueError, match="no real image of class 2"):
        plan(data_of([0, 1], [2, 2]))


def test_batches_depend_on_the_seed_alone():
    data = data_of([0, 1, 2], [0, 1, 2] * 5)
    torch.manual_seed(1)
    first = plan(data)
    torch.manual_seed(2)
    assert (plan(data) == first).all() and (plan(data, seed=1) != first).any()


def test_rows_count_through_real_and_added_images():
    data = data_of([0, 1, 2], [0, 1])
    rows = np.array([4, 0, 3, 4])
    assert data.pixels(rows)[:, 0, 0, 0].tolist() == [4, 0, 3, 4]
    assert data.labels[rows].tolist() == [1, 0, 0, 1]


# --- augmentation -----------------------------------------------------------------------------


def cropped(images, flip=False, seed=0):
    return random_crop_and_flip(images, flip, torch.Generator().manual_seed(seed))


def test_images_shift_by_at_most_a_tenth_and_repeat_their_edge():
    ramp = torch.arange(20.0).repeat(3, 20, 1).repeat(200, 1, 1, 1)  # value = column
    found = cropped(ramp)[:, 0, 10, :]
    shift = found[:, 10] - 10
    assert set(shift.tolist()) == {-2, -1, 0, 1, 2}
    expected = (torch.arange(20.0) + shift[:, None]).clamp(0, 19)
    assert torch.equal(found, expected)


def test_rows_shift_like_columns_and_on_their_own():
    ramp = torch.arange(20.0)[:, None].repeat(3, 1, 20).repeat(200, 1, 1, 1)
    assert set((cropped(ramp)[:, 0, 10, 10] - 10).tolist()) == {-2, -1, 0, 1, 2}
    both = cropped(torch.stack([ramp[:, 0], ramp[:, 0].mT, ramp[:, 0]], dim=1))[..., 10, 10]
    assert len({tuple(pair) for pair in both[:, :2].tolist()}) == 25


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_mirrored_only_where_that_keeps_the_class(flip):
    ramp = torch.arange(20.0).repeat(3, 20, 1).repeat(200, 1, 1, 1)
    rising = cropped(ramp, flip)[:, 0, 0, 15] > cropped(ramp, flip)[:, 0, 0, 5]
    assert (0.3 < rising.float().mean() < 0.7) if flip else rising.all()


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("side", [8, 33])
def test_cropping_moves_pixels_as_padding_and_slicing_does(side, flip):
    images = torch.arange(27.0 * side * side).view(9, 3, side, side)
    generator, margin = torch.Generator().manual_seed(5), max(1, round(side / 10))
    shifts = torch.randint(0, 2 * margin + 1, (2, 9, 1), generator=generator)
    mirrored = torch.rand(9, 1, generator=generator) < 0.5
    padded = torch.nn.functional.pad(images, (margin,) * 4, mode="replicate")
    expected = []
    for image, y, x, turned in zip(padded, *shifts, mirrored, strict=True):
        crop = image[:, y : y + side, x : x + side]
        expected.append(crop.flip(-1) if flip and turned else crop)
    found = cropped(images, flip, seed=5)
    assert torch.equal(found, torch.stack(expected))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_colours_are_kept():
    image = torch.rand(4, 3, 1, 1).expand(4, 3, 32, 32)
    assert torch.equal(cropped(image, flip=True), image)


def test_pixels_become_numbers_from_0_to_1():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[1, 2, 3] = (255, 51, 0)
    images = to_float(pixels, CPU)
    assert images.shape == (2, 3, 4, 4)
    assert images[1, :, 2, 3].tolist() == pytest.approx([1, 0.2, 0])
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_normalising_follows_the_weights_own_mean_std_and_size():
    layer = Normalise((0.5, 0.4, 0.3), (0.5, 0.2, 0.1), size=16)
    found = layer(torch.ones(1, 3, 8, 8))
    assert found.shape == (1, 3, 16, 16)
    assert found[0, :, 5, 5].tolist() == pytest.approx([1, 3, 7])
    checks = torch.tensor([0.0, 1.0]).repeat(1, 3, 8, 4)
    large = Normalise((0.0,) * 3, (1.0,) * 3, size=32)(checks)
    assert 0 <= large.min() and large.max() <= 1  # bicubic overshoots

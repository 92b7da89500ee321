"""The methods that edit images, on the real pocket models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmark.contract import Images, Shots
from benchmark.home import find_root
from benchmark.meter import Meter
from benchmark.registry import load_registry
from benchmark.upstream import Upstream, open_upstream
from tests.helpers.trials import budget, fashion
from tests.helpers.upstreams import small_spec

ROOT = find_root()
METHODS = load_registry(ROOT).methods  # also makes the helpers importable

from benchmark.entries.methods import _edits, _fractals, diff_mix, diffusemix, real_guidance  # noqa: E402  # noqa: E402
from benchmark.entries.methods._queries import template_ensemble, zero_shot  # noqa: E402

PER_CLASS = 2
QUICK = {"steps": 4, "guidance_scale": 1.0}
TRAINED = {"fit_steps": 1}
NAMES = {
    "boomerang": {},
    "real_guidance": {},
    "diffusemix": {},
    "da_fusion": TRAINED,
    "diff_mix": TRAINED,
}


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return open_upstream("small", small_spec(ROOT, generator={"batch_size": 32}), ROOT, "cpu")


@pytest.fixture(scope="module")
def shots() -> Shots:
    return fashion(ROOT)


def run(name: str, upstream: Upstream, shots: Shots, count: int = PER_CLASS, **params) -> Images:
    """All that a method yields, as one batch."""
    method, meter = METHODS[name], Meter(budget(count), len(shots.classes))
    asked = method.params(**QUICK | NAMES.get(name, {}) | params)
    with upstream.metered(meter):
        batches = list(method.augment(shots, upstream, meter, np.random.default_rng(0), asked))
    return Images(
        np.concatenate([images.pixels for images in batches]),
        np.concatenate([images.labels for images in batches]),
        [told for images in batches for told in images.provenance],
        [why for images in batches for why in images.rejected],
    )


def parents(images: Images, shots: Shots) -> list[int]:
    """The row of the shot that each image was made from."""
    return [shots.ids.index(told.parents[0]) for told in images.provenance]


def distance(images: Images, shots: Shots) -> float:
    originals = shots.images[parents(images, shots)]
    return float(np.abs(images.pixels.astype(float) - originals).mean())


@pytest.fixture(scope="module", params=NAMES)
def made(request, upstream, shots) -> tuple[str, Images]:
    return request.param, run(request.param, upstream, shots)


def test_every_class_is_edited_from_its_own_shots(made, shots):
    name, images = made
    sources = shots.labels[parents(images, shots)]
    if name == "diff_mix":
        assert (images.labels[np.arange(len(sources)), sources] > 0).all()
    else:
        assert sources.tolist() == images.labels.tolist()
    kept = [not why for why in images.rejected] or [True] * len(sources)
    assert sources[kept].tolist() == list(range(10)) * PER_CLASS


def test_each_edit_has_a_seed_and_a_price_of_its_own(made):
    _, images = made
    assert len({told.seed for told in images.provenance}) == len(images.pixels)
    assert all(1 <= told.nfe <= QUICK["steps"] for told in images.provenance)


@pytest.mark.parametrize("name", ["boomerang", "real_guidance", "diffusemix"])
def test_an_edit_of_low_strength_is_nearer_to_its_shot(name, upstream, shots):
    more = {"blend": 0.0} if name == "diffusemix" else {}
    low, high = (run(name, upstream, shots, 1, strength=s, **more) for s in (0.25, 1.0))
    assert distance(low, shots) < 0.7 * distance(high, shots)


def test_parents_follow_the_shots_where_two_classes_change_theirs(upstream, shots):
    order = [1, 0, *range(2, 10)]
    swapped = replace(shots, images=shots.images[order], ids=tuple(shots.ids[row] for row in order))
    before = run("boomerang", upstream, shots, 1)
    after = run("boomerang", upstream, swapped, 1)
    ids = [told.parents[0] for told in before.provenance]
    assert [told.parents[0] for told in after.provenance] == [ids[row] for row in order]
    assert after.labels.tolist() == before.labels.tolist()
    assert not np.array_equal(after.pixels[0], before.pixels[0])
    assert np.array_equal(after.pixels[2:], before.pixels[2:])


def test_the_shots_of_a_class_come_in_turn(shots):
    five = Shots(
        images=shots.images.repeat(3, axis=0),
        labels=shots.labels.repeat(3),
        ids=tuple(str(row) for row in range(30)),
        classes=shots.classes,
        image_size=shots.image_size,
    )
    rows, prompts = _edits.cycle_shots(five, 4, np.random.default_rng(0))
    turns = rows.reshape(4, 10)
    assert (five.labels[turns] == np.arange(10)).all()
    assert all(len(set(turns[:3, label])) == 3 for label in range(10))
    assert (turns[3] == turns[0]).all()
    assert prompts[:10] == [entry.prompts[0] for entry in shots.classes]


def test_equal_strengths_go_together_and_none_is_lost():
    found = list(_edits.group_by_value(np.array([0.7, 0.5, 0.7, 0.9])))
    assert [value for value, _ in found] == [0.7, 0.5, 0.9]
    assert [places.tolist() for _, places in found] == [[0, 2], [1], [3]]


# --- Boomerang ----------------------------------------------------------------------------------


def test_boomerang_is_told_nothing_unless_it_is_prompted(upstream, shots):
    blind = run("boomerang", upstream, shots, 1, strength=1.0)
    told = run("boomerang", upstream, shots, 1, strength=1.0, prompted=True, guidance_scale=3.0)
    assert {row.prompt for row in blind.provenance} == {""}
    assert {row.guidance_scale for row in blind.provenance} == {1.0}
    for row, label in zip(told.provenance, told.labels, strict=True):
        assert row.prompt in shots.classes[label].prompts and row.guidance_scale == 3.0


# --- Real Guidance ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shots_per_class", "strength"),
    [(0.5, 0.50), (1, 0.50), (2, 0.40), (5, 0.35), (8, 0.20), (16, 0.15), (100, 0.15)],
)
def test_more_shots_are_noised_less(shots_per_class, strength):
    assert real_guidance.published(shots_per_class) == strength


def test_of_the_candidates_from_a_shot_the_most_certain_is_kept(upstream, shots):
    images = run("real_guidance", upstream, shots, candidates=3, strength=0.75)
    class_features = template_ensemble(upstream.encoder, shots.classes)
    sure = zero_shot(upstream.encoder, images.pixels, class_features)
    own = sure[np.arange(len(sure)), images.labels].reshape(-1, 3)
    kept = np.array([not why for why in images.rejected]).reshape(-1, 3)
    assert (kept.sum(axis=1) == 1).all()
    assert (own[kept] == own.max(axis=1)).all()
    assert all(why.startswith("score: ") for why in images.rejected if why)


# --- DA-Fusion and Diff-Mix -----------------------------------------------------------------------


def test_da_fusion_edits_at_the_paper_s_strengths_under_words_that_no_card_holds(upstream, shots):
    images = run("da_fusion", upstream, shots, 6)
    assert {told.nfe for told in images.provenance} <= {1, 2, 3, 4}
    assert len({told.nfe for told in images.provenance}) > 1
    words = [told.prompt.split()[-1] for told in images.provenance]
    known = {word for entry in shots.classes for text in entry.prompts for word in text.split()}
    assert not set(words) & known
    of = dict(zip(words, images.labels.tolist(), strict=True))
    assert len(of) == 10 and [of[word] for word in words] == images.labels.tolist()


def test_a_label_is_shared_between_source_and_target():
    y = diff_mix.mixed_labels(np.array([0, 2]), np.array([1, 2]), np.array([0.7, 0.9]) ** 0.5, 3)
    # by hand: the square roots of 0.7 and 0.9 are 0.83666 and 0.94868
    assert y == pytest.approx(np.array([[0.16334, 0.83666, 0], [0, 0, 1]]), abs=1e-5)


def test_diff_mix_labels_follow_the_strength_that_was_taken(upstream, shots):
    images = run("diff_mix", upstream, shots, 4, steps=10, gamma=0.5)
    sources = parents(images, shots)
    assert images.labels.sum(axis=1) == pytest.approx(1)
    shares = {5: 0.70711, 7: 0.83666, 9: 0.94868}  # by hand: square roots of 0.5, 0.7, 0.9
    for y, source, told in zip(images.labels, sources, images.provenance, strict=True):
        target = int(y.argmax())
        one = shares[told.nfe] if target != source else 1.0
        assert y[target] == pytest.approx(one, abs=1e-5)
    named = {
        told.prompt: int(y.argmax())
        for told, y in zip(images.provenance, images.labels, strict=True)
    }
    assert len(named) == 10, "one prompt per target class"
    for turn in images.labels.reshape(4, 10, 10):
        assert sorted(turn.argmax(axis=1)) == list(range(10)), "a class is aimed at more often"


# --- DiffuseMix -----------------------------------------------------------------------------------


def test_half_of_every_mixture_is_its_shot(upstream, shots):
    images = run("diffusemix", upstream, shots, blend=0.0)
    originals = shots.images[parents(images, shots)]
    half, equal = shots.image_size // 2, (images.pixels == originals).all(axis=-1)
    sides = np.stack(
        [
            equal[:, :half],
            equal[:, half:],
            equal[:, :, :half].swapaxes(1, 2),
            equal[:, :, half:].swapaxes(1, 2),
        ]
    ).all(axis=(2, 3))
    assert (sides.sum(axis=0) == 1).all(), "one half, and not both"
    assert (sides.sum(axis=1) > 0).all(), "a side never comes"


def test_halves_are_cut_where_the_mask_says():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    rng = np.random.default_rng(0)
    found = {diffusemix.halves(black, white, rng)[..., 0].tobytes() for _ in range(64)}
    left = np.array([[0, 0, 255, 255]] * 4, np.uint8)
    assert found == {part.tobytes() for part in (left, 255 - left, left.T, 255 - left.T)}


def test_a_fractal_has_its_share_of_the_pixels():
    image, fractal = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 200, np.uint8)
    assert (diffusemix.blended(image, fractal, 0.2) == 120).all()
    assert (diffusemix.blended(image, fractal, 0.0) == 100).all()
    assert (diffusemix.blended(image, fractal, 1.0) == 200).all()


def test_every_style_joins_the_class_prompt(upstream, shots):
    for told, label in zip(
        (images := run("diffusemix", upstream, shots)).provenance, images.labels, strict=True
    ):
        prompt, _, style = told.prompt.partition(", ")
        assert prompt in shots.classes[label].prompts and style in diffusemix.STYLES


@pytest.mark.parametrize("size", [1, 32, 33])
def test_fractals_are_those_of_their_seed(size):
    first, again, other = (_fractals.julia(size, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == (size, size, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_no_fractal_is_flat():
    rng = np.random.default_rng(0)
    for _ in range(100):
        image = _fractals.julia(32, rng).reshape(-1, 3)
        assert image.std(axis=0).max() > 10 and len(np.unique(image, axis=0)) >= 8


# --- retrieved, then edited -----------------------------------------------------------------------


def test_retrieved_images_are_edited_by_their_own_rank_and_class(upstream, shots):
    edited = run("retrieve_then_edit", upstream, shots, strength=0.25)
    plain = METHODS["retrieve_text"]
    meter = Meter(budget(PER_CLASS), 10)
    (found,) = plain.augment(shots, upstream, meter, np.random.default_rng(0), plain.params())
    assert edited.labels.tolist() == found.labels
    for made, source in zip(edited.provenance, found.provenance, strict=True):
        assert made.origin == "generated" and made.parents == (source.corpus_id,)
        assert (made.corpus_id, made.rank, made.similarity, made.licence) == (
            source.corpus_id,
            source.rank,
            source.similarity,
            source.licence,
        )
        assert made.seed is not None and made.nfe == 1
    away = np.abs(edited.pixels.astype(float) - found.pixels).mean(axis=(1, 2, 3))
    others = np.abs(edited.pixels.astype(float) - np.roll(found.pixels, 1, 0)).mean(axis=(1, 2, 3))
    assert (away > 0).all() and away.mean() < 0.5 * others.mean()

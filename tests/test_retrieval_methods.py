"""Methods that train nothing: what they ask for, what they find, what they leave out."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import permutations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmark import Class, Provenance
from benchmark.contract import Images
from benchmark.home import find_root
from benchmark.meter import Meter
from benchmark.registry import load_registry
from benchmark.upstream import Neighbours, Upstream, open_upstream
from tests.helpers.trials import budget, fashion
from tests.helpers.upstreams import small_spec

ROOT = find_root()
REGISTRY = load_registry(ROOT)  # also makes the helpers importable
SHOTS = fashion(ROOT)
NAMES = [entry.name for entry in SHOTS.classes]
PER_CLASS = 2

from benchmark.entries.methods import _filters, _queries, _sampling  # noqa: E402
from benchmark.entries.methods.prompt_sariyildiz import SCENES, prompts  # noqa: E402
from benchmark.entries.methods.unguided import assigned  # noqa: E402


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return open_upstream("small", small_spec(ROOT), ROOT, "cpu")


def made(name: str, upstream: Upstream, shots=SHOTS, seed: int = 0, per_class=PER_CLASS, **params):
    """What a method yields as one batch, and the meter afterwards."""
    method = REGISTRY.methods[name]
    if "steps" in method.params.model_fields:
        params = {"steps": 2} | params
    meter = Meter(budget(per_class), len(shots.classes))
    with upstream.metered(meter):
        batches = list(
            method.augment(
                shots, upstream, meter, np.random.default_rng(seed), method.params(**params)
            )
        )
    reasons = [list(batch.rejected) or [""] * len(batch.labels) for batch in batches]
    together = replace(_filters.joined(batches), rejected=[why for part in reasons for why in part])
    return together, meter


def kept(images: Images) -> list[tuple[int, Provenance, bytes]]:
    """Label, provenance and pixels of what is not rejected."""
    rows = zip(images.labels, images.provenance, images.pixels, images.rejected, strict=True)
    return [(int(label), told, pixels.tobytes()) for label, told, pixels, why in rows if not why]


def of_class(images: Images) -> list[set[bytes]]:
    """The pixels kept of each class."""
    return [{raw for label, _, raw in kept(images) if label == c} for c in range(len(NAMES))]


def named(name: str, **facts) -> Class:
    return Class(name, (f"a {name}",), (f"a {name}",), **{"members": (name,)} | facts)


# --- rounds and texts ---------------------------------------------------------------------------


def test_rounds_leave_the_classes_balanced_wherever_they_end():
    order = [label for _, label in _sampling.rounds(3, 4)]
    for end in range(len(order) + 1):
        counts = np.bincount(order[:end], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(order).tolist() == [3] * 4


def test_prompts_of_each_class_are_cycled():
    shots = replace(SHOTS, classes=(named("hat"), named("cup")))
    texts = [["a", "b"], ["c"]]
    prompts, labels, seeds = _sampling.cycle_prompts(shots, 3, np.random.default_rng(0), texts)
    assert prompts == ["a", "c", "b", "c", "a", "c"] and labels == [0, 1] * 3
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**63 for seed in seeds)
    assert _sampling.cycle_prompts(shots, 1, np.random.default_rng(0))[0] == ["a hat", "a cup"]


def test_captions_match_by_whole_words_in_any_order_and_case(monkeypatch):
    monkeypatch.setattr(_queries, "BATCH", 3)  # rows count on across batches
    captions = ["Boot, ANKLE high", "ankle", "boots", None, "the dogfish", "hot_dog", "T-Shirt", ""]
    classes = [named("ankle boot"), named("pet", members=("cat", "dog")), named("t-shirt")]
    rows = _queries.caption_matches(captions, classes)
    assert [found.tolist() for found in rows] == [[0], [5], [6]]
    assert _queries.caption_matches(captions, [named("?")])[0].tolist() == []
    assert _queries.caption_matches([], classes)[0].dtype == np.int64


def test_a_caption_counts_for_every_class_it_names_and_once():
    rows = _queries.caption_matches(
        ["dog and cat"], [named("pet", members=("cat", "dog")), named("dog")]
    )
    assert [found.tolist() for found in rows] == [[0], [0]]


def test_the_ensemble_is_the_mean_over_templates_of_each_member(upstream):
    from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES

    pet, hat = _queries.template_ensemble(
        upstream.encoder, [named("pet", members=("cat", "dog")), named("hat")]
    )
    assert pet.shape == (2, upstream.encoder.dim) and hat.shape == (1, upstream.encoder.dim)
    texts = [template("dog") for template in SIMPLE_IMAGENET_TEMPLATES]
    dog = torch.nn.functional.normalize(upstream.encoder.encode_texts(texts).mean(0), dim=0)
    assert torch.allclose(pet[1], dog, atol=1e-5)


def test_zero_shot_probabilities_sum_to_one_and_know_their_class(upstream):
    queries = _queries.template_ensemble(upstream.encoder, SHOTS.classes)
    sure = _queries.zero_shot(upstream.encoder, SHOTS.images, queries)
    assert sure.shape == (10, 10) and np.allclose(sure.sum(1), 1, atol=1e-5)
    assert np.mean(sure.argmax(1) == SHOTS.labels) > 0.3  # by chance 0.1


# --- filters ------------------------------------------------------------------------------------


def test_the_best_of_a_group_is_kept_and_of_equal_ones_the_first():
    assert _filters.best_of(np.array([0.1, 0.4, 0.4])) == [
        "score: 0.100 < 0.400",
        "",
        "score: 0.400 < 0.400",
    ]
    assert _filters.best_of(np.array([0.3])) == [""]


def test_flags_reject_beyond_their_threshold_alone():
    assert _filters.flagged({}) == _filters.flagged({"safety": 0.5, "watermark": 0.8}) == ""
    assert _filters.flagged({"safety": 0.9}) == "safety: 0.9 > 0.5"
    assert _filters.flagged({"safety": 0.1, "watermark": 0.81}) == "watermark: 0.81 > 0.8"


@pytest.fixture(scope="module")
def flagged(tmp_path_factory) -> Upstream:
    """Eight images: the second a copy of the first, the third unsafe, the fourth watermarked."""
    folder = tmp_path_factory.mktemp("flagged")
    rows = pq.read_table(ROOT / "pocket/corpus/train.parquet").slice(0, 8).to_pylist()
    for row in rows:
        row |= {"punsafe": 0.01, "pwatermark": None}
    rows[1]["image"] = rows[0]["image"]
    rows[2]["punsafe"], rows[3]["pwatermark"] = 0.9, 0.95
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet")
    columns = {"safety": "punsafe", "watermark": "pwatermark"}
    spec = small_spec(ROOT, corpus={"data_files": [str(folder / "corpus.parquet")], **columns})
    return open_upstream("flagged", spec, ROOT, "cpu")


def screen(upstream: Upstream, per_class: int, orders: list[list[int]], **options) -> Images:
    found = [
        Neighbours(np.array(rows), np.linspace(0.9, 0.5, len(rows)), np.zeros(len(rows), int))
        for rows in orders
    ]
    meter = Meter(budget(per_class), len(orders))
    texts = [["x"]] * len(orders)
    with upstream.metered(meter):
        (images,) = _filters.retrieve_filtered(upstream, meter, found, texts, 32, **options)
    assert "filter" in meter.spent()
    return images


def test_what_the_corpus_flags_and_copies_make_room_for_the_next(flagged):
    images = screen(flagged, 3, [[0, 1, 2, 3, 4, 5, 6]])
    reasons = dict(zip([told.rank for told in images.provenance], images.rejected, strict=True))
    first = flagged.corpus.ids[0]
    assert reasons == {
        0: "",
        1: f"duplicate: cosine 1.000 with {first}",
        2: "safety: 0.9 > 0.5",
        3: "watermark: 0.95 > 0.8",
        4: "",
        5: "",  # the third kept: rank 6 is not fetched
    }


def test_a_copy_of_a_rejected_image_or_in_another_class_is_no_duplicate(flagged):
    assert list(screen(flagged, 3, [[0], [1]]).rejected) == ["", ""]
    assert list(screen(flagged, 9, [[2, 5]]).rejected) == ["safety: 0.9 > 0.5", ""]


def test_a_lower_threshold_takes_more_for_duplicates(flagged):
    cosines = flagged.features[4:8] @ flagged.features[4:8].T
    below = float(np.sort(cosines[0, 1:])[-1]) - 1e-3
    reasons = screen(flagged, 9, [[4, 5, 6, 7]], duplicate=below).rejected
    assert reasons[0] == "" and any(why.startswith("duplicate: cosine") for why in reasons)
    assert not any(screen(flagged, 9, [[4, 5, 6, 7]]).rejected)


# --- retrieval ----------------------------------------------------------------------------------

BY_WORDS = ["retrieve_caption", "retrieve_priming", "retrieve_balanced"]


@pytest.mark.parametrize("name", [*BY_WORDS, "sus_x_retrieved"])
def test_retrieval_finds_the_class_best_first(name, upstream):
    captions = dict(zip(upstream.corpus.ids, upstream.corpus.captions, strict=True))
    rows = kept(made(name, upstream)[0])
    right = [captions[told.corpus_id] == NAMES[label] for label, told, _ in rows]
    assert np.mean(right) > 0.4  # by chance it would be about 0.05
    for label in range(len(NAMES)):
        told = [told for of, told, _ in rows if of == label]
        assert len(told) == PER_CLASS
        assert [row.rank for row in told] == sorted(row.rank for row in told)
        assert [row.similarity for row in told] == sorted(row.similarity for row in told)[::-1]


@pytest.mark.parametrize("name", BY_WORDS)
def test_a_class_that_no_caption_names_gets_nothing_and_harms_no_other(name, upstream):
    classes = (replace(SHOTS.classes[0], members=("zyzzyva",)), *SHOTS.classes[1:])
    images, _ = made(name, upstream, replace(SHOTS, classes=classes))
    labels = [label for label, _, _ in kept(images)]
    assert np.bincount(labels, minlength=10).tolist() == [0] + [PER_CLASS] * 9


@pytest.mark.parametrize("name", BY_WORDS)
def test_no_image_of_a_class_comes_twice(name, upstream):
    images, _ = made(name, upstream, per_class=50)
    ids = [(label, told.corpus_id) for label, told, _ in kept(images)]
    assert len(ids) == len(set(ids)) > 100
    assert len({(label, raw) for label, _, raw in kept(images)}) == len(ids)


def test_captions_keep_the_best_share_of_the_matches(upstream):
    matched = _queries.caption_matches(upstream.corpus.captions, SHOTS.classes)
    for keep in (0.1, 0.3, 1.0):
        images, _ = made("retrieve_caption", upstream, per_class=10**4, keep=keep)
        expected = [np.ceil(keep * len(rows)) for rows in matched]
        assert np.bincount(images.labels).tolist() == expected


def test_priming_follows_the_shots_and_not_where_it_asks_the_text_alone(upstream):
    swapped = replace(SHOTS, images=np.roll(SHOTS.images, 1, axis=0))
    by_image, by_text = ({"alpha": 0.0}, {"alpha": 1.0})
    assert of_class(made("retrieve_priming", upstream, **by_image)[0]) != of_class(
        made("retrieve_priming", upstream, swapped, **by_image)[0]
    )
    assert of_class(made("retrieve_priming", upstream, **by_text)[0]) == of_class(
        made("retrieve_priming", upstream, swapped, **by_text)[0]
    )


def test_text_to_text_encodes_each_caption_once(upstream):
    _, meter = made("retrieve_balanced", upstream)
    pools = _queries.caption_matches(upstream.corpus.captions, SHOTS.classes)
    captions = {upstream.corpus.captions[int(row)] for row in np.concatenate(pools)}
    probe = Meter(budget(), 1)
    with upstream.metered(probe):
        upstream.encoder.encode_texts(["a hat"] * (len(captions) + 7 * len(NAMES)))
    assert meter.spent()["retrieve"].tflops == pytest.approx(probe.total().tflops, rel=1e-3)


def test_text_to_text_takes_from_each_member_in_turn_and_ties_by_chance(upstream):
    captions = list(upstream.corpus.captions)
    members = ("sneaker", "sandal")
    rows = np.array([row for row, caption in enumerate(captions) if caption in members])
    queries = [upstream.encoder.encode_texts(members)]
    orders = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        (found,) = _queries.nearest_captions(upstream, Meter(budget(), 1), queries, [rows], rng)
        assert [captions[row] for row in found.rows[:4]] in (
            [*members] * 2,
            [*members[::-1]] * 2,
        )
        assert [members[one] for one in found.query] == [captions[row] for row in found.rows]
        assert sorted(found.rows) == sorted(rows)
        orders.append(found.rows.tolist())
    assert orders[0] != orders[1]


# --- generation ---------------------------------------------------------------------------------


def test_clip_templates_do_not_come_twice_before_all_were_used(upstream):
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    shots = replace(SHOTS, classes=(named("hat"), named("pet", members=("cat", "dog"))))
    images, _ = made("prompt_clip", upstream, shots, per_class=6, steps=1, guidance_scale=1)
    for label, members in enumerate([["hat"], ["cat", "dog"]]):
        prompts = [told.prompt for of, told, _ in kept(images) if of == label]
        known = {template(member) for template in OPENAI_IMAGENET_TEMPLATES for member in members}
        assert len(set(prompts)) == 6 and set(prompts) <= known


def test_definitions_and_scenes_come_in_turn(upstream):
    rng = np.random.default_rng(0)
    crane = named("crane", hypernym="bird", definition="a long-necked wading bird")
    first, second, *_ = prompts(crane, 4, rng)
    assert first == "crane, a long-necked wading bird"
    scene = re.fullmatch("crane, bird inside (.+)", second)
    assert scene and scene[1] in SCENES
    bare = prompts(named("crane"), 2, rng)
    assert bare[0] == "crane" and bare[1].removeprefix("crane inside ") in SCENES
    assert len(SCENES) == len(set(SCENES)) and not any("," in scene for scene in SCENES)
    pets = prompts(named("pet", members=("cat", "dog")), 8, rng)
    assert [said.split()[0] for said in pets] == ["cat", "cat", "dog", "dog"] * 2


def test_support_sets_are_asked_for_without_and_with_the_definition(upstream):
    images, _ = made("sus_x_generated", upstream, steps=1, guidance_scale=1)
    for label, entry in enumerate(SHOTS.classes):
        plain, defined = [told.prompt for of, told, _ in kept(images) if of == label]
        assert plain == entry.prompts[0] and defined == f"{plain}, {entry.definition}"
    assert _queries.with_definitions(named("hat")) == [("a hat",)]


def test_the_assignment_is_the_best_there_is_and_the_rest_was_outdone():
    cosines = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    told = [Provenance("generated", "x")] * 5
    images = assigned(Images(np.zeros((5, 8, 8, 3), np.uint8), [0] * 5, told), cosines)
    rows = [row for row in range(5) if not images.rejected[row]]
    assert sorted(images.labels[rows].tolist()) == [0, 1, 2]
    best = max(sum(cosines[order, range(3)]) for order in map(list, permutations(range(5), 3)))
    assert cosines[rows, images.labels[rows]].sum() == pytest.approx(best)
    for row in set(range(5)) - set(rows):
        own, other = map(float, re.findall(r"-?\d\.\d+", images.rejected[row]))
        assert own <= other and own == pytest.approx(cosines[row].max(), abs=1e-3)


def test_unguided_images_follow_the_shots(upstream):
    images, meter = made("unguided", upstream)
    assert [len(raw) for raw in of_class(images)] == [PER_CLASS] * 10
    assert sum(map(bool, images.rejected)) == 10 * PER_CLASS  # half of what was generated
    assert {told.prompt for told in images.provenance} == {""}
    assert {told.nfe for told in images.provenance} == {2}  # a step without guidance is one
    assert {"generate", "filter"} == set(meter.spent()) - {"augment"}
    moved = replace(SHOTS, images=np.roll(SHOTS.images, 1, axis=0))
    again = of_class(made("unguided", upstream, moved)[0])
    assert again == np.roll(np.array(of_class(images), object), 1).tolist()


def test_of_several_candidates_the_most_certain_is_kept(upstream):
    images, meter = made("generate_then_filter", upstream, candidates=3)
    queries = _queries.template_ensemble(upstream.encoder, SHOTS.classes)
    sure = _queries.zero_shot(upstream.encoder, images.pixels, queries)
    own = sure[range(len(images.labels)), images.labels].reshape(PER_CLASS, 3, 10)
    taken = np.array([not why for why in images.rejected]).reshape(PER_CLASS, 3, 10)
    assert (taken.sum(1) == 1).all()
    assert np.allclose(own.max(1), (own * taken).sum(1), atol=1e-4)
    assert all(re.fullmatch(r"score: \S+ < \S+", why) for why in images.rejected if why)
    assert meter.spent()["filter"].tflops > 0 and meter.spent()["filter"].nfe == 0


def test_one_candidate_is_no_filter(upstream):
    images, _ = made("generate_then_filter", upstream, candidates=1, per_class=1)
    assert not any(images.rejected) and len(images.labels) == 10


@pytest.mark.parametrize(("share", "expected"), [(0.5, "rgrg"), (0.25, "rggg"), (0.75, "rrrg")])
def test_a_mixture_has_its_share_of_both(share, expected, upstream):
    images, meter = made("mix_retrieve_generate", upstream, share=share, per_class=4, steps=1)
    for label in range(10):
        told = [told for of, told, _ in kept(images) if of == label]
        assert "".join(row.origin[0] for row in told) == expected
        ranks = [row.rank for row in told if row.rank is not None]
        assert ranks == list(range(expected.count("r")))
    assert set(meter.spent()) - {"augment"} == {"retrieve", "generate"}

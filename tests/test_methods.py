"""The contract, for every file in ``methods/``, on the real pocket models."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmark.data.split import load_split
from benchmark.home import find_root
from benchmark.images import resized
from benchmark.meter import Meter
from benchmark.records.tables import table_hash
from benchmark.registry import MethodCall, load_registry
from benchmark.trial.augment import seed_everything
from benchmark.trial.mixing import Mixer
from benchmark.upstream import Upstream, open_upstream
from tests.helpers.trials import (
    PER_CLASS,
    budget,
    of_classes,
    quick,
    run_method,
    shots_for,
)
from tests.helpers.upstreams import small_spec, weight_hashes

ROOT = find_root()
REGISTRY = load_registry(ROOT)  # also makes the helpers importable

from benchmark.entries.methods import _identifiers, _personalize  # noqa: E402

TASK = "fashion-1shot"
MIXING = sorted(name for name, method in REGISTRY.methods.items() if method.facts.mixes_batches)
FROM_PAPERS = sorted(
    name for name, m in REGISTRY.methods.items() if m.facts.family not in ("control", "oracle")
)
ADAPTING = sorted(name for name, m in REGISTRY.methods.items() if m.facts.adaptation != "none")
FROM_ORIGINALS = sorted(
    {*ADAPTING, *(name for name, m in REGISTRY.methods.items() if m.facts.family == "edit")}
)


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return open_upstream("small", small_spec(ROOT), ROOT, "cpu")


@pytest.fixture(scope="module")
def split():
    return load_split(REGISTRY.task(TASK), 0, ROOT)


@pytest.fixture(scope="module")
def other_split():
    return load_split(REGISTRY.task(TASK), 1, ROOT)


@pytest.fixture(scope="module")
def before(upstream) -> dict[str, str]:
    return weight_hashes(upstream)


@pytest.fixture(scope="module", params=sorted(REGISTRY.methods), ids=str)
def made(request, upstream, split, before):
    """One run of each method, for all the checks below."""
    method = REGISTRY.methods[request.param]
    return method, *run_method(method, upstream, split, seed=0)


def test_every_file_loads():
    assert not REGISTRY.broken
    files = {path.stem for path in (ROOT / "methods").glob("[!_]*.py")}
    assert set(REGISTRY.methods) == files


def test_the_budget_of_images_is_used_and_balanced(made, split):
    method, ledger, _ = made
    frame, labels = ledger.frame(), ledger.accepted()[1]
    expected = PER_CLASS if method.facts.adds_images else 0
    assert np.bincount(labels, minlength=len(split.task.classes)).tolist() == [expected] * 10
    first = labels[: len(split.task.classes)].tolist()
    assert len(set(first)) == len(first), "not every class comes before the second of one"
    filtered = {reason.partition(":")[0] for reason in frame["reason"][~frame["accepted"]]}
    assert filtered <= set(method.facts.filters), "more images than the budget takes"


def test_images_are_images(made):
    method, ledger, _ = made
    if not method.facts.adds_images:
        pytest.skip("it adds none")
    pixels, _ = ledger.accepted()
    assert np.mean(pixels.std(axis=(1, 2, 3)) > 2) > 0.9, "flat images"
    assert len(set(ledger.frame()["sha256"])) > len(pixels) / 2


def test_provenance_is_complete(made):
    _, ledger, _ = made
    frame = ledger.frame()
    generated = frame[frame["origin"] == "generated"]
    assert generated[["prompt", "seed", "nfe", "guidance_scale"]].notna().all(axis=None)
    assert (generated["nfe"] > 0).all() and generated["seed"].is_unique
    assert frame[frame["origin"] == "retrieved"]["corpus_id"].notna().all()
    ranked = frame[frame["rank"].notna()]
    assert ranked["similarity"].notna().all()
    derived = frame[frame["origin"].isin(["transformed", "real"])]
    assert (derived["parents"] != "[]").all()


def test_what_was_computed_is_charged(made):
    method, ledger, meter = made
    spent, frame = meter.total(), ledger.frame()
    if "generator" in method.facts.uses:
        assert spent.nfe >= frame["nfe"].fillna(0).sum() > 0
    else:
        assert spent.nfe == 0
    uses_models = set(method.facts.uses) & {"generator", "encoder", "index"}
    assert bool(uses_models) == (spent.tflops > 0), "facts.uses and the meter disagree"
    assert ("fit" in meter.spent()) == (method.facts.adaptation != "none")


def test_the_same_seed_gives_the_same_ledger(made, upstream, split):
    method, ledger, _ = made
    again, _ = run_method(method, upstream, split, seed=0)
    assert table_hash(again.frame()) == table_hash(ledger.frame())


def test_another_seed_gives_other_images_where_the_method_is_stochastic(made, upstream, split):
    method, ledger, _ = made
    other, _ = run_method(method, upstream, split, seed=1)
    same = table_hash(other.frame()) == table_hash(ledger.frame())
    assert same != method.facts.stochastic, "FACTS.stochastic"


def test_another_split_gives_other_images_where_the_method_uses_shots(made, upstream, other_split):
    """One that does not is given shots without images, as in a trial: it works without them."""
    method, ledger, _ = made
    other, _ = run_method(method, upstream, other_split, seed=0)
    same = table_hash(other.frame()) == table_hash(ledger.frame())
    assert same != method.facts.uses_shots, "FACTS.uses_shots"


def test_the_upstream_is_left_as_it_was(made, upstream, before):
    assert weight_hashes(upstream) == before
    denoiser = upstream.generator.pipeline.unet
    assert not getattr(denoiser, "peft_config", None), "an adapter was left in the denoiser"


def test_what_looks_at_the_shots_follows_their_labels(made, upstream, split):
    """Two classes exchange their images, and nothing else changes."""
    method, ledger, _ = made
    if not method.facts.uses_shots or method.facts.family == "oracle":
        pytest.skip("it does not look at them, or (an oracle) at the unused images alone")
    shots = split.as_shots()
    turned, swapped = np.arange(len(shots.labels)), (1, 8)
    turned[list(swapped)] = turned[list(reversed(swapped))]
    assert shots.labels.tolist() == list(range(len(shots.classes)))  # one shot each
    ids = tuple(shots.ids[row] for row in turned)
    shots = replace(shots, images=shots.images[turned], ids=ids)
    again, _ = run_method(method, upstream, split, seed=0, shots=shots)
    before, after = ledger.frame(), again.frame()
    for label in swapped:
        old, new = before[before["label"] == label], after[after["label"] == label]
        facts = ["sha256", "similarity", "accepted"]  # a small corpus has few others to find
        assert not old[facts].equals(new[facts]), label
    assert parents(before, split.shots.ids) == parents(after, shots.ids)


def parents(frame, ids) -> set[tuple[int, int]]:
    """Every label that comes with a shot, and the label of the shot."""
    of = {id_: label for label, id_ in enumerate(ids)}
    return {
        (label, of[parent])
        for label, told in zip(frame["label"], frame["parents"], strict=True)
        for parent in json.loads(told)
        if parent in of
    }


@pytest.fixture(scope="module")
def larger() -> Upstream:
    """Its generator works at twice the size of the task's images."""
    return open_upstream("larger", small_spec(ROOT, generator={"size": 64}), ROOT, "cpu")


@pytest.mark.parametrize("name", FROM_ORIGINALS)
def test_the_generator_learns_from_and_edits_the_files_at_its_own_size(name, larger, split):
    method, loaded = REGISTRY.methods[name], {}
    given = of_classes(split.as_shots(), range(2))
    files = dict(zip(given.ids, resized(given.images[::-1], 64), strict=True))

    def load(ids, size: int) -> np.ndarray:
        loaded.update(dict.fromkeys(ids, size))
        return np.stack([files[id_] for id_ in ids])

    encoded: set[bytes] = set()

    def note(encoder, args) -> None:  # what the autoencoder is given, in -1..1
        pixels = ((args[0] / 2 + 0.5) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        encoded.update(image.numpy().tobytes() for image in pixels.contiguous())

    meter, shots = Meter(budget(1), 2), replace(given, load=load)
    handle = larger.generator.pipeline.vae.encoder.register_forward_pre_hook(note)
    try:
        with larger.metered(meter):
            rng = np.random.default_rng(0)
            batches = list(method.augment(shots, larger, meter, rng, quick(method)))
    finally:
        handle.remove()
    assert loaded == dict.fromkeys(given.ids, 64)
    assert encoded >= {files[id_].tobytes() for id_ in given.ids}
    assert {images.pixels.shape[1:] for images in batches} == {(32, 32, 3)}


def test_half_the_compute_is_not_overspent(made, upstream, split):
    method, ledger, meter = made
    if not (cap := meter.total().tflops / 2):
        pytest.skip("it computes nothing that is charged")
    part, spent = run_method(method, upstream, split, seed=0, tflops=cap)
    assert spent.total().tflops <= cap
    assert part.count <= ledger.count
    if method.facts.adaptation == "none":
        rows, whole = part.frame(), ledger.frame()
        planned = (rows["nfe"] < whole["nfe"].head(len(rows))).any()  # fewer steps an image
        assert planned or rows.equals(whole.head(len(rows))), "other images than without the cap"


@pytest.mark.parametrize("name", ADAPTING)
def test_training_is_shortened_until_all_images_are_paid_for(name, upstream, split):
    """Each asks for several times as much, and DreamBooth for too large a prior."""
    asks = "prior_per_class" in REGISTRY.methods[name].params.model_fields
    prior = ",prior_per_class=20" if asks else ""
    call = REGISTRY.call(f"{name}[steps=4{prior}]")
    price = upstream.generator.estimate_tflops(10 * PER_CLASS, 4, call.params.guidance_scale)
    full, spent = run_method(
        call.method, upstream, split, seed=0, tflops=price + 0.2, params=call.params
    )
    assert full.count == 10 * PER_CLASS
    assert spent.total().tflops <= price + 0.2


@pytest.mark.parametrize("name", FROM_PAPERS)
def test_facts_name_a_paper_unless_it_is_a_control(name):
    facts = REGISTRY.methods[name].facts
    assert facts.paper and facts.citation


def test_a_method_that_is_queried_or_adapted_by_shots_says_that_it_uses_them(made):
    facts = made[0].facts
    needs_shots = facts.query == "image" or facts.adaptation != "none"
    assert facts.uses_shots or not needs_shots


# --- batch hooks ------------------------------------------------------------------------------


def mixed(name: str, seed: int, count: int = 6, **params: float) -> list[torch.Tensor]:
    """Images and targets of some batches, one after another."""
    method = REGISTRY.methods[name]
    meter, rng = Meter(budget(PER_CLASS), 10), np.random.default_rng(seed)
    mixer = Mixer(MethodCall(method, method.params(**params)), meter, rng)
    return [part for _ in range(count) for part in mixer(*a_batch())]


def a_batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last), torch.eye(10)[:8]


@pytest.mark.parametrize("name", MIXING)
def test_mixed_batches_are_batches(name):
    found = mixed(name, seed=0)
    images, targets = torch.cat(found[::2]), torch.cat(found[1::2])
    assert images.shape == (48, 3, 32, 32) and 0 <= images.min() and images.max() <= 1
    assert torch.allclose(targets.sum(dim=1), torch.ones(48)) and targets.min() >= 0
    given = a_batch()
    assert not torch.equal(images, given[0].repeat(6, 1, 1, 1)), "no pixel changed"
    assert not torch.equal(targets, given[1].repeat(6, 1)), "no target changed"


@pytest.mark.parametrize("name", MIXING)
def test_the_same_seed_mixes_the_same_batches(name):
    seed_everything(0)
    first = mixed(name, seed=0)
    seed_everything(1)
    assert all(map(torch.equal, first, mixed(name, seed=0)))
    assert not all(map(torch.equal, first, mixed(name, seed=1)))


# --- single methods -----------------------------------------------------------------------------


def only(name: str, upstream, split, seed: int = 0, **params) -> Iterator:
    method = REGISTRY.methods[name]
    meter = Meter(budget(PER_CLASS), len(split.task.classes))
    shots = shots_for(method, split)
    for images in method.augment(
        shots, upstream, meter, np.random.default_rng(seed), method.params(**params)
    ):
        yield from zip(images.pixels, images.labels, images.provenance, strict=True)


def test_more_real_yields_images_that_are_not_the_shots(upstream, split):
    told = [told.parents[0] for _, _, told in only("more_real", upstream, split)]
    assert len(set(told)) == len(told) == 20
    assert set(told) <= set(split.unused.ids) and not set(told) & set(split.shots.ids)


CLASSICAL = pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])


@CLASSICAL
def test_transforms_leave_the_global_generators_as_they_were(name, upstream, split):
    def drawn() -> tuple[float, ...]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(3)
    expected = drawn()
    seed_everything(3)
    list(only(name, upstream, split))
    assert drawn() == expected


@CLASSICAL
def test_transforms_change_images_and_keep_their_class(name, upstream, split):
    of = dict(zip(split.shots.ids, split.shots.labels, strict=True))
    changed = []
    for pixels, label, told in only(name, upstream, split):
        assert of[told.parents[0]] == label
        changed.append(not np.array_equal(pixels, split.shots.pixels()[label]))
    assert np.mean(changed) > 0.5  # equalising twice, say, may change nothing


def test_mixup_blends_images_as_it_blends_their_labels():
    images, targets = a_batch()
    found, rows = mixed("mixup", seed=0, count=1)
    assert torch.allclose(found, torch.einsum("bn,nchw->bchw", rows[:, :8], images), atol=1e-5)
    weight = rows.diagonal()
    assert len({round(value, 5) for value in weight.tolist()} - {1.0}) == 1  # one for the batch


def test_weak_mixup_leaves_most_weight_on_one_image():
    strong, weak = (
        torch.cat(mixed("mixup", seed=0, count=40, alpha=alpha)[1::2]).amax(dim=1).mean()
        for alpha in (10.0, 0.1)
    )
    assert strong < 0.7 and weak > 0.9


def test_cutmix_weighs_labels_by_the_area_of_its_rectangle():
    images, targets = a_batch()
    found = mixed("cutmix", seed=0, count=12, probability=1.0)
    shares = set()
    for pixels, rows in zip(found[::2], found[1::2], strict=True):
        kept = (pixels == images).all(dim=1)
        for row in torch.nonzero(rows.diagonal() < 1).flatten():
            assert kept[row].float().mean().item() == pytest.approx(rows[row, row].item(), abs=1e-6)
            partner = rows[row].clone().index_fill(0, row, 0).argmax()
            assert torch.equal(pixels[row][:, ~kept[row]], images[partner][:, ~kept[row]])
            lost = torch.nonzero(~kept[row])
            size = lost.amax(dim=0) - lost.amin(dim=0) + 1
            assert size.prod() == len(lost), "not a rectangle"
            shares.add(round(rows[row, row].item(), 4))
    assert len(shares) > 6


def test_cutmix_mixes_the_share_of_batches_it_is_told():
    for probability, least, most in ((0.0, 0, 0), (0.5, 8, 32), (1.0, 36, 40)):
        found = mixed("cutmix", seed=0, count=40, probability=probability)
        count = sum(not torch.equal(rows, a_batch()[1]) for rows in found[1::2])
        assert least <= count <= most


def test_retrieval_by_text_finds_the_class(upstream, split):
    captions = dict(zip(upstream.corpus.ids, upstream.corpus.captions, strict=True))
    right = [
        captions[told.corpus_id] == split.task.classes[label].name
        for _, label, told in only("retrieve_text", upstream, split)
    ]
    assert np.mean(right) > 0.5  # by chance it would be about 0.05


def test_retrieval_by_image_names_the_shot_that_found_it(upstream, split):
    of = dict(zip(split.shots.ids, split.shots.labels, strict=True))
    for _, label, told in only("retrieve_image", upstream, split):
        assert of[told.parents[0]] == label and -1 <= told.similarity <= 1


def test_random_images_have_every_label_and_no_rank(upstream, split):
    told = list(only("random_corpus", upstream, split))
    assert len({row.corpus_id for _, _, row in told}) == 20
    assert all(row.similarity is None and row.prompt is None for _, _, row in told)


def test_generated_images_come_from_the_class_prompts(upstream, split):
    for _, label, told in only("prompt_simple", upstream, split, steps=1, guidance_scale=1):
        assert told.prompt in split.task.classes[label].prompts
        assert told.nfe == 1


def test_identifiers_are_the_rare_words_that_say_least(upstream):
    from benchmark.upstream.adapters import rare_words

    pipeline = upstream.generator.pipeline
    shots = load_split(REGISTRY.task("fashion-1shot"), 0, ROOT).as_shots()
    meter = Meter(budget(1), len(shots.classes))
    with upstream.metered(meter):
        chosen = _identifiers.identifiers(shots, upstream, meter)
    assert len(set(chosen)) == len(shots.classes) == 10
    assert meter.spent()["fit"].tflops > 0, "reading them is charged"
    known = [text for entry in shots.classes for text in entry.prompts]
    rare = rare_words(pipeline, _identifiers.CANDIDATES, known)
    assert set(chosen) < set(rare)

    def said(words, noun="sandal"):  # by another model, before a noun they were not tried on
        told = upstream.encoder.encode_texts([f"{word} {noun}" for word in words])
        return 1 - (told @ upstream.encoder.encode_texts([noun])[0])

    assert said(chosen).max() < said(rare).median()


def test_shots_are_described_by_their_own_class_and_each_text_is_read_once(upstream, monkeypatch):
    shots = load_split(REGISTRY.task("openmoji-5shot"), 0, ROOT).as_shots()
    read, encode = [], upstream.encoder.encode_texts
    monkeypatch.setattr(
        upstream.encoder, "encode_texts", lambda texts: read.extend(texts) or encode(texts)
    )
    told = _personalize.captions(shots, upstream, Meter(budget(1), len(shots.classes)))
    assert read == [text for entry in shots.classes for text in entry.prompts]
    assert len(told) == len(shots.labels)
    features = upstream.encoder.encode_images(shots.images)
    for row in (0, 7, 99):
        entry = shots.classes[shots.labels[row]]
        cosines = encode(list(entry.prompts)) @ features[row]
        assert told[row][0].format(name=told[row][1]) == entry.prompts[int(cosines.argmax())]

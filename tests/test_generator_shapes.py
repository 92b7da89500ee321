"""The generator's own calls, its adapters and every method that generates, on folders of the
shapes of Stable Diffusion 1, 2 and XL (``tests.folders``)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from benchmark.data import Split, load_split
from benchmark.errors import Unavailable
from benchmark.meter import Meter
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.adapters import (
    TEXT_ATTENTION,
    UNET_ATTENTION,
    lora,
    pseudo_words,
    rare_words,
    text_parts,
    unfrozen,
)
from benchmark.upstream.generator import Generator, to_pixels
from benchmark.upstream.training import denoising_loss
from tests.folders import CONTEXT, SHAPES, SIDE, folder_spec
from tests.small import budget
from tests.test_methods import PER_CLASS, REGISTRY, run, weights

TEXTS = ["an emoji of a hat", "an emoji of a coat", "an emoji of a bag"]
WIDTHS = {"sd1": (32, None), "sd2": (32, None), "sdxl": (48, 24)}


@dataclass
class Opened:
    """A folder that is open: its shape, the upstream with it, all its weights."""

    shape: str
    upstream: Upstream
    before: dict[str, str]

    @property
    def generator(self) -> Generator:
        return self.upstream.generator


@pytest.fixture(scope="module", params=sorted(SHAPES))
def opened(request, root, tmp_path_factory) -> Opened:
    folder = tmp_path_factory.mktemp("folders") / request.param
    SHAPES[request.param](root, folder)
    upstream = open_upstream(request.param, folder_spec(root, folder), root, "cpu")
    return Opened(request.param, upstream, weights(upstream))


@pytest.fixture
def generator(opened) -> Generator:
    return opened.generator


@pytest.fixture(autouse=True)
def left_as_it_was(request):
    """Whatever a test does with a folder's generator, its weights and layers are put back."""
    yield
    if "opened" in request.fixturenames:
        opened = request.getfixturevalue("opened")
        assert weights(opened.upstream) == opened.before


def pictures(count: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def draw(generator: Generator, texts=TEXTS, guidance_scale=1.0, steps=2, **more) -> np.ndarray:
    count = len(texts)
    asked = {"size": SIDE, "guidance_scale": guidance_scale, "steps": steps} | more
    made = list(generator.text_to_image(texts, range(count), range(count), **asked))
    return np.concatenate([images.pixels for images in made])


def edit(generator: Generator, images: np.ndarray, strength: float, steps: int = 4, **more):
    count = len(images)
    asked = {"size": SIDE, "guidance_scale": 1.0, "steps": steps, "strength": strength} | more
    return list(
        generator.image_to_image(images, TEXTS[:count], range(count), range(count), **asked)
    )


def loss_at(generator: Generator, conditioning, timestep: int = 500, count: int = 3):
    """The denoising loss of fixed latents, noise and time step."""
    latents = generator.encode(pictures(count))
    times = torch.full((count,), timestep)
    rng = np.random.default_rng(0)
    return denoising_loss(generator, latents, conditioning, rng, timesteps=times)


# --- what the generator computes ----------------------------------------------------------------


def test_images_are_made_of_prompts_or_of_their_conditions(generator):
    plain = draw(generator, guidance_scale=3.0)
    assert plain.shape == (3, SIDE, SIDE, 3) and plain.std() > 2
    told = generator.condition(TEXTS)
    again = draw(generator, ["not this"] * 3, guidance_scale=3.0, conditioning=told)
    assert np.abs(plain.astype(int) - again).max() <= 1  # rounding
    other = draw(generator, guidance_scale=3.0, conditioning=told.rows([1, 1, 1]))
    assert np.abs(plain.astype(int) - other).max() > 1


def test_conditions_are_rows_of_tokens_and_of_whole_prompts(opened):
    told, (width, pooled) = opened.generator.condition(TEXTS), WIDTHS[opened.shape]
    assert len(told) == 3 and told.embeds.shape == (3, CONTEXT, width)
    assert (told.pooled is None) == (pooled is None)
    assert pooled is None or told.pooled.shape == (3, pooled)
    chosen = told.rows([2, 0, 2])
    for part, whole in zip(chosen.tensors(), told.tensors(), strict=True):
        assert torch.equal(part, whole[[2, 0, 2]])
    one = opened.generator.condition(TEXTS[1:2])
    for part, whole in zip(one.tensors(), told.rows(slice(1, 2)).tensors(), strict=True):
        torch.testing.assert_close(part, whole)
    leaves = told.trained().tensors()
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)
    assert not any(whole.requires_grad for whole in told.tensors())


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_edits_take_their_share_of_the_steps(opened, strength):
    images = pictures(3, side=20)
    (made,) = edit(opened.generator, images, strength, parents=[["a"], ["b", "c"], []])
    assert made.pixels.shape == (3, SIDE, SIDE, 3)
    assert [told.parents for told in made.provenance] == [("a",), ("b", "c"), ()]
    more = opened.shape == "sd1"  # PNDM takes one step more
    assert {told.nfe for told in made.provenance} == {max(1, int(4 * strength)) + more}


def test_a_weak_edit_stays_near_its_image(generator):
    images, vae = pictures(3), generator.pipeline.vae
    with torch.no_grad():
        coded = vae.decode(generator.encode(images) / vae.config.scaling_factor).sample
    coded = to_pixels(coded / 2 + 0.5, SIDE).astype(int)
    far = []
    for strength in (0.0, 0.5, 1.0):
        (made,) = edit(generator, images, strength, steps=20)
        far.append(np.abs(made.pixels - coded).mean())
    assert far[0] < far[1] < far[2]


@pytest.mark.parametrize("steps", [1, 7, 49, 98])
def test_the_weakest_edit_is_one_step_of_any_number(opened, steps):
    """49 * (1 / 49) lies below 1, and a pipeline rounds down."""
    (made,) = edit(opened.generator, pictures(1), 0.0, steps=steps)
    assert made.provenance[0].nfe == 1 + (opened.shape == "sd1" and steps > 1)


def test_latents_are_scaled_means(generator):
    vae = generator.pipeline.vae
    latents = generator.encode(pictures(5))  # more than a batch
    assert latents.shape == (5, 4, SIDE // 8, SIDE // 8) and not latents.requires_grad
    given = torch.from_numpy(pictures(5)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(given).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(latents, expected)


def test_a_prediction_is_what_a_step_of_the_pipeline_asks_for(generator):
    """The denoiser is given the same by ``predict`` as by diffusers itself."""
    denoiser, asked = generator.pipeline.unet, []

    def note(module, args, kwargs, output) -> None:
        noisy, time = args[:2]
        asked.append((noisy, time, output[0]))

    handle = denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        draw(generator)
    finally:
        handle.remove()
    told = generator.condition(TEXTS)
    for noisy, time, expected in asked:
        with torch.no_grad():
            predicted = generator.predict(noisy, time.expand(3), told)
        assert predicted.shape == noisy.shape
        torch.testing.assert_close(predicted, expected)


@pytest.mark.parametrize("timestep", [0, 1, 500, 999])
def test_the_loss_is_of_what_the_denoiser_was_trained_to_say(opened, monkeypatch, timestep):
    """By hand, from the noise schedule of the scheduler's own numbers."""
    generator = opened.generator
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)[timestep].item()
    signal, spread = math.sqrt(kept), math.sqrt(1 - kept)
    seen = {}

    def predict(noisy, timesteps, conditioning):
        seen.update(noisy=noisy, timesteps=timesteps)
        return torch.zeros_like(noisy)

    told = generator.condition(TEXTS)
    finite = loss_at(generator, told, timestep)
    assert finite.shape == (3,) and torch.isfinite(finite).all() and (finite > 0).all()
    monkeypatch.setattr(generator, "predict", predict)
    latents, loss = generator.encode(pictures(3)), loss_at(generator, told, timestep)
    assert seen["timesteps"].tolist() == [timestep] * 3
    noise = (seen["noisy"] - signal * latents) / spread
    assert 0.8 < noise.std() < 1.2 or spread < 0.1
    target = signal * noise - spread * latents if opened.shape == "sd2" else noise
    torch.testing.assert_close(loss, target.square().mean((1, 2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("strength", [None, 0.0, 0.5, 1.0])
def test_the_price_is_what_will_be_charged(opened, guidance, strength):
    generator, meter = opened.generator, Meter(budget(), 3)
    with opened.upstream.metered(meter):
        price = generator.price(3, 4, guidance, strength)
        assert meter.total().tflops == 0, "asking for the price costs"
        if strength is None:
            draw(generator, guidance_scale=guidance, steps=4)
        else:
            edit(generator, pictures(3), strength, guidance_scale=guidance)
    spent = meter.total().tflops
    assert spent * (1 - 1e-12) <= price
    # XL's empty prompt is zeros that no encoder is asked for; in these encoders are a large part
    saved = texts_cost(opened.upstream) if opened.shape == "sdxl" and guidance > 1 else 0
    assert price == pytest.approx(spent + saved, rel=1e-9)


def texts_cost(upstream: Upstream) -> float:
    """TFLOPs of the three prompts."""
    meter = Meter(budget(), 3)
    with upstream.metered(meter):
        upstream.generator.condition(TEXTS)
    return meter.total().tflops


def test_the_first_call_of_all_may_be_metered(opened, root):
    """transformers makes its encoders ready for collecting hidden states when it is first asked
    to, which is while a trial's meter counts."""
    again = open_upstream(opened.shape, opened.upstream.spec, root, "cpu")
    meter = Meter(budget(), 3)
    with again.metered(meter):
        told = again.generator.condition(TEXTS)
    assert meter.total().tflops == pytest.approx(texts_cost(opened.upstream))
    for part, known in zip(
        told.tensors(), opened.generator.condition(TEXTS).tensors(), strict=True
    ):
        torch.testing.assert_close(part, known)


def test_guidance_doubles_the_evaluations(opened):
    spent = []
    for guidance in (1.0, 3.0):
        meter = Meter(budget(), 3)
        with opened.upstream.metered(meter):
            draw(opened.generator, guidance_scale=guidance)
        spent.append(meter.total().nfe)
    assert spent[1] == 2 * spent[0] > 0


# --- pseudo-words -------------------------------------------------------------------------------


def test_rare_words_are_one_token_of_every_vocabulary(generator):
    words = rare_words(generator.pipeline, 12, avoid=TEXTS)
    assert len(set(words)) == 12
    for tokenizer, _ in text_parts(generator.pipeline):
        for word in words:
            assert len(tokenizer(f"a photo of {word}").input_ids) == 6
            assert tokenizer(word).input_ids[1] not in tokenizer(TEXTS).input_ids


def test_a_small_vocabulary_has_few_rare_words(generator):
    every = rare_words(generator.pipeline, 10**6, at_least=1)
    assert rare_words(generator.pipeline, 3) == every[:3]
    with pytest.raises(Unavailable, match=f"1000000 rare words wanted, .* has {len(every)}$"):
        rare_words(generator.pipeline, 10**6)


def test_pseudo_words_change_the_prompts_they_stand_in_and_no_other(opened):
    generator = opened.generator
    word, other = rare_words(generator.pipeline, 2, avoid=TEXTS)
    texts = [f"an emoji of a {word}", f"an emoji of a {other}", *TEXTS]
    plain = generator.condition(texts)
    with pseudo_words(generator.pipeline, [word]) as vectors:
        widths = [part.get_input_embeddings().base.weight.shape[1] for part in encoders(generator)]
        assert [vector.shape for vector in vectors] == [(1, width) for width in widths]
        same = generator.condition(texts)
        for was, now in zip(plain.tensors(), same.tensors(), strict=True):
            assert torch.equal(was, now), "a word begins as it was"
        with torch.no_grad():
            for vector in vectors:
                vector += torch.randn(vector.shape, generator=torch.Generator().manual_seed(0))
        changed = generator.condition(texts)
        for was, now in zip(plain.tensors(), changed.tensors(), strict=True):
            assert torch.equal(was[1:], now[1:]) and not torch.allclose(was[0], now[0])
        # before the word stands (mark of beginning, "an", "emoji", "of", "a"), nothing is known
        assert torch.equal(plain.embeds[0, :5], changed.embeds[0, :5])
        assert not np.array_equal(draw(generator, texts[:1]), draw(generator, TEXTS[:1]))
    after = generator.condition(texts)
    assert all(map(torch.equal, after.tensors(), plain.tensors()))


def encoders(generator: Generator) -> list:
    return [encoder for _, encoder in text_parts(generator.pipeline)]


def test_pseudo_words_begin_as_the_mean_of_a_text(generator):
    (word,) = rare_words(generator.pipeline, 1)
    with pseudo_words(generator.pipeline, [word], ["a hat"]) as vectors:
        for vector, (tokenizer, encoder) in zip(
            vectors, text_parts(generator.pipeline), strict=True
        ):
            ids = tokenizer("a hat").input_ids[1:-1]
            mean = encoder.get_input_embeddings().base.weight[ids].mean(0)
            torch.testing.assert_close(vector[0], mean)


def test_gradients_reach_the_pseudo_words_and_nothing_else(generator):
    words = rare_words(generator.pipeline, 2)
    texts = [f"an emoji of {words[0]}", "an emoji of a hat", f"an emoji of {words[0]}"]
    with pseudo_words(generator.pipeline, words) as vectors:
        told = generator.condition(texts)
        found = torch.autograd.grad(loss_at(generator, told).sum(), vectors)
        for gradient in found:  # of both encoders
            assert gradient[0].abs().max() > 0, "the word that was said"
            assert gradient[1].abs().max() == 0, "the word that was not"
        needing = [
            name
            for part in generator.pipeline.components.values()
            if isinstance(part, torch.nn.Module)
            for name, weight in part.named_parameters()
            if weight.requires_grad
        ]
        assert len(needing) == len(vectors)


def test_pseudo_words_end_with_an_exception(generator):
    before = [encoder.get_input_embeddings() for encoder in encoders(generator)]
    (word,) = rare_words(generator.pipeline, 1)
    with pytest.raises(RuntimeError, match="stopped"):
        with pseudo_words(generator.pipeline, [word]) as vectors:
            with torch.no_grad():
                vectors[0].fill_(torch.nan)
            raise RuntimeError("stopped")
    after = [encoder.get_input_embeddings() for encoder in encoders(generator)]
    assert all(a is b for a, b in zip(after, before, strict=True))


def test_what_is_several_tokens_is_no_pseudo_word(generator):
    before = [encoder.get_input_embeddings() for encoder in encoders(generator)]
    with pytest.raises(ValueError, match="not one token each: two words"):
        with pseudo_words(generator.pipeline, ["two words"]):
            pass
    assert [encoder.get_input_embeddings() for encoder in encoders(generator)] == before


def test_a_prompt_with_a_pseudo_word_is_pooled_where_it_ends(opened):
    """The encoders of 1.5 and XL take the largest token id for the end of a prompt: a token
    that was added to the vocabulary would be taken for it, a rare word of it is not."""
    pipeline = opened.generator.pipeline
    for word in rare_words(pipeline, 20):
        for tokenizer, _ in text_parts(pipeline):
            ids = tokenizer(f"{word} on a hat", return_tensors="pt").input_ids
            assert ids[0, 1] < tokenizer.eos_token_id == ids.max() == len(tokenizer) - 1
            assert ids[0].argmax() == ids.shape[1] - 1
    if opened.shape != "sdxl":
        return
    encoder, tokenizer = pipeline.text_encoder_2, pipeline.tokenizer_2
    assert encoder.config.eos_token_id == 2
    (word,) = rare_words(pipeline, 1)
    text = f"a hat and {word}"
    with pseudo_words(pipeline, [word]) as vectors, torch.no_grad():
        vectors[1].neg_()
        pooled = opened.generator.condition([text]).pooled
        ids = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        states = encoder(ids).last_hidden_state
    end = len(tokenizer(text).input_ids) - 1
    with torch.no_grad():
        torch.testing.assert_close(pooled, encoder.text_projection(states[:, end]))


# --- LoRA and whole weights ---------------------------------------------------------------------


def anatomy(module: torch.nn.Module) -> tuple:
    """Names, kinds and identities of all parts, names and flags of all weights, the hooks."""
    return (
        [(name, id(part), part.training) for name, part in module.named_modules()],
        [(name, id(weight), weight.requires_grad) for name, weight in module.named_parameters()],
        list(module.state_dict()),
        sorted(set(vars(module)) - {"_gradient_checkpointing_func"}),
        len(module._forward_pre_hooks),
    )


def adapted_parts(generator: Generator):
    yield generator.pipeline.unet, UNET_ATTENTION
    for encoder in encoders(generator):
        yield encoder, TEXT_ATTENTION


def test_lora_adds_nothing_at_first_then_learns_and_leaves(generator):
    for module, targets in adapted_parts(generator):
        before = anatomy(module)
        told = generator.condition(TEXTS)
        plain = loss_at(generator, told)
        with lora(module, 2, targets=targets) as added:
            shapes = {tuple(weight.shape) for weight in added}
            assert all(2 in shape for shape in shapes) and len(added) >= 8
            assert all(weight.requires_grad for weight in added)
            frozen = [weight for weight in module.parameters() if not weight.requires_grad]
            assert len(frozen) == len(before[1])
            first = loss_at(generator, generator.condition(TEXTS))
            torch.testing.assert_close(first, plain)
            gradients = torch.autograd.grad(first.sum(), added, allow_unused=True)
            # the second factor is 0 at first: only it has a gradient; XL leaves out the last
            # layer of its text encoders
            moved = [g is not None and bool(g.abs().max() > 0) for g in gradients]
            assert sum(moved) >= len(added) / 4
            with torch.no_grad():
                for weight in added:
                    weight += 0.5
            assert not torch.allclose(loss_at(generator, generator.condition(TEXTS)), plain)
        assert anatomy(module) == before
        assert torch.equal(loss_at(generator, generator.condition(TEXTS)), plain)


def test_lora_is_the_same_for_the_same_seed_and_moves_no_global_generator(generator):
    unet, found = generator.pipeline.unet, []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        with lora(unet, 2, targets=UNET_ATTENTION, seed=seed) as added:
            found.append([weight.detach().clone() for weight in added])
        assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, found[0], found[1]))
    assert not all(map(torch.equal, found[0], found[2]))


def test_lora_scales_by_alpha(generator):
    unet, changes, told = generator.pipeline.unet, [], generator.condition(TEXTS)
    noisy, times = torch.ones(3, 4, 4, 4), torch.full((3,), 500)
    with torch.no_grad():
        plain = generator.predict(noisy, times, told)
        for alpha in (1.0, 2.0):
            with lora(unet, 2, targets=("conv_out",), alpha=alpha) as added:
                for weight in added:
                    weight.fill_(0.1)
                changes.append(generator.predict(noisy, times, told) - plain)
    assert changes[1].norm() / changes[0].norm() == pytest.approx(2, rel=1e-3)


def test_lora_ends_with_an_exception(generator):
    unet = generator.pipeline.unet
    before = anatomy(unet)
    with pytest.raises(RuntimeError, match="stopped"):
        with lora(unet, 2, targets=UNET_ATTENTION):
            raise RuntimeError("stopped")
    assert anatomy(unet) == before
    with pytest.raises(ValueError, match="no_such_layer"):
        with lora(unet, 2, targets=("no_such_layer",)):
            pass
    assert anatomy(unet) == before


def test_whole_weights_are_put_back(generator):
    unet = generator.pipeline.unet
    before = anatomy(unet)
    for fails in (False, True):
        with pytest.raises(RuntimeError) if fails else nullcontext():
            with unfrozen(unet, lambda name: "attn2" in name) as chosen:
                names = [name for name, weight in unet.named_parameters() if weight.requires_grad]
                assert names and all("attn2" in name for name in names)
                assert len(chosen) == len(names)
                with torch.no_grad():
                    for weight in chosen:
                        weight.mul_(1.1)
                if fails:
                    raise RuntimeError("stopped")
        assert anatomy(unet) == before


# --- every method that generates ----------------------------------------------------------------

CLASSES = 2


@pytest.fixture(scope="module")
def few(root) -> Split:
    """The first classes of a task of ten."""
    split = load_split(REGISTRY.task("fashion-1shot"), 0, root)
    card = split.task.card
    kept = [np.flatnonzero(part.labels < CLASSES) for part in (split.shots, split.reserve)]
    return replace(
        split,
        task=replace(split.task, card=card.model_copy(update={"classes": card.classes[:CLASSES]})),
        shots=split.shots.select(kept[0]),
        reserve=split.reserve.select(kept[1]),
    )


@pytest.mark.parametrize("opened", ["sd1", "sdxl"], indirect=True)
@pytest.mark.parametrize(
    "name", sorted(name for name, m in REGISTRY.methods.items() if "generator" in m.facts.uses)
)
def test_every_method_that_generates_runs_on_every_shape(opened, name, few):
    method = REGISTRY.methods[name]
    ledger, meter = run(method, opened.upstream, few, seed=0)
    frame, (pixels, labels) = ledger.frame(), ledger.accepted()
    assert np.bincount(labels, minlength=CLASSES).tolist() == [PER_CLASS] * CLASSES
    assert (pixels.std(axis=(1, 2, 3)) > 2).all(), "flat images"
    assert meter.total().nfe >= frame["nfe"].fillna(0).sum() > 0
    assert ("fit" in meter.spent()) == (method.facts.adaptation != "none")
    assert weights(opened.upstream) == opened.before

"""The generator's own calls and every method that generates, on folders of the shapes of Stable
Diffusion 1, 2 and XL (``tests.helpers.pipelines``)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmark.data.split import Split, load_split
from benchmark.home import find_root
from benchmark.meter import Meter
from benchmark.registry import load_registry
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.generator import to_pixels
from tests.helpers.generators import TEXTS, WIDTHS, draw, edit, loss_at, pictures
from tests.helpers.pipelines import CONTEXT, SIDE
from tests.helpers.trials import PER_CLASS, budget, run_method
from tests.helpers.upstreams import weight_hashes

REGISTRY = load_registry(find_root())

# --- what the generator computes ----------------------------------------------------------------


def test_images_are_made_of_prompts_or_of_their_conditions(generator):
    plain = draw(generator, guidance_scale=3.0)
    assert plain.shape == (3, SIDE, SIDE, 3) and plain.std() > 2
    told = generator.condition(TEXTS)
    again = draw(generator, ["not this"] * 3, guidance_scale=3.0, conditioning=told)
    assert np.abs(plain.astype(int) - again).max() <= 1  # rounding
    other = draw(generator, guidance_scale=3.0, conditioning=told.rows([1, 1, 1]))
    assert np.abs(plain.astype(int) - other).max() > 1


def test_conditions_are_rows_of_tokens_and_of_whole_prompts(loaded):
    told, (width, pooled) = loaded.generator.condition(TEXTS), WIDTHS[loaded.shape]
    assert len(told) == 3 and told.embeds.shape == (3, CONTEXT, width)
    assert (told.pooled is None) == (pooled is None)
    assert pooled is None or told.pooled.shape == (3, pooled)
    chosen = told.rows([2, 0, 2])
    for part, whole in zip(chosen.tensors(), told.tensors(), strict=True):
        assert torch.equal(part, whole[[2, 0, 2]])
    one = loaded.generator.condition(TEXTS[1:2])
    for part, whole in zip(one.tensors(), told.rows(slice(1, 2)).tensors(), strict=True):
        torch.testing.assert_close(part, whole)
    leaves = told.trainable().tensors()
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)
    assert not any(whole.requires_grad for whole in told.tensors())


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_edits_take_their_share_of_the_steps(loaded, strength):
    images = pictures(3, side=20)
    (made,) = edit(loaded.generator, images, strength, parents=[["a"], ["b", "c"], []])
    assert made.pixels.shape == (3, SIDE, SIDE, 3)
    assert [told.parents for told in made.provenance] == [("a",), ("b", "c"), ()]
    more = loaded.shape == "sd1"  # PNDM takes one step more
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
def test_the_weakest_edit_is_one_step_of_any_number(loaded, steps):
    """49 * (1 / 49) lies below 1, and a pipeline rounds down."""
    (made,) = edit(loaded.generator, pictures(1), 0.0, steps=steps)
    assert made.provenance[0].nfe == 1 + (loaded.shape == "sd1" and steps > 1)


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
def test_the_loss_is_of_what_the_denoiser_was_trained_to_say(loaded, monkeypatch, timestep):
    """By hand, from the noise schedule of the scheduler's own numbers."""
    generator = loaded.generator
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
    target = signal * noise - spread * latents if loaded.shape == "sd2" else noise
    torch.testing.assert_close(loss, target.square().mean((1, 2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("strength", [None, 0.0, 0.5, 1.0])
def test_the_price_is_what_will_be_charged(loaded, guidance, strength):
    generator, meter = loaded.generator, Meter(budget(), 3)
    with loaded.upstream.metered(meter):
        price = generator.estimate_tflops(3, 4, guidance, strength)
        assert meter.total().tflops == 0, "asking for the price costs"
        if strength is None:
            draw(generator, guidance_scale=guidance, steps=4)
        else:
            edit(generator, pictures(3), strength, guidance_scale=guidance)
    spent = meter.total().tflops
    assert spent * (1 - 1e-12) <= price
    # XL's empty prompt is zeros that no encoder is asked for; in these encoders are a large part
    saved = texts_cost(loaded.upstream) if loaded.shape == "sdxl" and guidance > 1 else 0
    assert price == pytest.approx(spent + saved, rel=1e-9)


def texts_cost(upstream: Upstream) -> float:
    """TFLOPs of the three prompts."""
    meter = Meter(budget(), 3)
    with upstream.metered(meter):
        upstream.generator.condition(TEXTS)
    return meter.total().tflops


def test_the_first_call_of_all_may_be_metered(loaded, root):
    """transformers makes its encoders ready for collecting hidden states when it is first asked
    to, which is while a trial's meter counts."""
    again = open_upstream(loaded.shape, loaded.upstream.spec, root, "cpu")
    meter = Meter(budget(), 3)
    with again.metered(meter):
        told = again.generator.condition(TEXTS)
    assert meter.total().tflops == pytest.approx(texts_cost(loaded.upstream))
    for part, known in zip(
        told.tensors(), loaded.generator.condition(TEXTS).tensors(), strict=True
    ):
        torch.testing.assert_close(part, known)


def test_guidance_doubles_the_evaluations(loaded):
    spent = []
    for guidance in (1.0, 3.0):
        meter = Meter(budget(), 3)
        with loaded.upstream.metered(meter):
            draw(loaded.generator, guidance_scale=guidance)
        spent.append(meter.total().nfe)
    assert spent[1] == 2 * spent[0] > 0


# --- every method that generates ----------------------------------------------------------------

CLASSES = 2


@pytest.fixture(scope="module")
def few(root) -> Split:
    """The first classes of a task of ten."""
    split = load_split(REGISTRY.task("fashion-1shot"), 0, root)
    card = split.task.card
    kept = [np.flatnonzero(part.labels < CLASSES) for part in (split.shots, split.unused)]
    return replace(
        split,
        task=replace(split.task, card=card.model_copy(update={"classes": card.classes[:CLASSES]})),
        shots=split.shots.select(kept[0]),
        unused=split.unused.select(kept[1]),
    )


@pytest.mark.parametrize("pipeline", ["sd1", "sdxl"], indirect=True)
@pytest.mark.parametrize(
    "name", sorted(name for name, m in REGISTRY.methods.items() if "generator" in m.facts.uses)
)
def test_every_method_that_generates_runs_on_every_shape(loaded, name, few):
    method = REGISTRY.methods[name]
    ledger, meter = run_method(method, loaded.upstream, few, seed=0)
    frame, (pixels, labels) = ledger.frame(), ledger.accepted()
    assert np.bincount(labels, minlength=CLASSES).tolist() == [PER_CLASS] * CLASSES
    assert (pixels.std(axis=(1, 2, 3)) > 2).all(), "flat images"
    assert meter.total().nfe >= frame["nfe"].fillna(0).sum() > 0
    assert ("fit" in meter.spent()) == (method.facts.adaptation != "none")
    assert weight_hashes(loaded.upstream) == loaded.before

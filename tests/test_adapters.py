"""Placeholder embeddings, LoRA and whole weights: trained, then restored to the bit, on folders of
the shapes of Stable Diffusion 1, 2 and XL (``tests.helpers.pipelines``)."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from benchmark.errors import Unavailable
from benchmark.upstream.adapters import (
    TEXT_ATTENTION,
    UNET_ATTENTION,
    lora,
    placeholder_embeddings,
    rare_words,
    text_parts,
    unfrozen,
)
from benchmark.upstream.generator import Generator
from tests.helpers.generators import TEXTS, draw, loss_at

# --- placeholder embeddings ---------------------------------------------------------------------


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
    with pytest.raises(Unavailable, match=f"1000000 rare words needed, .* has {len(every)}$"):
        rare_words(generator.pipeline, 10**6)


def test_placeholders_change_the_prompts_they_stand_in_and_no_other(loaded):
    generator = loaded.generator
    word, other = rare_words(generator.pipeline, 2, avoid=TEXTS)
    texts = [f"an emoji of a {word}", f"an emoji of a {other}", *TEXTS]
    plain = generator.condition(texts)
    with placeholder_embeddings(generator.pipeline, [word]) as embeddings:
        widths = [part.get_input_embeddings().base.weight.shape[1] for part in encoders(generator)]
        assert [embedding.shape for embedding in embeddings] == [(1, width) for width in widths]
        same = generator.condition(texts)
        for was, now in zip(plain.tensors(), same.tensors(), strict=True):
            assert torch.equal(was, now), "a word begins as it was"
        with torch.no_grad():
            for embedding in embeddings:
                embedding += torch.randn(
                    embedding.shape, generator=torch.Generator().manual_seed(0)
                )
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


def test_placeholders_start_as_the_mean_of_a_text(generator):
    (word,) = rare_words(generator.pipeline, 1)
    with placeholder_embeddings(generator.pipeline, [word], ["a hat"]) as embeddings:
        for embedding, (tokenizer, encoder) in zip(
            embeddings, text_parts(generator.pipeline), strict=True
        ):
            ids = tokenizer("a hat").input_ids[1:-1]
            mean = encoder.get_input_embeddings().base.weight[ids].mean(0)
            torch.testing.assert_close(embedding[0], mean)


def test_gradients_reach_the_placeholders_and_nothing_else(generator):
    words = rare_words(generator.pipeline, 2)
    texts = [f"an emoji of {words[0]}", "an emoji of a hat", f"an emoji of {words[0]}"]
    with placeholder_embeddings(generator.pipeline, words) as embeddings:
        told = generator.condition(texts)
        found = torch.autograd.grad(loss_at(generator, told).sum(), embeddings)
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
        assert len(needing) == len(embeddings)


def test_placeholders_end_with_an_exception(generator):
    before = [encoder.get_input_embeddings() for encoder in encoders(generator)]
    (word,) = rare_words(generator.pipeline, 1)
    with pytest.raises(RuntimeError, match="stopped"):
        with placeholder_embeddings(generator.pipeline, [word]) as embeddings:
            with torch.no_grad():
                embeddings[0].fill_(torch.nan)
            raise RuntimeError("stopped")
    after = [encoder.get_input_embeddings() for encoder in encoders(generator)]
    assert all(a is b for a, b in zip(after, before, strict=True))


def test_what_is_several_tokens_is_no_placeholder(generator):
    before = [encoder.get_input_embeddings() for encoder in encoders(generator)]
    with pytest.raises(ValueError, match="not one token each: two words"):
        with placeholder_embeddings(generator.pipeline, ["two words"]):
            pass
    assert [encoder.get_input_embeddings() for encoder in encoders(generator)] == before


def test_a_prompt_with_a_placeholder_is_pooled_where_it_ends(loaded):
    """The encoders of 1.5 and XL take the largest token id for the end of a prompt: a token
    that was added to the vocabulary would be taken for it, a rare word of it is not."""
    pipeline = loaded.generator.pipeline
    for word in rare_words(pipeline, 20):
        for tokenizer, _ in text_parts(pipeline):
            ids = tokenizer(f"{word} on a hat", return_tensors="pt").input_ids
            assert ids[0, 1] < tokenizer.eos_token_id == ids.max() == len(tokenizer) - 1
            assert ids[0].argmax() == ids.shape[1] - 1


@pytest.mark.parametrize("pipeline", ["sdxl"], indirect=True)
def test_the_prompt_as_a_whole_is_read_where_it_ends(loaded):
    """For XL's second encoder transformers has a rule of its own."""
    pipeline = loaded.generator.pipeline
    encoder, tokenizer = pipeline.text_encoder_2, pipeline.tokenizer_2
    assert encoder.config.eos_token_id == 2
    (word,) = rare_words(pipeline, 1)
    text = f"a hat and {word}"
    with placeholder_embeddings(pipeline, [word]) as embeddings, torch.no_grad():
        embeddings[1].neg_()
        pooled = loaded.generator.condition([text]).pooled
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

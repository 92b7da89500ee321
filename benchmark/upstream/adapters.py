"""What may be trained of a generator, and how it is undone: pseudo-words, LoRA, whole weights.

Every adapter is a context: inside it the pipeline works with it, afterwards every weight, layer
and flag of the pipeline is as it was, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import Unavailable

# Where LoRA is put by default: the projections of every attention of the denoiser (Hu et al. 2021,
# arXiv 2106.09685, section 4.2, adapt attention alone; names as diffusers gives them).
UNET_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def text_parts(pipeline: Any) -> list[tuple[Any, Any]]:
    """The pipeline's tokenizers with their text encoders: one pair, or two for XL."""
    names = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    pairs = [(getattr(pipeline, a, None), getattr(pipeline, b, None)) for a, b in names]
    return [(tokenizer, encoder) for tokenizer, encoder in pairs if encoder is not None]


def rare_words(
    pipeline: Any, count: int, avoid: Sequence[str] = (), *, at_least: int | None = None
) -> list[str]:
    """Rare words that are one token each in every tokenizer of the pipeline, the rarest first.

    DreamBooth (Ruiz et al. 2023, arXiv 2208.12242, section 3.2) names its subject with a rare
    token of up to three letters; a byte-pair vocabulary lists its merges by falling frequency,
    so rare tokens are at its end. Those of two or three letters come first, then longer ones.

    Args:
        count: how many.
        avoid: texts whose tokens must not be among them.
        at_least: how many are enough where the vocabulary has no more; default: ``count``.

    Raises:
        Unavailable: the vocabulary does not hold so many.
    """
    parts = text_parts(pipeline)
    used = {id_ for tokenizer, _ in parts for text in avoid for id_ in tokenizer(text).input_ids}
    words = []
    ends = [(t[:-4], id_) for t, id_ in parts[0][0].get_vocab().items() if t.endswith("</w>")]
    for word, id_ in sorted(ends, key=lambda entry: (len(entry[0]) > 3, -entry[1])):
        plain = len(word) > 1 and word.isascii() and word.isalpha() and word.islower()
        if not plain or id_ in used or _token(parts[0][0], word) != id_:
            continue
        if all(_token(tokenizer, word) is not None for tokenizer, _ in parts[1:]):
            words.append(word)
            if len(words) == count:
                return words
    least = count if at_least is None else at_least
    if len(words) < least:
        raise Unavailable(f"{least} rare words wanted, the tokenizer has {len(words)}")
    return words


@contextmanager
def pseudo_words(
    pipeline: Any, words: Sequence[str], beginnings: Sequence[str] | None = None
) -> Iterator[Sequence[Tensor]]:
    """Gives words vectors of their own (Gal et al. 2022, arXiv 2208.01618): inside, wherever one
    of them stands in a prompt, its trained vector is read in place of the vocabulary's.

    Args:
        words: N words of one token each, as ``rare_words`` finds them.
        beginnings: N texts; a vector starts as the mean of its text's token vectors. Default:
            the vocabulary's own vector of the word.

    Yields:
        The vectors to train, [N, D] for every text encoder.
    """
    with ExitStack() as stack:
        vectors = []
        for tokenizer, encoder in text_parts(pipeline):
            layer = _PseudoWords(tokenizer, encoder.get_input_embeddings(), words, beginnings)
            encoder.set_input_embeddings(layer)
            stack.callback(encoder.set_input_embeddings, layer.base)
            vectors.append(layer.vectors)
        yield vectors


class _PseudoWords(nn.Module):
    """An embedding layer in front of another, with vectors of its own for some tokens."""

    def __init__(
        self,
        tokenizer: Any,
        base: nn.Embedding,
        words: Sequence[str],
        beginnings: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.base = base
        self.weight = base.weight  # its type and device are asked for by name
        ids = [_token(tokenizer, word) for word in words]
        if faults := [word for word, id_ in zip(words, ids, strict=True) if id_ is None]:
            raise ValueError(f"not one token each: {', '.join(faults)}")
        texts = beginnings if beginnings is not None else words
        rows = [base.weight[_tokens(tokenizer, text)].mean(dim=0) for text in texts]
        self.vectors = nn.Parameter(torch.stack(rows).detach().clone())
        place = torch.full((len(base.weight),), -1, device=base.weight.device)
        place[torch.tensor(ids)] = torch.arange(len(ids), device=place.device)
        self.register_buffer("place", place, persistent=False)

    place: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        place = self.place[ids]
        own = self.vectors[place.clamp(min=0)]
        return torch.where((place >= 0)[..., None], own, self.base(ids))


@contextmanager
def lora(
    module: nn.Module,
    rank: int,
    *,
    targets: Sequence[str],
    alpha: int | None = None,
    seed: int = 0,
) -> Iterator[list[Tensor]]:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the layers of ``module`` whose
    names end in one of ``targets``; they add nothing until they are trained.

    Args:
        rank: r.
        alpha: scale of what they add is alpha / r; default r.
        seed: of their initial weights.

    Yields:
        Their weights, to train.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or rank,
        target_modules=list(targets),
        init_lora_weights="gaussian",
    )
    held = {name: weight.requires_grad for name, weight in module.named_parameters()}
    devices = {weight.device for weight in module.parameters() if weight.is_cuda}
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module)
    try:
        yield [weight for weight in module.parameters() if weight.requires_grad]
    finally:
        adapted = [
            (name, layer)
            for name, layer in module.named_modules()
            if isinstance(layer, BaseTunerLayer)
        ]
        for name, layer in adapted:
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
        if hasattr(module, "peft_config"):
            del module.peft_config
        for name, weight in module.named_parameters():
            weight.requires_grad_(held[name])


@contextmanager
def unfrozen(
    module: nn.Module, chosen: Callable[[str], bool] = lambda name: True
) -> Iterator[list[Tensor]]:
    """The weights of ``module`` whose names are ``chosen``, to train; put back afterwards.

    Yields:
        The weights, in the order of their names in the module.
    """
    weights = [weight for name, weight in module.named_parameters() if chosen(name)]
    saved = [weight.detach().cpu().clone() for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield list(weights)
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, saved, strict=True):
                weight.requires_grad_(False).copy_(value)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    """Token ids without the marks of beginning and end."""
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def _token(tokenizer: Any, word: str) -> int | None:
    """The one token that a word is; None where it is several, or unknown."""
    ids = _tokens(tokenizer, word)
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None

"""What may be trained of a generator, and how it is undone: placeholder embeddings, LoRA, whole
weights.

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
    # "</w>" ends a word in CLIP's vocabulary; what lacks it is the beginning of a longer word
    ends = [(t[:-4], id_) for t, id_ in parts[0][0].get_vocab().items() if t.endswith("</w>")]
    for word, id_ in sorted(ends, key=lambda entry: (len(entry[0]) > 3, -entry[1])):
        plain = len(word) > 1 and word.isascii() and word.isalpha() and word.islower()
        # some entries of a vocabulary are never produced: other merges come before theirs
        if not plain or id_ in used or _token(parts[0][0], word) != id_:
            continue
        if all(_token(tokenizer, word) is not None for tokenizer, _ in parts[1:]):
            words.append(word)
            if len(words) == count:
                return words
    least = count if at_least is None else at_least
    if len(words) < least:
        raise Unavailable(f"{least} rare words needed, the tokenizer has {len(words)}")
    return words


@contextmanager
def placeholder_embeddings(
    pipeline: Any, words: Sequence[str], init_texts: Sequence[str] | None = None
) -> Iterator[list[Tensor]]:
    """Trainable embeddings for placeholder tokens (textual inversion: Gal et al. 2022, arXiv
    2208.01618): inside, wherever one of the words stands in a prompt, its trainable embedding
    takes the place of the vocabulary's.

    The placeholders are words of the vocabulary, not tokens added to it: the text encoders of
    Stable Diffusion 1.5 and XL take the largest token id for the end of the prompt.

    Args:
        words: N words of one token each, as ``rare_words`` returns them.
        init_texts: N texts; an embedding starts as the mean of its text's token embeddings.
            Default: the vocabulary's own embedding of the word.

    Yields:
        The embeddings to train, [N, D] for every text encoder.

    Raises:
        ValueError: a word is not one token.
    """
    with ExitStack() as stack:
        embeddings: list[Tensor] = []
        for tokenizer, encoder in text_parts(pipeline):
            base = encoder.get_input_embeddings()
            layer = _PlaceholderEmbedding(tokenizer, base, words, init_texts)
            encoder.set_input_embeddings(layer)
            stack.callback(encoder.set_input_embeddings, base)
            embeddings.append(layer.trainable)
        yield embeddings


class _PlaceholderEmbedding(nn.Module):
    """An embedding layer in front of another, with trainable rows for some tokens."""

    rows: Tensor  # token id to row of ``trainable``; -1 for tokens that are no placeholder

    def __init__(
        self,
        tokenizer: Any,
        base: nn.Embedding,
        words: Sequence[str],
        init_texts: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.base = base
        self.weight = base.weight  # transformers reads dtype and device from ``weight``
        ids = [_token(tokenizer, word) for word in words]
        if faults := [word for word, id_ in zip(words, ids, strict=True) if id_ is None]:
            raise ValueError(f"not one token each: {', '.join(faults)}")
        texts = init_texts if init_texts is not None else words
        start = [base.weight[_tokens(tokenizer, text)].mean(dim=0) for text in texts]
        self.trainable = nn.Parameter(torch.stack(start).detach().clone())
        rows = torch.full((len(base.weight),), -1, device=base.weight.device)
        rows[torch.tensor(ids)] = torch.arange(len(ids), device=rows.device)
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.rows[ids]
        trainable = self.trainable[rows.clamp(min=0)]  # a row for every token; not all are used
        return torch.where((rows >= 0)[..., None], trainable, self.base(ids))


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
    names end in one of ``targets``; they change nothing until they are trained.

    Args:
        rank: r.
        alpha: their output is scaled by alpha / r; default r.
        seed: of their initial weights.

    Yields:
        The adapters' weights, to train.

    Raises:
        ValueError: no layer has such a name.
    """
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or rank,
        target_modules=list(targets),
        init_lora_weights="gaussian",
    )
    flags = {name: weight.requires_grad for name, weight in module.named_parameters()}
    devices = {weight.device for weight in module.parameters() if weight.is_cuda}
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        adapters = LoraModel(module, config, "default")  # works on ``module`` in place
    try:
        yield [weight for weight in module.parameters() if weight.requires_grad]
    finally:
        adapters.unload()
        # peft freezes what it adapts and leaves it frozen
        for name, weight in module.named_parameters():
            weight.requires_grad_(flags[name])


@contextmanager
def unfrozen(
    module: nn.Module, chosen: Callable[[str], bool] = lambda name: True
) -> Iterator[list[Tensor]]:
    """The weights of ``module`` whose names are ``chosen``, to train; put back afterwards.

    Yields:
        The weights, in the order of their names in the module.
    """
    weights = [weight for name, weight in module.named_parameters() if chosen(name)]
    saved = [weight.detach().cpu().clone() for weight in weights]  # the device may have no room
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

"""Train the pocket's tokenizer: byte-pair encoding of CLIP's kind on the corpus captions.

Made:  ``<out>/{vocab.json,merges.txt,tokenizer.json,tokenizer_config.json}``, a CLIPTokenizer.
From:  the captions of ``corpus/train.parquet`` and the words of the prompts.
Order: make_corpus, **make_tokenizer**, train_clip, train_vae, train_unet, ship_unet.

Byte-pair encoding: Sennrich et al. 2016 (arXiv 1508.07909); lower case, word-end marker and the
two special tokens as in CLIP (Radford et al. 2021, arXiv 2103.00020). Deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from _corpus import POCKET, STYLES
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

VOCABULARY_SIZE = 4298
WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 32
# Words, single digits, runs of punctuation and English contractions, as CLIP splits them.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def training_texts(captions: list[str]) -> list[str]:
    """Captions, and the words around them in prompts often enough to become whole tokens."""
    photos = [f"a photo of a {caption}" for caption in captions[:3000]]
    openings = ["an emoji of", "a picture of", "an icon of a", "clip art of"]
    return [*captions, *photos, *list(STYLES.values()) * 50, *openings * 200]


def train_bpe(texts: Iterable[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary (token -> id) in CLIP's order, and the merges.

    CLIP's order: bytes, bytes that end a word, merged pairs, the two special tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix=WORD_END))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # Any byte may end a word, seen or not. Given to the trainer in a fixed order, for ties between
    # pairs are settled by token ids, and ids of its own choosing differ from process to process.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        special_tokens=[byte + WORD_END for byte in alphabet],
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [(first, second) for first, second in model["merges"]]
    merged = (first + second for first, second in merges)
    tokens = [*alphabet, *(byte + WORD_END for byte in alphabet), *merged, START, END]
    # Two merges can spell the same token; it is one token.
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def write_tokenizer(
    vocabulary: dict[str, int], merges: Iterable[tuple[str, str]], out: Path
) -> CLIPTokenizer:
    """Write the folder of a CLIPTokenizer and read it back."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n")
    files = (str(out / "vocab.json"), str(out / "merges.txt"))
    CLIPTokenizer(*files, model_max_length=CONTEXT_LENGTH).save_pretrained(out)
    return CLIPTokenizer.from_pretrained(out)


def main(
    corpus: Annotated[Path, typer.Option(help="Corpus.")] = POCKET / "corpus/train.parquet",
    out: Annotated[Path, typer.Option(help="Tokenizer folder.")] = POCKET / "clip",
) -> None:
    """Train the tokenizer and write its folder."""
    captions = pd.read_parquet(corpus, columns=["caption"]).caption.tolist()
    tokenizer = write_tokenizer(*train_bpe(training_texts(captions), VOCABULARY_SIZE), out)
    print(len(tokenizer), "tokens;", tokenizer.tokenize("grinning cat face"))


if __name__ == "__main__":
    typer.run(main)

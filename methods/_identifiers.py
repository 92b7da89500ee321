"""Words to name subjects by (DreamBooth, Ruiz et al. 2023, arXiv 2208.12242, section 3.2)."""

from __future__ import annotations

from typing import Any

from benchmark import Shots

CANDIDATES = 256  # rare words to choose from
NOUNS = 2  # of the classes, evenly spread, that the candidates are tried on


def identifiers(shots: Shots, upstream: Any, meter: Any) -> list[str]:
    """An identifier [V] for each class: rare words, those first that say least.

    The paper looks for tokens with a weak prior in the language model and takes rare ones for
    such. A small vocabulary has rare words with a strong meaning, so the prior is measured here
    too (a choice of ours): by how much "[V] noun" changes what the denoiser is told by "noun",
    mean square over the tokens from the noun on.
    """
    from benchmark.upstream.adapters import rare_words

    generator, count = upstream.generator, len(shots.classes)
    known = [text for entry in shots.classes for text in entry.prompts]
    words = rare_words(generator.pipeline, max(CANDIDATES, count), known, at_least=count)
    nouns = [entry.members[0] for entry in shots.classes][:: max(1, count // NOUNS)][:NOUNS]
    said = [0.0] * len(words)
    with meter.phase("fit"):
        for noun in nouns:
            plain = generator.condition([noun]).embeds[:, 1:-1]
            named = generator.condition([f"{word} {noun}" for word in words]).embeds[:, 2:]
            change = (named - plain).float().square().mean(dim=(1, 2))
            said = [total + one for total, one in zip(said, change.tolist(), strict=True)]
    order = sorted(range(len(words)), key=said.__getitem__)
    return [words[place] for place in order[:count]]

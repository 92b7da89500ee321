"""Rare words to name subjects by (DreamBooth, Ruiz et al. 2023, arXiv 2208.12242, section 3.2)."""

from __future__ import annotations

from benchmark import Meter, Shots, Upstream

CANDIDATES = 256  # rare words to choose from
NOUNS = 2  # of the classes, evenly spread, that the candidates are tried on


def identifiers(shots: Shots, upstream: Upstream, meter: Meter) -> list[str]:
    """An identifier [V] for each class: of the rare words, those that change a prompt least.

    The paper looks for tokens with a weak prior in the language model and takes rare ones for
    such. A small vocabulary has rare words with a strong meaning, so the prior is measured here
    too (a choice of ours): by how far "[V] noun" moves the prompt embeddings of "noun", mean
    square over the tokens from the noun on.
    """
    from benchmark.upstream.adapters import rare_words

    generator, count = upstream.generator, len(shots.classes)
    prompts = [text for entry in shots.classes for text in entry.prompts]
    words = rare_words(generator.pipeline, max(CANDIDATES, count), prompts, at_least=count)
    nouns = [entry.members[0] for entry in shots.classes][:: max(1, count // NOUNS)][:NOUNS]
    changes = [0.0] * len(words)
    with meter.phase("fit"):
        for noun in nouns:
            # without the mark of beginning; "[V]" moves the noun by one, so the ends are aligned
            plain = generator.condition([noun]).embeds[:, 1:-1]
            named = generator.condition([f"{word} {noun}" for word in words]).embeds[:, 2:]
            change = (named - plain).float().square().mean(dim=(1, 2))
            changes = [total + one for total, one in zip(changes, change.tolist(), strict=True)]
    order = sorted(range(len(words)), key=changes.__getitem__)
    return [words[index] for index in order[:count]]

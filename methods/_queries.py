"""What classes are searched and prompted with: templates, captions, definitions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmark import Class, Meter, Shots, Upstream

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from benchmark.upstream import Neighbours
    from benchmark.upstream.encoder import Encoder

BATCH = 10_000  # captions read at a time: a corpus of any size fits into memory


def fill_templates(entry: Class, templates: Sequence[Callable[[str], str]]) -> list[str]:
    """Every template (a function of a name, as OpenCLIP has them) with every member of a class;
    member by member, so that the first texts already vary them."""
    return [template(member) for template in templates for member in entry.members]


def template_ensemble(encoder: Encoder, classes: Sequence[Class]) -> list[Tensor]:
    """The template ensemble of Radford et al. (2021), section 3.1.4: per class float32 [M, D],
    for each of its M members the mean feature over templates, L2-normalised. The templates are
    the seven that the authors' notebook "Prompt Engineering for ImageNet" selects of its 80
    (https://github.com/openai/CLIP/tree/main/notebooks): all would cost eleven times as much."""
    from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES as TEMPLATES
    from torch.nn import functional

    # One call for all classes, so that batches are full; cut into classes again below.
    features = encoder.encode_texts(
        [text for entry in classes for text in fill_templates(entry, TEMPLATES)]
    )
    parts = features.split([len(TEMPLATES) * len(entry.members) for entry in classes])
    # [templates * members, D] to [templates, members, D]; the mean is not of length 1 any more
    means = [part.unflatten(0, (len(TEMPLATES), -1)).mean(0) for part in parts]
    return [functional.normalize(mean, dim=-1) for mean in means]


def shot_means(encoder: Encoder, shots: Shots) -> Tensor:
    """The mean feature of the shots of each class, float32 [C, D], L2-normalised."""
    import torch
    from torch.nn import functional

    features = encoder.encode_images(shots.images)
    means = [features[shots.rows(label)].mean(0) for label in range(len(shots.classes))]
    return functional.normalize(torch.stack(means), dim=-1)


def zero_shot(encoder: Encoder, images: np.ndarray, classes: Sequence[Tensor]) -> np.ndarray:
    """Zero-shot probabilities of the classes: float32 [N, C], rows that sum to 1, the softmax of
    the cosines at the encoder's own temperature (Radford et al. 2021, section 2.3).

    Args:
        images: uint8 [N, H, W, 3].
        classes: as ``template_ensemble`` returns them; the largest cosine of a class counts.
    """
    import torch

    features = encoder.encode_images(images)
    cosines = torch.stack([(features @ members.T).amax(1) for members in classes], 1)
    # CLIP learns the logarithm of the inverse temperature
    scale = encoder.model.logit_scale.detach().float().exp().cpu()
    probabilities: np.ndarray = (scale * cosines).softmax(1).numpy()
    return probabilities


def nearest_captions(
    upstream: Upstream,
    meter: Meter,
    queries: Sequence[Tensor],
    pools: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> list[Neighbours]:
    """The rows of each pool by the cosine of their captions to the class: the members are cycled
    (a row belongs to the nearest), best first; equal ones, as those that share a caption, in
    random order. A caption is encoded once.

    Args:
        queries: per class float32 [M, D], L2-normalised, one for each member.
        pools: per class rows of the corpus, int64 [n_c].
    """
    import numpy as np

    from benchmark.upstream import Neighbours

    # A row may be in the pools of several classes, and a caption on several rows.
    all_rows = np.unique(np.concatenate(pools))
    captions = dict(
        zip(all_rows.tolist(), upstream.corpus.captions[all_rows.tolist()], strict=True)
    )
    position = {caption: index for index, caption in enumerate(dict.fromkeys(captions.values()))}
    features = upstream.encoder.encode_texts(list(position))
    ranked = []
    for query, rows in zip(queries, pools, strict=True):
        meter.charge(flops=2 * query.numel() * len(features))
        # rounded: equal captions must rank equal, whichever batch they were encoded in
        best, nearest_member = (features @ query.T).round(decimals=6).max(1)
        rows = rng.permutation(rows)  # the order of equal ones, since the sort below is stable
        of_row = [position[captions[row]] for row in rows.tolist()]
        similarity = best[of_row].numpy()
        member = nearest_member[of_row].numpy()
        order = _cycle_members(similarity, member)
        ranked.append(Neighbours(rows[order], similarity[order], member[order]))
    return ranked


def _cycle_members(similarity: np.ndarray, member: np.ndarray) -> np.ndarray:
    """The order in which each member comes once before any comes again, the best of each first."""
    import numpy as np

    order = np.argsort(-similarity, kind="stable")
    turn = np.zeros(len(order), np.int64)
    for one in np.unique(member):
        own = member[order] == one
        turn[own] = np.arange(own.sum())
    cycled: np.ndarray = order[np.argsort(turn, kind="stable")]
    return cycled


def caption_matches(captions: Sequence[str], classes: Sequence[Class]) -> list[np.ndarray]:
    """The rows whose caption names each class, int64 [n_c], ascending: all words of one of its
    members are words of the caption, in any order and case."""
    import numpy as np

    # Members by their longest word, mostly the rarest: few captions hold it, so few members are
    # compared word for word.
    members: dict[str, list[tuple[int, set[str]]]] = defaultdict(list)
    for label, entry in enumerate(classes):
        for member in entry.members:
            if needed := words(member):
                members[max(needed, key=len)].append((label, needed))
    rows: list[list[int]] = [[] for _ in classes]
    for start in range(0, len(captions), BATCH):
        for row, caption in enumerate(captions[start : start + BATCH], start):
            present = words(caption or "")  # a corpus may lack some captions
            candidates = (pair for word in present & members.keys() for pair in members[word])
            for label in sorted({label for label, needed in candidates if needed <= present}):
                rows[label].append(row)
    return [np.array(of_class, np.int64) for of_class in rows]


def words(text: str) -> set[str]:
    """Runs of letters and digits, in lower case; "t-shirt" is two."""
    return set(re.findall(r"[^\W_]+", text.lower()))


def with_definitions(entry: Class) -> list[tuple[str, ...]]:
    """Each prompt of a class alone, and followed by the definition where the card has one."""
    definition = entry.definition
    return [
        (prompt, f"{prompt}, {definition}") if definition else (prompt,) for prompt in entry.prompts
    ]

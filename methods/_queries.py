"""What classes are asked for by: templates, captions, descriptions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark import Class, Shots

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from benchmark.upstream import Neighbours

BATCH = 10_000  # captions read at a time: a corpus of any size fits


def filled(entry: Class, templates: Sequence[Any]) -> list[str]:
    """Every template (a function of a name, as OpenCLIP has them) with every member of a class;
    member by member, so that the first texts already vary them."""
    return [template(member) for template in templates for member in entry.members]


def ensemble(encoder: Any, classes: Sequence[Class]) -> list[Tensor]:
    """The template ensemble of Radford et al. (2021), section 3.1.4: per class float32 [M, D],
    for each of its M members the mean feature over templates, L2-normalised. The templates are
    the seven of the authors' notebook "Prompt Engineering for ImageNet" that do as well as all
    80 (https://github.com/openai/CLIP/tree/main/notebooks)."""
    from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES as TEMPLATES
    from torch.nn import functional

    features = encoder.encode_texts(
        [text for entry in classes for text in filled(entry, TEMPLATES)]
    )
    parts = features.split([len(TEMPLATES) * len(entry.members) for entry in classes])
    means = [part.unflatten(0, (len(TEMPLATES), -1)).mean(0) for part in parts]
    return [functional.normalize(mean, dim=-1) for mean in means]


def centroids(encoder: Any, shots: Shots) -> Tensor:
    """The mean feature of the shots of each class, float32 [C, D], L2-normalised."""
    import torch
    from torch.nn import functional

    features = encoder.encode_images(shots.images)
    means = [features[shots.rows(label)].mean(0) for label in range(len(shots.classes))]
    return functional.normalize(torch.stack(means), dim=-1)


def confidence(encoder: Any, images: np.ndarray, classes: Sequence[Tensor]) -> np.ndarray:
    """How sure the encoder is, zero-shot, of each class: float32 [N, C], rows that sum to 1, the
    softmax of its cosines at its own temperature (Radford et al. 2021, section 2.3).

    Args:
        images: uint8 [N, H, W, 3].
        classes: as ``ensemble`` returns them; the largest cosine of a class counts.
    """
    import torch

    features = encoder.encode_images(images)
    cosines = torch.stack([(features @ members.T).amax(1) for members in classes], 1)
    scale = encoder.model.logit_scale.detach().float().exp().cpu()
    sure: np.ndarray = (scale * cosines).softmax(1).numpy()
    return sure


def nearest_captions(
    upstream: Any,
    meter: Any,
    queries: Sequence[Tensor],
    pools: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> list[Neighbours]:
    """The rows of each pool by the cosine of their captions to the class: of each member in turn
    (a row belongs to the nearest), best first; equal ones, as those that share a caption, in an
    order drawn by chance. A caption is encoded once.

    Args:
        queries: per class float32 [M, D], L2-normalised, one for each member.
        pools: per class rows of the corpus, int64 [n_c].
    """
    import numpy as np

    from benchmark.upstream import Neighbours

    captions = upstream.corpus.captions
    together = np.unique(np.concatenate(pools))
    said = dict(zip(together.tolist(), captions[together.tolist()], strict=True))
    place = {caption: at for at, caption in enumerate(dict.fromkeys(said.values()))}
    texts = upstream.encoder.encode_texts(list(place))
    ranked = []
    for query, rows in zip(queries, pools, strict=True):
        meter.charge(flops=2 * query.numel() * len(texts))
        best, which = (texts @ query.T).round(decimals=6).max(1)
        rows = rng.permutation(rows)
        at = [place[said[row]] for row in rows.tolist()]
        similarity = best[at].numpy()
        member = which[at].numpy()
        order = np.argsort(-similarity, kind="stable")
        turn = np.zeros(len(order), np.int64)
        for one in np.unique(member):
            own = member[order] == one
            turn[own] = np.arange(own.sum())
        order = order[np.argsort(turn, kind="stable")]
        ranked.append(Neighbours(rows[order], similarity[order], member[order]))
    return ranked


def matches(captions: Sequence[str], classes: Sequence[Class]) -> list[np.ndarray]:
    """The rows whose caption names each class, int64 [n_c], ascending: all words of one of its
    members are words of the caption, in any order and case."""
    import numpy as np

    wanted: dict[str, list[tuple[int, set[str]]]] = defaultdict(list)
    for label, entry in enumerate(classes):
        for member in entry.members:
            if needed := words(member):
                wanted[max(needed, key=len)].append((label, needed))
    rows: list[list[int]] = [[] for _ in classes]
    for start in range(0, len(captions), BATCH):
        for row, caption in enumerate(captions[start : start + BATCH], start):
            said = words(caption or "")
            found = (entry for word in said & wanted.keys() for entry in wanted[word])
            for label in sorted({label for label, needed in found if needed <= said}):
                rows[label].append(row)
    return [np.array(of_class, np.int64) for of_class in rows]


def words(text: str) -> set[str]:
    """Runs of letters and digits, in lower case; "t-shirt" is two."""
    return set(re.findall(r"\w+", text.lower()))


def described(entry: Class) -> list[tuple[str, ...]]:
    """Each prompt of a class, and the same followed by what the class is, where its card says."""
    said = entry.definition
    return [(prompt, f"{prompt}, {said}") if said else (prompt,) for prompt in entry.prompts]

"""Corpora: the captioned images that a generator was trained on, and that retrieval searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmark.protocol import CorpusSpec

if TYPE_CHECKING:
    import numpy as np

    from benchmark.contract import Provenance
    from benchmark.data.table import Texts


class Corpus(Protocol):
    """N captioned images.

    Attributes:
        name: the ``source`` of its images in the ledger.
        hash: sha256 over the content, as part of the upstream's identity.
        ids: N identifiers, distinct.
        captions: N texts, "" where an image has none.
    """

    name: str
    hash: str
    ids: Texts
    captions: Texts

    def __len__(self) -> int: ...

    def licence(self, row: int) -> str | None:
        """What the corpus says of one image; None where it says nothing."""

    def flags(self, row: int) -> dict[str, float]:
        """The probabilities, 0..1, that one image is unsafe (``safety``) or has a watermark
        (``watermark``), as far as the corpus states them."""

    def provenance(self, row: int, **facts: Any) -> Provenance:
        """The ledger's words on one image of the corpus; ``facts`` are further fields."""

    def images(self, rows: Sequence[int] | np.ndarray, size: int | None = None) -> list[np.ndarray]:
        """Decoded images, each uint8 [S, S, 3] where ``size`` is given, else uint8 [H, W, 3].

        Raises:
            DataError: a file is damaged or missing; names the image.
        """

    def pixels(self, rows: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
        """uint8 [n, S, S, 3], S = ``size``; errors as ``images``."""


def open_corpus(spec: CorpusSpec, root: Path) -> Corpus:
    """The corpus that ``spec`` declares; its images are not read yet.

    Raises:
        DataError: a file is missing or damaged, a column is missing, an id is null or there
            twice, there is no image.
        ConfigError: a data set of the Hub without a revision.
    """
    from benchmark.upstream.corpora.table import TableCorpus

    return TableCorpus(spec, root)

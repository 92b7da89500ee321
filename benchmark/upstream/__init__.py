"""What augmentation may draw from: a captioned corpus, the encoder that indexes it, the
generator trained on it.

Every part is loaded when it is first asked for, off the clock of a running trial; what a method
then computes with it is charged to the trial's meter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmark.contract import Images, Part
from benchmark.errors import MethodError, Unavailable
from benchmark.protocol import CorpusSpec, GeneratorSpec, UpstreamSpec
from benchmark.upstream.hashes import upstream_hash

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from benchmark.meter import Meter, Progress
    from benchmark.upstream.corpora import Corpus
    from benchmark.upstream.encoder import Encoder
    from benchmark.upstream.generator import Generator
    from benchmark.upstream.index import Index

Spec = TypeVar("Spec", CorpusSpec, GeneratorSpec)


@dataclass(frozen=True)
class Neighbours:
    """The images of the corpus nearest to one class, best first, equal ones by row.

    Attributes:
        rows: int64 [k], rows of the corpus.
        similarity: float32 [k], largest cosine over the queries of the class.
        query: int64 [k], the position of the query that gave it.
    """

    rows: np.ndarray
    similarity: np.ndarray
    query: np.ndarray


class Upstream:
    """A corpus, an encoder and a generator; corpus and generator may be absent.

    Attributes:
        name: as ``bench.toml`` calls it.
        spec: as ``bench.toml`` declares it.
        root: what its paths are relative to.
        device: as torch names it.
        progress: called with ``(what, done, total)`` while the corpus is indexed.
    """

    def __init__(self, name: str, spec: UpstreamSpec, root: Path, device: str) -> None:
        self.name, self.spec, self.root, self.device = name, spec, root, device
        self.progress: Progress | None = None
        self._meter: Meter | None = None

    @cached_property
    def hash(self) -> str:
        """sha256 over the content of corpus, encoder and generator."""
        return upstream_hash(self.spec, self.root)

    @cached_property
    def corpus(self) -> Corpus:
        """The captioned images; raises ``DataError``, or ``Unavailable`` where there is none."""
        from benchmark.upstream.corpora import open_corpus

        spec = self._present(self.spec.corpus, "corpus")
        with self._off_the_clock():
            return open_corpus(spec, self.root)

    @cached_property
    def encoder(self) -> Encoder:
        """Images and texts to features; raises ``DataError``."""
        from benchmark.upstream.encoder import Encoder

        with self._off_the_clock():
            return Encoder(self.spec.encoder, self.root, self.device, lambda: self._meter)

    @cached_property
    def generator(self) -> Generator:
        """Texts to images; raises ``DataError``, or ``Unavailable`` where there is none."""
        from benchmark.upstream.generator import Generator

        spec = self._present(self.spec.generator, "generator")
        with self._off_the_clock():
            return Generator(spec, self.root, self.device, lambda: self._meter)

    @cached_property
    def features(self) -> np.ndarray:
        """Of every image of the corpus, computed once per machine: float32 [N, D],
        L2-normalised, memory-mapped and read-only; raises ``DataError``, ``StorageError``."""
        from benchmark.upstream.features import features

        with self._off_the_clock():
            shipped = self._present(self.spec.corpus, "corpus").features
            place = self.root / shipped if shipped else None
            return features(self.corpus, self.encoder, self.progress, place)

    @cached_property
    def index(self) -> Index:
        """``features``, ready to be searched; raises as they do."""
        from benchmark.upstream.index import choose_index

        with self._off_the_clock():
            return choose_index(self.features, self.device)

    @contextmanager
    def metered(self, meter: Meter) -> Iterator[None]:
        """For its duration every call of a model, and every search, is charged to ``meter``;
        outside, nothing is charged."""
        before, self._meter = self._meter, meter
        try:
            yield
        finally:
            self._meter = before

    def nearest(
        self, queries: Sequence[Tensor], k: int, among: Sequence[np.ndarray] | None = None
    ) -> list[Neighbours]:
        """The k images of the corpus nearest to each class. The score of an image is its
        largest cosine over the queries of the class.

        Args:
            queries: one per class, float32 [Q_c, D], L2-normalised, Q_c at least 1.
            k: images per class; fewer come back where the corpus has fewer.
            among: the only rows of the corpus that each class may take, int64 [n_c], distinct.

        Raises:
            MethodError: a class without queries, or queries of another length than D.
        """
        import torch

        size, dim = len(self.corpus), self.encoder.dim
        for label, query in enumerate(queries):
            if query.ndim != 2 or not len(query) or query.shape[1] != dim:
                raise MethodError(
                    f"queries of class {label}: expected shape [1 or more, {dim}], "
                    f"got {list(query.shape)}"
                )
        if among is not None:
            pairs = zip(queries, among, strict=True)
            return [self._nearest_among(query.float(), rows, k) for query, rows in pairs]
        together = torch.cat(list(queries)).float().cpu()
        index = self.index
        if self._meter is not None:
            self._meter.charge(flops=2 * len(together) * size * dim)
        similarity, rows = index.search(together, min(k, size))
        counts = [len(query) for query in queries]
        return [
            _merged(values.numpy(), found.numpy(), k)
            for values, found in zip(similarity.split(counts), rows.split(counts), strict=True)
        ]

    def retrieve(
        self,
        neighbours: Sequence[Neighbours],
        texts: Sequence[Sequence[str]] | None,
        size: int,
        *,
        parents: Sequence[Sequence[str]] | None = None,
        batch: int = 256,
    ) -> Iterator[Images]:
        """Fetches neighbours rank by rank: the nearest of every class first, so that a cap
        leaves the classes balanced.

        Args:
            neighbours: one per class, as ``nearest`` returns them.
            texts: the query texts of each class, noted as ``prompt``.
            size: side in pixels of the images yielded.
            parents: the ids of the images whose features were the queries, of each class.
            batch: images per yield.

        Raises:
            DataError: an image of the corpus is damaged.
        """
        deepest = max((len(found.rows) for found in neighbours), default=0)
        order = [
            (label, rank)
            for rank in range(deepest)
            for label, found in enumerate(neighbours)
            if rank < len(found.rows)
        ]
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            if self._meter is not None:
                self._meter.charge(images=len(chosen))
            provenance = []
            for label, rank in chosen:
                found = neighbours[label]
                query = int(found.query[rank])
                provenance.append(
                    self.corpus.provenance(
                        found.rows[rank],
                        prompt=texts[label][query] if texts else None,
                        rank=rank,
                        similarity=float(found.similarity[rank]),
                        parents=(parents[label][query],) if parents else (),
                    )
                )
            rows = [int(neighbours[label].rows[rank]) for label, rank in chosen]
            yield Images(self.corpus.pixels(rows, size), [label for label, _ in chosen], provenance)

    def _nearest_among(self, queries: Tensor, rows: np.ndarray, k: int) -> Neighbours:
        import numpy as np

        from benchmark.upstream.index.exact import ExactIndex

        rows = np.sort(rows).astype(np.int64)  # equal ones are ranked by row
        if not len(rows):
            return Neighbours(rows, np.zeros(0, np.float32), np.zeros(0, np.int64))
        features = self.features[rows]
        if self._meter is not None:
            self._meter.charge(flops=2 * len(queries) * features.size)
        similarity, found = ExactIndex(features, self.device).search(queries, min(k, len(rows)))
        best = _merged(similarity.numpy(), found.numpy(), k)
        return Neighbours(rows[best.rows], best.similarity, best.query)

    def load(self, parts: Iterable[Part]) -> None:
        """Loads what a method's ``Facts.uses`` names.

        Raises:
            Unavailable: the upstream has no such part.
            DataError: as the parts themselves.
        """
        for part in parts:
            getattr(self, part)

    def _present(self, spec: Spec | None, part: str) -> Spec:
        if spec is None:
            raise Unavailable(f"upstream {self.name!r} has no {part}")
        return spec

    def _off_the_clock(self) -> AbstractContextManager[None]:
        return self._meter.paused() if self._meter is not None else nullcontext()


def open_upstream(name: str, spec: UpstreamSpec, root: Path, device: str = "auto") -> Upstream:
    """The upstream that ``spec`` declares. Nothing is loaded yet.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ConfigError: this machine has no such device.
    """
    from benchmark.upstream.loading import pick_device

    return Upstream(name, spec, root, pick_device(device))


def _merged(similarity: np.ndarray, rows: np.ndarray, k: int) -> Neighbours:
    """From k neighbours of each of Q queries, [Q, k], to the k best of all, each row once."""
    import numpy as np

    query = np.repeat(np.arange(len(rows)), rows.shape[1])
    values, found = similarity.ravel(), rows.ravel()
    order = np.lexsort((query, found, -values))
    first = np.sort(np.unique(found[order], return_index=True)[1])[:k]
    best = order[first]
    return Neighbours(found[best].astype(np.int64), values[best], query[best])

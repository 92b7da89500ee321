"""What an upstream is made of, hashed; nothing heavy is imported."""

from __future__ import annotations

import hashlib
import json
from glob import glob
from pathlib import Path

from benchmark.content import file_hash, folder_hash
from benchmark.errors import DataError
from benchmark.protocol import UpstreamSpec


def corpus_files(spec: UpstreamSpec, root: Path) -> list[Path]:
    """The corpus' parquet files, in order; empty for a corpus of the Hub.

    Raises:
        DataError: a pattern of ``data_files`` matches nothing.
    """
    found: list[Path] = []
    for pattern in spec.corpus.data_files:
        matches = sorted(Path(match) for match in glob(str(root / pattern), recursive=True))
        if not matches:
            raise DataError(f"corpus: no file matches {root / pattern}")
        found += matches
    return found


def corpus_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of the corpus' files, or of its repository and revision on the Hub, and its columns; not
    of its features, which follow from it and the encoder. A corpus without flags is what it was
    before there were any."""
    files = [file_hash(path) for path in corpus_files(spec, root)]
    unsaid = {name for name in ("safety", "watermark") if getattr(spec.corpus, name) is None}
    columns = spec.corpus.model_dump(mode="json", exclude={"features", *unsaid})
    return _digest("corpus", columns, files)


def encoder_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of a local folder's files, or of the model's name."""
    model = spec.encoder.model
    local = model.startswith("local-dir:")
    content = folder_hash(root / model.removeprefix("local-dir:")) if local else ""
    return _digest("encoder", model, spec.encoder.pretrained, content)


def generator_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of a local folder's files, or of the repository and its revision."""
    folder = root / spec.generator.model
    content = folder_hash(folder) if folder.is_dir() else ""
    return _digest("generator", spec.generator.model_dump(exclude={"batch_size"}), content)


def upstream_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of everything that augmentation may draw from."""
    parts = [corpus_hash(spec, root), encoder_hash(spec, root), generator_hash(spec, root)]
    return _digest("upstream", *parts)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

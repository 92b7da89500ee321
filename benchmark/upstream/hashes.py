"""What an upstream is made of, hashed by content; nothing heavy is imported.

A local file or folder, however it is named, is hashed by its bytes; a repository of the Hub by its
id and its 40-digit revision. Where a file lies is no part of any hash.
"""

from __future__ import annotations

from glob import glob
from pathlib import Path

from benchmark.content import file_hash, folder_hash
from benchmark.errors import ConfigError, DataError
from benchmark.protocol import CorpusSpec, EncoderSpec, GeneratorSpec, UpstreamSpec
from benchmark.schema import canonical_hash

LOCAL_ENCODER, HUB_ENCODER = "local-dir:", "hf-hub:"  # as OpenCLIP writes them


def local_path(name: str, root: Path) -> Path | None:
    """The file or folder that ``name`` stands for, relative to the root, ``~`` expanded; None
    where there is none, so that it can only be an id of the Hub."""
    path = root / Path(name).expanduser()
    return path if path.exists() else None


def corpus_files(spec: CorpusSpec, root: Path) -> list[Path]:
    """The corpus' parquet files, in order; empty for a data set in the Hub's layout.

    Raises:
        DataError: a pattern of ``data_files`` matches nothing.
    """
    found: list[Path] = []
    for pattern in spec.data_files:
        matches = sorted(Path(match) for match in glob(str(root / pattern), recursive=True))
        if not matches:
            raise DataError(f"corpus: no file matches {root / pattern}")
        found += matches
    return found


def corpus_hash(spec: CorpusSpec, root: Path) -> str:
    """Of the corpus' images and the columns used of it; not of its features, which follow from it
    and the encoder."""
    columns = spec.model_dump(
        include={"id", "image", "caption", "licence", "safety", "watermark"}, exclude_none=True
    )
    if spec.data_files:
        content = [file_hash(path) for path in corpus_files(spec, root)]
    else:
        content = [content_of("corpus", str(spec.hub), spec.revision, root), spec.split]
    return canonical_hash(["corpus", columns, content])


def encoder_hash(spec: EncoderSpec, root: Path) -> str:
    """Of the model's files, or of its repository and revision.

    Raises:
        ConfigError: it is neither local nor pinned.
    """
    if spec.model.startswith(LOCAL_ENCODER):
        folder = root / Path(spec.model.removeprefix(LOCAL_ENCODER)).expanduser()
        return canonical_hash(["encoder", folder_hash(folder)])
    if spec.model.startswith(HUB_ENCODER):
        name = spec.model.removeprefix(HUB_ENCODER)
        return canonical_hash(["encoder", content_of("encoder", name, spec.revision, root)])
    weights = local_path(spec.pretrained, root) if spec.pretrained else None
    if weights is None:
        raise ConfigError(
            f"encoder {spec.model!r}",
            [
                f"pretrained = {spec.pretrained!r} is no local file, and a tag of OpenCLIP names "
                f"no revision: give model = '{HUB_ENCODER}<id>' with its 40-digit revision"
            ],
        )
    return canonical_hash(["encoder", spec.model, _local_hash(weights)])


def generator_hash(spec: GeneratorSpec, root: Path) -> str:
    """Of the pipeline's files (or its repository and revision), and of how it draws."""
    drawing = spec.model_dump(mode="json", include={"size", "sampling", "variant"})
    content = content_of("generator", spec.model, spec.revision, root)
    return canonical_hash(["generator", drawing, content])


def upstream_hash(spec: UpstreamSpec, root: Path) -> str:
    """Of everything that augmentation may draw from."""
    corpus = corpus_hash(spec.corpus, root) if spec.corpus else None
    generator = generator_hash(spec.generator, root) if spec.generator else None
    return canonical_hash(["upstream", corpus, encoder_hash(spec.encoder, root), generator])


def content_of(what: str, name: str, revision: str | None, root: Path) -> str:
    """What a model or data set holds: the hash of a local file or folder, else id and revision.

    Raises:
        ConfigError: an id of the Hub without a revision.
    """
    path = local_path(name, root)
    if path is not None:
        return _local_hash(path)
    if revision is None:
        raise ConfigError(
            f"{what} {name!r}",
            [f"no such file or folder in {root}; an id of the Hub needs its 40-digit revision"],
        )
    return f"{name}@{revision}"


def _local_hash(path: Path) -> str:
    return folder_hash(path) if path.is_dir() else file_hash(path)

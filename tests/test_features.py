"""Features of real images by the real encoder: computed once, compared with their checksums."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from benchmark.errors import DataError, StorageError
from benchmark.protocol import load_protocol
from benchmark.upstream import open_upstream
from benchmark.upstream.corpora import Corpus, open_corpus
from benchmark.upstream.encoder import Encoder
from benchmark.upstream.features import cached_features, features, write_identity, write_shipped
from tests.helpers.files import damage
from tests.helpers.upstreams import small_spec


@pytest.fixture(scope="module")
def encoder(root) -> Encoder:
    return Encoder(small_spec(root).encoder, root)


@pytest.fixture
def few(own_cache, root, tmp_path) -> Corpus:
    """Three images, in a cache of their own."""
    rows = pq.read_table(root / "pocket/corpus/train.parquet").slice(0, 3)
    pq.write_table(rows, tmp_path / "few.parquet")
    return open_corpus(small_spec(root, corpus={"data_files": ["few.parquet"]}).corpus, tmp_path)


def rewrite(path: Path, data: bytes) -> None:
    """At a later time by the file system's clock, which ticks every few milliseconds."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.write_bytes(data)


# --- the cache ----------------------------------------------------------------------------------


def test_features_are_computed_once(few, encoder):
    told: list[tuple[str, int, int]] = []
    made = features(few, encoder, lambda *step: told.append(step))
    assert np.allclose(made, encoder.encode_images(few.images(range(3))), atol=1e-6)
    assert told[-1] == ("features", 3, 3)
    assert not made.flags.writeable
    features(few, encoder, lambda *_: pytest.fail("computed twice"))


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data + b"more",
        lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],  # in the header
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],  # in a value
    ],
)
def test_damaged_features_are_set_aside_and_computed_again(few, encoder, own_cache, harm, caplog):
    made = np.array(features(few, encoder))
    (path,) = (own_cache / "features").glob("*.npy")
    harmed = harm(path.read_bytes())
    rewrite(path, harmed)
    assert np.array_equal(features(few, encoder), made)
    (message,) = caplog.messages
    aside = path.with_name(f"{path.name}.damaged")
    assert str(path) in message and aside.name in message
    assert aside.read_bytes() == harmed
    assert np.array_equal(features(few, encoder), made) and len(caplog.messages) == 1


def test_another_array_of_the_same_shape_is_not_believed(few, encoder, own_cache, caplog):
    """With its own checksum, which is right for it, or without any."""
    made = np.array(features(few, encoder))
    (path,) = (own_cache / "features").glob("*.npy")
    cached_features(few.pixels([2, 1, 0], 32), encoder)
    (other,) = set((own_cache / "features").glob("*.npy")) - {path}
    for suffix in (".npy", ".json"):
        shutil.copy(other.with_suffix(suffix), path.with_suffix(suffix))
    assert np.array_equal(features(few, encoder), made)
    assert len(caplog.messages) == 1
    shutil.copy(other, path)
    path.with_suffix(".json").unlink()
    assert np.array_equal(features(few, encoder), made)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, "{}"])
def test_a_checksum_that_cannot_be_read_costs_the_features(few, encoder, own_cache, text):
    made = np.array(features(few, encoder))
    (path,) = (own_cache / "features").glob("*.npy")
    path.with_suffix(".json").write_text(text)
    damage(path, 1)  # in another file, so that it is compared again
    assert np.array_equal(features(few, encoder), made)


def test_interrupted_features_leave_nothing(few, encoder, own_cache):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features(few, encoder, interrupt)
    assert [path.suffix for path in (own_cache / "features").iterdir()] == [".lock"]
    assert features(few, encoder).shape == (3, encoder.dim)


def test_remembered_images_are_encoded_once(few, encoder, monkeypatch):
    pixels = few.pixels(range(2), 32)
    made = cached_features(pixels, encoder)
    assert np.allclose(made, encoder.encode_images(pixels), atol=1e-6)
    monkeypatch.setattr(encoder, "encode_images", None)  # fails where it is called
    assert np.array_equal(cached_features(pixels.copy(), encoder), made)
    with pytest.raises(TypeError):
        cached_features(pixels[::-1], encoder)  # other images


def test_a_cache_that_cannot_be_written_is_named(few, encoder, own_cache):
    shutil.rmtree(own_cache / "features", ignore_errors=True)
    (own_cache / "features").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="features"):
        features(few, encoder)


# --- shipped with a corpus ----------------------------------------------------------------------


@pytest.fixture
def shipped(few, encoder, own_cache, tmp_path) -> Path:
    """Features of ``few`` in a file beside it; the cache is empty again."""
    path = tmp_path / "features.safetensors"
    write_shipped(path, few, encoder)
    shutil.rmtree(own_cache / "features")
    return path


def test_shipped_features_are_used(few, encoder, shipped):
    used = features(few, encoder, lambda *_: pytest.fail("computed"), shipped)
    assert np.array_equal(used, load_file(shipped)["features"])
    assert np.allclose(used, encoder.encode_images(few.images(range(3))), atol=1e-6)


@pytest.mark.parametrize("part", ["corpus", "encoder"])
def test_shipped_features_of_another_corpus_or_encoder_are_not_used(few, encoder, shipped, part):
    hashes = {"corpus": few.hash, "encoder": encoder.hash} | {part: "0" * 64}
    save_file({"features": load_file(shipped)["features"] * 0}, shipped)
    write_identity(shipped, hashes["corpus"], hashes["encoder"])
    made = features(few, encoder, None, shipped)
    assert np.allclose(made, encoder.encode_images(few.images(range(3))), atol=1e-6)


def test_shipped_features_that_differ_from_their_checksum_are_refused(few, encoder, shipped):
    data = shipped.read_bytes()
    rewrite(shipped, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(DataError, match="differs from the sha256 in features.json"):
        features(few, encoder, None, shipped)
    assert shipped.exists()  # it is the user's


def test_shipped_features_of_another_shape_are_refused(few, encoder, shipped):
    save_file({"features": load_file(shipped)["features"][:1]}, shipped)
    write_identity(shipped, few.hash, encoder.hash)
    with pytest.raises(DataError, match=r"expected \[3, 192\]"):
        features(few, encoder, None, shipped)


@pytest.mark.parametrize("name", ["features.safetensors", "features.json"])
@pytest.mark.parametrize("keep", [None, 0, 0.5])
def test_shipped_features_that_are_not_whole_are_named(few, encoder, shipped, name, keep):
    if keep is None:
        shipped.with_name(name).unlink()
    else:
        damage(shipped.with_name(name), keep)
    with pytest.raises(DataError, match=name):
        features(few, encoder, None, shipped)


def test_an_identity_is_not_written_for_a_damaged_file(few, encoder, shipped):
    damage(shipped, 0.9)
    with pytest.raises(DataError, match="damaged"):
        write_identity(shipped, few.hash, encoder.hash)


def test_the_pocket_ships_the_features_of_its_corpus_and_clip(root):
    upstream = open_upstream("pocket", load_protocol(root).upstream["pocket"], root, "cpu")
    path = root / "pocket" / "corpus" / "features.safetensors"
    values = load_file(path)["features"]
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "corpus": upstream.corpus.hash,
        "encoder": upstream.encoder.hash,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "shape": [24_679, 192],
    }
    assert values.shape == (24_679, 192)
    rows = list(range(0, len(upstream.corpus), 400))
    made = upstream.encoder.encode_images(upstream.corpus.images(rows)).numpy()
    assert np.abs(values[rows] - made).max() < 1e-4

"""The upstream on the real pocket models: corpus, encoder, features, and the whole."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmark.errors import BudgetStop, ConfigError, DataError, MethodError
from benchmark.meter import Meter
from benchmark.upstream import Neighbours, Upstream, open_upstream
from benchmark.upstream.encoder import Encoder
from benchmark.upstream.features import features
from benchmark.upstream.index.flat import load_faiss
from benchmark.upstream.loading import half_precision, pick_device
from tests.helpers.files import damage
from tests.helpers.trials import budget
from tests.helpers.upstreams import EVERY, small_spec, unit


@pytest.fixture(scope="module")
def upstream(root) -> Upstream:
    return open_upstream("small", small_spec(root), root, "cpu")


@pytest.fixture(scope="module")
def rows(root) -> list[dict]:
    return pq.read_table(root / "pocket/corpus/train.parquet").to_pylist()[::EVERY]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def parquet(tmp_path):
    """A function that writes a corpus of its own."""
    return lambda table: pq.write_table(pa.Table.from_pylist(table), tmp_path / "corpus.parquet")


# --- encoder ------------------------------------------------------------------------------------


def test_features_are_those_of_open_clip(upstream, root):
    import open_clip

    name = f"local-dir:{root / 'pocket/clip'}"
    model, transform = open_clip.create_model_from_pretrained(name)
    images = upstream.corpus.pixels(range(3), 32)
    with torch.no_grad():
        inputs = torch.stack([transform(Image.fromarray(image)) for image in images])
        seen = model.eval().encode_image(inputs, normalize=True)
        read = model.encode_text(open_clip.get_tokenizer(name)(["a red hat"]), normalize=True)
    assert torch.allclose(upstream.encoder.encode_images(images), seen, atol=1e-6)
    assert torch.allclose(upstream.encoder.encode_texts(["a red hat"]), read, atol=1e-6)


def test_features_are_unit_vectors_in_batches_of_any_size(upstream, root):
    encoder = upstream.encoder
    images = upstream.corpus.images(range(7))
    other = Encoder(small_spec(root, encoder={"batch_size": 3}).encoder, root)
    found = encoder.encode_images(images)
    assert found.shape == (7, encoder.dim) and found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(7), atol=1e-6)
    assert torch.allclose(found, other.encode_images(images), atol=1e-5)
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, encoder.dim)


def test_images_of_different_sizes_and_endless_texts_are_encoded(upstream):
    sizes = [np.zeros((32, 32, 3), np.uint8), np.full((90, 40, 3), 255, np.uint8)]
    assert upstream.encoder.encode_images(sizes).isfinite().all()
    long, cut = upstream.encoder.encode_texts(["cat " * 500, "cat " * 400])
    assert torch.equal(long, cut)  # the tokenizer cuts both at the same place


def test_the_text_of_an_image_is_nearer_than_another(upstream):
    texts = upstream.encoder.encode_texts(["a photo of a t-shirt", "a photo of an ankle boot"])
    captions = list(upstream.corpus.captions)
    row = captions.index("ankle boot") if "ankle boot" in captions else captions.index("sneaker")
    image = upstream.encoder.encode_images(upstream.corpus.images([row]))
    assert (image @ texts.T).argmax() == 1


def test_training_the_image_tower_leaves_the_encoder_alone(upstream):
    images = upstream.corpus.pixels(range(2), 32)
    before = upstream.encoder.encode_images(images)
    tower, preprocess = upstream.encoder.image_tower()
    assert (preprocess.size, preprocess.mean) == (64, (0.5, 0.5, 0.5))
    inputs = torch.zeros(2, 3, preprocess.size, preprocess.size)
    assert tower(inputs).shape == (2, upstream.encoder.dim)
    with torch.no_grad():
        for weight in tower.parameters():
            assert weight.requires_grad
            weight.zero_()
    assert torch.equal(upstream.encoder.encode_images(images), before)


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_config.json"])
def test_a_damaged_encoder_file_is_named(root, tmp_path, file):
    shutil.copytree(root / "pocket/clip", tmp_path / "pocket/clip")
    damage(tmp_path / "pocket/clip" / file, keep=0.9)
    with pytest.raises(DataError, match=file):
        Encoder(small_spec(root).encoder, tmp_path)


def test_an_encoder_without_weights_or_folder_is_refused(root, tmp_path):
    with pytest.raises(DataError, match="pocket/clip"):
        Encoder(small_spec(root).encoder, tmp_path)
    shutil.copytree(root / "pocket/clip", tmp_path / "pocket/clip")
    (tmp_path / "pocket/clip/open_clip_model.safetensors").unlink()
    with pytest.raises(DataError, match="weights"):
        Encoder(small_spec(root).encoder, tmp_path)


# --- the whole ----------------------------------------------------------------------------------


def test_local_folders_are_loaded_without_the_network(root, own_cache, no_network):
    opened = open_upstream("small", small_spec(root), root, "cpu")
    assert len(opened.corpus) and opened.encoder.dim and opened.generator.size == 32


def test_nearest_takes_the_best_query_of_each_class(upstream):
    queries = [unit(3, upstream.encoder.dim, seed=5), unit(1, upstream.encoder.dim, seed=6)]
    stored = torch.from_numpy(np.array(features(upstream.corpus, upstream.encoder)))
    for query, found in zip(queries, upstream.nearest(queries, 15), strict=True):
        scores, best = (query @ stored.T).max(dim=0)
        order = scores.sort(descending=True).indices[:15]
        assert found.rows.tolist() == order.tolist()
        assert np.allclose(found.similarity, scores[order], atol=2e-6)
        assert found.query.tolist() == best[order].tolist()


def test_nearest_returns_no_more_than_there_is(upstream):
    (found,) = upstream.nearest([unit(2, upstream.encoder.dim)], 10**6)
    assert sorted(found.rows.tolist()) == list(range(len(upstream.corpus)))


@pytest.mark.parametrize("shape", [(0, 192), (192,), (2, 191)])
def test_nearest_refuses_queries_that_are_none(upstream, shape):
    with pytest.raises(MethodError, match=r"class 1: expected shape \[1 or more, 192\]"):
        upstream.nearest([unit(1, 192), torch.zeros(shape)], 3)


def test_nearest_among_given_rows_is_the_search_without_the_others(upstream):
    queries = [unit(2, 192, seed=7), unit(1, 192, seed=8), unit(1, 192, seed=9)]
    among = [np.array([40, 3, 77, 12]), np.arange(100, 300), np.array([], np.int64)]
    everything = upstream.nearest(queries, len(upstream.corpus))
    meter = Meter(budget(), 3)
    with upstream.metered(meter):
        found = upstream.nearest(queries, 10, among)
    for whole, part, rows in zip(everything, found, among, strict=True):
        held = np.isin(whole.rows, rows)
        assert part.rows.tolist() == whole.rows[held][:10].tolist()
        assert np.allclose(part.similarity, whole.similarity[held][:10], atol=2e-6)
        assert part.query.tolist() == whole.query[held][:10].tolist()
    assert meter.total().tflops * 1e12 == pytest.approx(2 * (2 * 4 + 200) * 192)


def test_retrieval_goes_round_the_classes(upstream):
    found = [
        Neighbours(np.array([9, 4, 7]), np.float32([0.9, 0.8, 0.7]), np.array([1, 0, 0])),
        Neighbours(np.array([4]), np.float32([0.6]), np.array([0])),
    ]
    texts, parents = [["a", "b"], ["c"]], [["p", "q"], ["r"]]
    batches = list(upstream.retrieve(found, texts, 32, parents=parents, batch=3))
    assert [len(batch.labels) for batch in batches] == [3, 1]
    told = [row for batch in batches for row in batch.provenance]
    assert [label for batch in batches for label in batch.labels] == [0, 1, 0, 0]
    assert [(row.prompt, row.rank, row.parents) for row in told] == [
        ("b", 0, ("q",)),
        ("c", 0, ("r",)),
        ("a", 1, ("p",)),
        ("a", 2, ("p",)),
    ]
    assert [row.corpus_id for row in told] == [upstream.corpus.ids[row] for row in (9, 4, 4, 7)]
    assert np.array_equal(batches[0].pixels, upstream.corpus.pixels([9, 4, 4], 32))


def test_searching_is_charged_and_evaluating_is_not(upstream):
    queries = [unit(2, 192), unit(1, 192)]
    meter = Meter(budget(), 2)
    with upstream.metered(meter), meter.phase("retrieve"):
        upstream.nearest(queries, 3)
    upstream.nearest(queries, 3)
    upstream.encoder.encode_texts(["off the clock"])
    assert meter.total().tflops * 1e12 == pytest.approx(2 * 3 * len(upstream.corpus) * 192)
    assert set(meter.spent()) == {"retrieve"}


def test_encoding_is_charged_per_image_and_text(upstream):
    spent = []
    for images, texts in ((2, 0), (4, 0), (0, 2), (0, 4)):
        meter = Meter(budget(), 2)
        with upstream.metered(meter):
            upstream.encoder.encode_images(upstream.corpus.images(range(images)))
            upstream.encoder.encode_texts(["a hat"] * texts)
        spent.append(meter.total().tflops)
    assert spent[1] == pytest.approx(2 * spent[0]) and spent[3] == pytest.approx(2 * spent[2])
    assert min(spent) > 0


def test_a_search_beyond_the_budget_is_stopped_before_it_starts(upstream):
    meter = Meter(budget(tflops=1e-6), 2)
    with upstream.metered(meter), pytest.raises(BudgetStop):
        upstream.nearest([unit(9, 192)], 3)
    assert meter.total().tflops == 0


def test_loading_and_indexing_are_off_the_clock(root, own_cache, parquet, rows):
    parquet(rows[:5])
    spec = small_spec(root, corpus={"data_files": [str(own_cache.parent / "corpus.parquet")]})
    opened, meter, spent = open_upstream("small", spec, root, "cpu"), Meter(budget(), 2), []
    opened.progress = lambda *_: spent.extend([meter.total().seconds, meter.total().seconds])
    with opened.metered(meter), meter.watching():
        assert opened.index is not None and opened.generator is not None
    assert spent and len(set(spent)) == 1  # the clock stood
    assert meter.total().tflops == 0


def test_the_hash_follows_the_content(root, parquet, rows, tmp_path):
    spec = small_spec(root, corpus={"data_files": [str(tmp_path / "corpus.parquet")]})
    hashes = []
    for count in (2, 3, 2):
        parquet(rows[:count])
        hashes.append(open_upstream("any", spec, root, "cpu").hash)
    assert hashes[0] == hashes[2] != hashes[1]


def test_the_hash_follows_the_columns_of_flags(root, parquet, rows, tmp_path):
    parquet([rows[0] | {"a": 0.5, "b": 0.5}])
    files = {"data_files": [str(tmp_path / "corpus.parquet")]}
    specs = [
        small_spec(root, corpus=files | flag) for flag in ({}, {"safety": "a"}, {"safety": "b"})
    ]
    assert len({open_upstream("any", spec, root, "cpu").hash for spec in specs}) == 3


# --- devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "apple", "wanted", "expected"),
    [
        (0, False, "auto", "cpu"),
        (2, False, "auto", "cuda"),
        (0, True, "auto", "mps"),
        (2, False, "cuda:1", "cuda:1"),
        (2, True, "cpu", "cpu"),
    ],
)
def test_the_device_is_the_one_asked_for(monkeypatch, gpus, apple, wanted, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert pick_device(wanted) == expected


@pytest.mark.parametrize(
    ("wanted", "message"), [("cuda:2", "sees 2 CUDA"), ("mps", "Apple"), ("gpu", "cuda:N")]
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, wanted, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        pick_device(wanted)


@pytest.mark.parametrize(
    ("device", "bf16", "dtype"),
    [
        ("cpu", True, torch.float32),
        ("cuda:1", True, torch.bfloat16),
        ("cuda", False, torch.float16),
    ],
)
def test_precision_follows_the_device(monkeypatch, device, bf16, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert half_precision(device) == dtype


def test_faiss_is_installed_once_here():
    owners = importlib.metadata.packages_distributions()["faiss"]
    assert len(set(owners)) == 1 and load_faiss() is not None

"""Nearest neighbours: exact, faiss, and which of equals comes first."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from benchmark.errors import ConfigError
from benchmark.upstream import Upstream, index, open_upstream
from benchmark.upstream.features import features
from benchmark.upstream.index import choose_index, exact, flat
from benchmark.upstream.index.exact import ExactIndex
from benchmark.upstream.index.flat import FaissIndex, load_faiss
from tests.helpers.upstreams import small_spec, unit


@pytest.fixture(scope="module")
def upstream(root) -> Upstream:
    return open_upstream("small", small_spec(root), root, "cpu")


def brute_force(stored: torch.Tensor, queries: torch.Tensor, k: int):
    scores = (queries @ stored.T).round(decimals=6)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return scores.gather(1, order), order


@pytest.mark.parametrize("chunk", [7, 50, 10_000])
def test_exact_search_is_brute_force_also_in_pieces(monkeypatch, chunk):
    monkeypatch.setattr(exact, "CHUNK", chunk)
    monkeypatch.setattr(flat, "CHUNK", chunk)
    stored, queries = unit(200, 16), unit(9, 16, seed=1)
    found, rows = ExactIndex(stored.numpy()).search(queries, 12)
    expected, order = brute_force(stored, queries, 12)
    assert torch.equal(rows, order) and torch.allclose(found, expected, atol=2e-6)
    assert rows.dtype == torch.int64


@pytest.mark.parametrize("kind", [ExactIndex, FaissIndex])
@pytest.mark.parametrize("k", [1, 3, 5, 10, 40])
@pytest.mark.parametrize("chunk", [13, 10_000])
def test_equal_images_rank_by_row(monkeypatch, kind, k, chunk):
    monkeypatch.setattr(exact, "CHUNK", chunk)
    monkeypatch.setattr(flat, "CHUNK", chunk)
    for different in (3, 4, 10):  # topk by itself takes some of these copies in another order
        stored = unit(different, 16).repeat(40, 1)
        _, rows = kind(stored.numpy()).search(stored[:1], k)
        copies = list(range(0, len(stored), different))
        assert rows[0].tolist() == copies[:k]


def test_faiss_ranks_as_the_exact_search_does(upstream):
    queries = upstream.encoder.encode_texts(["a flag", "a dress", "a smiling face"])
    stored = features(upstream.corpus, upstream.encoder)
    best, rows = ExactIndex(stored).search(queries, 20)
    found, same = FaissIndex(stored).search(queries, 20)
    assert torch.equal(rows, same) and torch.allclose(best, found, atol=2e-6)


def test_faiss_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(flat, "packages_distributions", dict)
    assert load_faiss() is None
    with pytest.raises(ConfigError, match="augbench"):
        FaissIndex(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(
    ("owners", "module"),
    [
        (["faiss-cpu", "faiss-gpu"], types.SimpleNamespace(IndexFlatIP=1)),  # both installed
        (["faiss-gpu"], types.SimpleNamespace()),  # one removed: its files are gone
        (["faiss-gpu"], None),  # it does not import
    ],
)
def test_a_mixed_faiss_says_how_to_mend_it(monkeypatch, owners, module):
    monkeypatch.setitem(sys.modules, "faiss", module)
    monkeypatch.setattr(flat, "packages_distributions", lambda: {"faiss": owners})
    with pytest.raises(ConfigError, match="faiss-gpu.*pip uninstall -y faiss-cpu faiss-gpu"):
        load_faiss()


def test_faiss_is_used_where_it_is_installed(monkeypatch):
    stored = unit(5, 4).numpy()
    assert isinstance(choose_index(stored, "cpu"), FaissIndex)
    monkeypatch.setattr(index, "load_faiss", lambda: None)
    assert isinstance(choose_index(stored, "cpu"), ExactIndex)


@pytest.mark.parametrize(
    ("device", "gpus", "places"),
    [("cpu", 2, []), ("cuda", 0, []), ("cuda", 2, [0]), ("cuda:1", 2, [1])],
)
def test_faiss_uses_the_gpu_of_the_device(monkeypatch, device, gpus, places):
    """With a stand-in for the calls that a faiss built for GPUs has."""
    import faiss

    used = []

    def to_gpu(_resources: object, place: int, made: object) -> object:
        used.append(place)
        return made

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(flat, "GPU_MOST", 3)
    made = FaissIndex(unit(5, 4).numpy(), device)
    assert used == places
    assert made.search(unit(1, 4), 2)[1].shape == (1, 2)
    if places:
        with pytest.raises(ConfigError, match="at most 3 rows, not 4"):
            made.search(unit(1, 4), 4)

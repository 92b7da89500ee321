"""Seconds of the exact search in torch against faiss' flat index, on the same random features.

python perf/search.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmark.upstream.index.exact import ExactIndex
from benchmark.upstream.index.flat import load_faiss

TARGET = 1.5
SIZES = ((24_679, 192), (200_000, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=80)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss = load_faiss()
    if faiss is None:
        parser.error("faiss is not installed")
    faiss.omp_set_num_threads(arguments.threads)
    print(f"{'rows':>8} {'D':>5} {'exact s':>9} {'faiss s':>9} {'ratio':>7}   (target {TARGET:g})")
    sizes = [_compare(faiss, rows, dim, arguments) for rows, dim in SIZES]
    print(json.dumps({"target": TARGET, "sizes": sizes, **vars(arguments)}))


def _compare(faiss, rows: int, dim: int, arguments: argparse.Namespace) -> dict[str, float]:
    rng = np.random.default_rng(0)
    features = _unit(rng.standard_normal((rows, dim), np.float32))
    queries = _unit(rng.standard_normal((arguments.queries, dim), np.float32))
    exact, flat = ExactIndex(features), faiss.IndexFlatIP(dim)
    flat.add(features)
    _, by_torch = exact.search(torch.from_numpy(queries), arguments.k)
    _, by_faiss = flat.search(queries, arguments.k)
    pairs = zip(by_torch.tolist(), by_faiss.tolist(), strict=True)
    agree = np.mean([len(set(a) & set(b)) for a, b in pairs])
    assert agree > 0.99 * arguments.k, f"only {agree:.1f} of {arguments.k} neighbours agree"
    ours = _seconds(lambda: exact.search(torch.from_numpy(queries), arguments.k), arguments.repeats)
    theirs = _seconds(lambda: flat.search(queries, arguments.k), arguments.repeats)
    print(f"{rows:>8} {dim:>5} {ours:>9.4f} {theirs:>9.4f} {ours / theirs:>7.2f}")
    return {"rows": rows, "dim": dim, "exact": ours, "faiss": theirs, "ratio": ours / theirs}


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _seconds(search: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        search()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()

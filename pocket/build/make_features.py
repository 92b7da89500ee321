"""Encodes the corpus with the CLIP, so that nobody has to do it before a first search.

Run from the root of the repository, after ``make_corpus.py`` and ``train_clip.py``:

    python pocket/build/make_features.py

Writes ``pocket/corpus/features.safetensors``, float32 [24679, 192], L2-normalised, and beside it
``features.json``: the hashes of the corpus and the CLIP they are of, which the harness compares.
Where the features are the same, and only these hashes are computed in another way than before,
``--identity-only`` encodes every 1000th image, compares, and writes ``features.json`` alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file

from benchmark.home import find_root
from benchmark.protocol import load_protocol
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.features import write_identity, write_shipped

TOLERANCE = 1e-4  # between features computed on two machines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", default="pocket")
    parser.add_argument("--out", default="pocket/corpus/features.safetensors")
    parser.add_argument("--identity-only", action="store_true", help="keep the features")
    options = parser.parse_args()
    root = find_root()
    spec = load_protocol(root).upstream_named(options.upstream)
    upstream = open_upstream(options.upstream, spec, root)
    if options.identity_only:
        check_sample(root / options.out, upstream)
        write_identity(root / options.out, upstream.corpus.hash, upstream.encoder.hash)
    else:
        write_shipped(root / options.out, upstream.corpus, upstream.encoder)


def check_sample(path: Path, upstream: Upstream, every: int = 1000) -> None:
    """Ends the script where the features in ``path`` are not those of corpus and encoder."""
    features, corpus = load_file(path)["features"], upstream.corpus
    if features.shape != (len(corpus), upstream.encoder.dim):
        raise SystemExit(f"{path}: shape {list(features.shape)}; run without --identity-only")
    rows = list(range(0, len(corpus), every))
    made = upstream.encoder.encode_images(corpus.images(rows))
    if (features[rows] - made).abs().max() > TOLERANCE:
        raise SystemExit(f"{path}: of another corpus or encoder; run without --identity-only")


if __name__ == "__main__":
    main()

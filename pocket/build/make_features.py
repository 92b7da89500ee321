"""Encodes the corpus with the CLIP, so that nobody has to do it before a first search.

Run from the root of the repository, after ``make_corpus.py`` and ``train_clip.py``:

    python pocket/build/make_features.py

Writes ``pocket/corpus/features.safetensors``: float32 [24679, 192], L2-normalised, with the hashes
of the corpus and the CLIP they are of in its metadata; the harness checks both.
"""

from __future__ import annotations

import argparse

from benchmark.home import find_root
from benchmark.protocol import load_protocol
from benchmark.upstream import open_upstream
from benchmark.upstream.features import write_shipped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", default="pocket")
    parser.add_argument("--out", default="pocket/corpus/features.safetensors")
    options = parser.parse_args()
    root = find_root()
    spec = load_protocol(root).upstream_named(options.upstream)
    upstream = open_upstream(options.upstream, spec, root)
    write_shipped(root / options.out, upstream.corpus, upstream.encoder)


if __name__ == "__main__":
    main()

"""What one plain image costs: the unit that budgets are multiples of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmark.files import write_file
from benchmark.home import cache_folder
from benchmark.schema import canonical_hash
from benchmark.upstream.hashes import generator_hash

if TYPE_CHECKING:
    from benchmark.upstream import Upstream


def image_tflops(upstream: Upstream) -> float | None:
    """TFLOPs of one image from a plain prompt at the upstream's default sampling; None without a
    generator.

    Counted once per generator and kept on disk, so that a method which never generates need not
    load one. What is kept carries its own hash: a changed file is counted again.

    Raises:
        DataError: the generator cannot be loaded.
        StorageError: the cache cannot be written.
    """
    spec = upstream.spec.generator
    if spec is None:
        return None
    key = generator_hash(spec, upstream.root)
    path = cache_folder() / "image-tflops" / f"{key}.json"
    try:
        value, check = json.loads(path.read_text())
        if check == canonical_hash([key, value]):
            return float(value)
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    value = upstream.generator.estimate_tflops(1)
    write_file(path, json.dumps([value, canonical_hash([key, value])]).encode())
    return value

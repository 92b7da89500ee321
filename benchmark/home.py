"""Where the benchmark lives: the folder that holds ``bench.toml``.

Looked for in this order: ``$BENCH_ROOT``; the nearest parent of the working directory; the
checkout that this package lies in; the copy packaged in the wheel.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from benchmark.errors import ConfigError

PROTOCOL_FILE = "bench.toml"
_PACKAGE = Path(__file__).resolve().parent
_PACKAGED = _PACKAGE / "_builtin"


def find_root(start: Path | None = None) -> Path:
    """The absolute path of the root folder.

    Raises:
        ConfigError: ``$BENCH_ROOT`` names a folder without ``bench.toml``, or none is found.
    """
    if named := os.environ.get("BENCH_ROOT"):
        root = Path(named).expanduser().resolve()
        if not (root / PROTOCOL_FILE).is_file():
            raise ConfigError("BENCH_ROOT", [f"{root} holds no {PROTOCOL_FILE}"])
        return root
    here = (start or Path.cwd()).resolve()
    candidates = [here, *here.parents, _PACKAGE.parent, _PACKAGED]
    for folder in candidates:
        if (folder / PROTOCOL_FILE).is_file():
            return folder
    raise ConfigError(PROTOCOL_FILE, [f"not found in {here} or its parents; set BENCH_ROOT"])


def is_packaged(root: Path) -> bool:
    """Whether ``root`` is the read-only copy inside the installed wheel."""
    return root == _PACKAGED


def leaderboard_folder() -> Path:
    """Code, templates and assets of the site (beside the package, or in the wheel)."""
    beside = _PACKAGE.parent / "leaderboard"
    return beside if (beside / "templates").is_dir() else _PACKAGED / "leaderboard"


def results_folder(root: Path) -> Path:
    """``$BENCH_RESULTS``, else ``results/`` in the root (in the working directory where the
    root is the packaged copy)."""
    if named := os.environ.get("BENCH_RESULTS"):
        return Path(named).expanduser().resolve()
    return (Path.cwd() if is_packaged(root) else root) / "results"


@cache
def cache_folder() -> Path:
    """``$BENCH_CACHE``, else ``augbench`` in the user's cache directory (XDG)."""
    if named := os.environ.get("BENCH_CACHE"):
        return Path(named).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "augbench"

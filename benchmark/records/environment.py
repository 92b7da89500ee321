"""Where a trial ran: versions, device, commit. Recorded for information, never for identity."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmark import __version__
from benchmark.records.record import Environment

_PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "timm",
    "datasets",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "pillow",
)


def environment(root: Path, device: str, threads: int) -> Environment:
    """The environment of this process; ``device`` as torch names it."""
    commit, dirty = _commit(root)
    return Environment(
        bench=__version__,
        python=platform.python_version(),
        platform=f"{sys.platform}-{platform.machine()}",
        device=device,
        threads=threads,
        packages=package_versions(),
        commit=commit,
        dirty=dirty,
    )


def package_versions() -> dict[str, str]:
    """The installed versions of the packages that decide a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit(root: Path) -> tuple[str | None, bool | None]:
    """The root's git commit and whether files differ from it; None outside a checkout."""
    if not (root / ".git").exists():
        return None, None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()

"""Files as they should not be."""

from pathlib import Path


def damage(path: Path, keep: float = 0.5) -> None:
    """Truncates a file, or a link's copy of it."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: int(len(data) * keep)])

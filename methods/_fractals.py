"""Fractal images: Julia sets, computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ITERATIONS = 48


def julia(size: int, rng: np.random.Generator) -> np.ndarray:
    """A Julia set of z -> z^2 + c in random colours, uint8 [S, S, 3], S = ``size``.

    c lies just outside the main cardioid of the Mandelbrot set, c = e^(it) / 2 - e^(2it) / 4,
    where Julia sets are rich in detail; colours follow how soon a point escapes.
    """
    import numpy as np

    t, turn = rng.uniform(0, 2 * np.pi, 2)  # where on the cardioid; how the image is rotated
    # 1.05: a little outside, where points escape slowly, so that there are many levels
    c = 1.05 * (np.exp(1j * t) / 2 - np.exp(2j * t) / 4)
    # a part of the plane that such a set fills
    axis = np.linspace(-1.3, 1.3, size)
    z = (axis[None, :] + 1j * axis[:, None]) * np.exp(1j * turn)
    escaped = np.full((size, size), ITERATIONS)
    for step in range(ITERATIONS):
        z = z * z + c
        out = (z.real**2 + z.imag**2 > 4) & (escaped == ITERATIONS)
        escaped[out] = step
        z[out | (escaped < ITERATIONS)] = 0  # so that they stay finite: their level is known
    bands, phases = rng.uniform(1, 3), rng.uniform(0, 2 * np.pi, 3)
    # the square root spreads the many points that escape within a few iterations
    level = 2 * np.pi * bands * np.sqrt(escaped / ITERATIONS)
    return ((0.5 + 0.5 * np.cos(level[..., None] + phases)) * 255).round().astype(np.uint8)

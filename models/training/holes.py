"""Holes to learn from: free forms, as a hand would draw them, and what archives of images suffer.

Masks are bool (row, column), true where a pixel is known; their shapes grow with the crop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...tiling.box import Box
from ...tiling.terra.scene import sky

Mask = NDArray[np.bool_]
Random = np.random.Generator

# Strokes and rectangles were published for pictures of so many pixels a side.
_PUBLISHED = 256
_STROKES, _WIDTHS, _TURNS = 9, (12, 48), (2, 9)
_RECTANGLES = 4
# Of a crop, at least and at most so much is missing; a draw outside is drawn again.
_LEAST, _MOST, _TRIES = 0.002, 0.95, 8
_SCATTERED, _SCRATCHES, _PERIODS = (0.02, 0.7), (1, 8), (6, 24)
_CLOUDS = (0.2, 0.7)


def draw_holes(size: int, seed: int) -> Mask:
    """What is known of a crop: every other one has free forms, the others one of an archive's damages."""
    random = np.random.default_rng(seed)
    for _ in range(_TRIES):
        kind = free_form if random.random() < 0.5 else DAMAGES[int(random.integers(len(DAMAGES)))]
        lost = kind(size, random)
        if _LEAST <= lost.mean() <= _MOST:
            return ~lost
    known = np.ones((size, size), np.bool_)
    known[size // 4 : size // 2, size // 4 : size // 2] = False
    return known


def free_form(size: int, random: Random) -> Mask:
    """Up to nine strokes of a brush that turns on its way, and some rectangles."""
    lost = np.zeros((size, size), np.bool_)
    for _ in range(int(random.integers(1, _STROKES + 1))):
        _stroke(lost, random, random.uniform(*_WIDTHS) * size / _PUBLISHED, int(random.integers(*_TURNS)))
    for _ in range(int(random.integers(0, _RECTANGLES + 1))):
        height, width = random.integers(1, max(2, size // 2), 2)
        top, left = random.integers(0, size - height + 1), random.integers(0, size - width + 1)
        lost[top : top + height, left : left + width] = True
    return lost


def stripes(size: int, random: Random) -> Mask:
    """Rows, columns or slanting lines that a scanner skips, at a period."""
    rows, cols = np.mgrid[:size, :size]
    slant = random.uniform(-0.5, 0.5) if random.random() < 0.5 else 0.0
    along = rows + slant * cols if random.random() < 0.5 else cols + slant * rows
    period = random.uniform(*_PERIODS)
    return np.asarray((along + random.uniform(0, period)) % period < period * random.uniform(0.1, 0.5))


def clouds(size: int, random: Random) -> Mask:
    """A sky seen from so far that clouds begin and end in the crop."""
    longest, share = max(2, int(size * random.uniform(1, 2))), random.uniform(*_CLOUDS)
    seed = int(random.integers(2**31))
    return np.asarray(sky(seed, share, Box(0, 0, size, size), longest=longest, shortest=2) > 0)


def scratches(size: int, random: Random) -> Mask:
    """Thin lines that go far."""
    lost = np.zeros((size, size), np.bool_)
    for _ in range(int(random.integers(*_SCRATCHES))):
        _stroke(lost, random, random.uniform(1, 3), 2, reach=1.5)
    return lost


def scattered(size: int, random: Random) -> Mask:
    """Pixels here and there, or small squares of them."""
    side = int(random.integers(1, 5))
    cells = random.random((-(-size // side),) * 2) < random.uniform(*_SCATTERED)
    return cells.repeat(side, axis=0).repeat(side, axis=1)[:size, :size]


DAMAGES: tuple[Callable[[int, Random], Mask], ...] = (stripes, clouds, scratches, scattered)


def _stroke(lost: Mask, random: Random, width: float, turns: int, *, reach: float = 0.4) -> None:
    """Everything nearer to a line of several parts than half a width is lost."""
    size, half = len(lost), width / 2
    at, heading = random.uniform(0, size, 2), random.uniform(0, 2 * np.pi)
    for _ in range(turns):
        heading += random.uniform(-1, 1)
        way = size * random.uniform(reach / 4, reach) * np.array([np.sin(heading), np.cos(heading)])
        # No pixel further away than this can be nearer than half a width.
        low = np.minimum(at, at + way) - half
        high = np.maximum(at, at + way) + half
        top, left = low.clip(0, size).astype(int)
        bottom, right = np.ceil(high + 1).clip(0, size).astype(int)
        rows, cols = np.ogrid[top:bottom, left:right]
        # The place on the part that is nearest to each pixel, from 0 to 1.
        nearest = ((rows - at[0]) * way[0] + (cols - at[1]) * way[1]) / (way @ way)
        nearest = nearest.clip(0, 1)
        far = (rows - at[0] - nearest * way[0]) ** 2 + (cols - at[1] - nearest * way[1]) ** 2
        lost[top:bottom, left:right] |= far <= half**2
        at = (at + way).clip(0, size - 1)

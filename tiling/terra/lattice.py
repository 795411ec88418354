"""Randomness that belongs to places: hashed lattices, smooth noise on them, cells and cuts between them.

Every value is a function of a seed and absolute coordinates, computed from integers and from operations that
IEEE 754 rounds exactly (+ - * / and square root). So a box computed alone has the bits of the same box cut out of
a larger one, on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..box import Box
from ..chance import Words, mixed, unit, words

Field = NDArray[np.floating[Any]]
"""A number a pixel, axes (row, column), in float32."""
Ints = NDArray[np.int64]

# The mean square of cubic B-splines on white noise, along one axis; and what makes uniform noise of variance 1.
_SPLINE_POWER = 151 / 315
_UNIFORM = sqrt(12.0)


def grain(start: Words, box: Box) -> Field:
    """White noise of variance 1, a number a pixel."""
    rows, cols = np.ogrid[box.top : box.bottom, box.left : box.right]
    return (unit(words(start, rows, cols)) - np.float32(0.5)) * np.float32(_UNIFORM)


def waves(start: Words, box: Box, length: int) -> Field:
    """Smooth noise of mean 0 and variance 1: cubic B-splines on white noise at every ``length``-th pixel."""
    row, row_weights = _taps(np.arange(box.top, box.bottom), length)
    col, col_weights = _taps(np.arange(box.left, box.right), length)
    top, left = int(row[0]), int(col[0])
    lattice = unit(words(start, *np.ix_(np.arange(top, row[-1] + 4), np.arange(left, col[-1] + 4))))
    lattice = (lattice - np.float32(0.5)) * np.float32(_UNIFORM / _SPLINE_POWER)
    down = _weighed([lattice[row - top + tap] for tap in range(4)], [weight[:, None] for weight in row_weights])
    return _weighed([down[:, col - left + tap] for tap in range(4)], list(col_weights))


def fractal(start: Words, box: Box, longest: int, shortest: int, *, fall: float = 0.5) -> Field:
    """Noise of variance 1 on many scales: each wave half as long as the one before and ``fall`` times as high."""
    total, power, height, length = np.zeros(box.shape, np.float32), 0.0, 1.0, longest
    while length >= shortest:
        total += waves(words(start, np.array([length])), box, length) * np.float32(height)
        power, height, length = power + height * height, height * fall, length // 2
    return total * np.float32(1 / sqrt(power))


def _taps(at: NDArray[Any], length: int) -> tuple[Ints, tuple[Field, Field, Field, Field]]:
    """Of a coordinate the first of four lattice points around it, and their B-spline weights."""
    cell = np.floor(at / length).astype(np.int64)
    t = ((at - cell * length) / length).astype(np.float32)
    s, sixth = 1 - t, np.float32(1 / 6)
    squared, cubed = t * t, t * t * t
    weights = (
        s * s * s * sixth,
        (3 * cubed - 6 * squared + 4) * sixth,
        (3 * (t + squared - cubed) + 1) * sixth,
        cubed * sixth,
    )
    return cell - 1, weights


def _weighed(parts: list[Field], weights: Any) -> Field:  # noqa: ANN401  a sequence of fields that broadcast
    total: Field = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + part * weight
    return total


def smoothstep(low: float, high: float, value: Field) -> Field:
    """From 0 below ``low`` to 1 above ``high``, without a corner."""
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), np.float32(0), np.float32(1))
    smooth: Field = t * t * (3 - 2 * t)
    return smooth


def direction(random: Words, draw: int = 0) -> tuple[Field, Field]:
    """Cosine and sine of an angle between -90 and 90 degrees, of any word its own."""
    t = 2 * unit(random, draw) - 1
    whole = 1 / (1 + t * t)
    return (1 - t * t) * whole, 2 * t * whole


@dataclass(frozen=True)
class Cells:
    """For every pixel the cell it lies in, among those around scattered points.

    ``word`` is the cell's own; ``down`` and ``right`` lead from its point to the pixel; ``edge`` is how far the
    nearest other cell is, ``towards`` the direction to it (down, right), ``border`` a word that both sides of that
    border share. Distances in pixels.
    """

    word: Words
    down: Field
    right: Field
    edge: Field
    towards: tuple[Field, Field]
    border: Words


@dataclass(frozen=True)
class Points:
    """Scattered points around some pixels: one in every square of ``pitch`` pixels, at most ``jitter`` off its centre.

    ``at`` is each pixel's square as an index into the tables, ``y`` and ``x`` where in it the pixel lies.
    """

    word: Words
    down: Field
    right: Field
    at: Ints
    y: Field
    x: Field
    pitch: int
    across: int

    @classmethod
    def around(cls, start: Words, y: NDArray[Any], x: NDArray[Any], pitch: int, *, jitter: float) -> Points:
        """The points that may matter to pixels at ``y`` and ``x``."""
        row, col = (np.floor(part / pitch).astype(np.int64) for part in (y, x))
        top, left = int(row.min()) - 1, int(col.min()) - 1
        rows, cols = np.arange(top, int(row.max()) + 2), np.arange(left, int(col.max()) + 2)
        word = words(start, *np.ix_(rows, cols))
        down, right = (
            np.float32(pitch) * (np.float32(0.5) + np.float32(2 * jitter) * (unit(word, draw) - np.float32(0.5)))
            for draw in (1, 2)
        )
        within_y, within_x = ((part - cell * pitch).astype(np.float32) for part, cell in ((y, row), (x, col)))
        at = (row - top) * len(cols) + (col - left)
        return cls(word, down, right, at, within_y, within_x, pitch, len(cols))

    def neighbour(self, rows: int, cols: int) -> tuple[Ints, Field, Field]:
        """Index of the point so many squares from each pixel's own, and the way from it to the pixel."""
        at = self.at + (rows * self.across + cols)
        down = self.y - (self.down.ravel()[at] + np.float32(rows * self.pitch))
        right = self.x - (self.right.ravel()[at] + np.float32(cols * self.pitch))
        return at, down, right


NEAR = [(rows, cols) for rows in (-1, 0, 1) for cols in (-1, 0, 1)]
"""A square and the eight around it."""


def cells(points: Points) -> Cells:
    """Voronoi's cells of scattered points."""
    ways = [points.neighbour(*near) for near in NEAR]
    at, down, right = ways[0][0].copy(), ways[0][1].copy(), ways[0][2].copy()
    least = down * down + right * right
    for there, dy, dx in ways[1:]:
        far = dy * dy + dx * dx
        closer = far < least
        for kept, new in ((least, far), (at, there), (down, dy), (right, dx)):
            np.copyto(kept, new, where=closer)
    edge = np.full(least.shape, np.inf, np.float32)
    other, to_south, to_east = at.copy(), np.zeros_like(edge), np.zeros_like(edge)
    for there, dy, dx in ways:
        apart_y, apart_x = down - dy, right - dx
        apart = np.sqrt(apart_y * apart_y + apart_x * apart_x)
        apart[there == at] = np.inf
        # The border is as far from both points: how far along the way to the other does it lie?
        gap = (dy * dy + dx * dx - least) / (2 * apart)
        gap[there == at] = np.inf
        closer = gap < edge
        for kept, new in ((edge, gap), (other, there), (to_south, apart_y / apart), (to_east, apart_x / apart)):
            np.copyto(kept, new, where=closer)
    word = points.word.ravel()
    return Cells(word[at], down, right, edge, (to_south, to_east), mixed(word[at] ^ word[other]))


@dataclass(frozen=True)
class Cuts:
    """Pieces of a line: the ``number`` of each value's piece, and how far its ends are before and behind it."""

    number: Ints
    before: Field
    behind: Field

    @property
    def edge(self) -> Field:
        """How far the nearer end is."""
        return np.minimum(self.before, self.behind)


def cuts(start: Words, at: Field, pitch: Field) -> Cuts:
    """A line cut into pieces of about ``pitch``, each end up to a third of that off its even place."""
    number = np.floor(at / pitch).astype(np.int64)

    def end(which: Ints) -> Field:
        shift = (unit(words(start, which)) - np.float32(0.5)) * np.float32(2 / 3)
        return (which.astype(np.float32) + shift) * pitch

    low, high = end(number), end(number + 1)
    number = number - (at < low) + (at >= high)
    return Cuts(number, at - end(number), end(number + 1) - at)

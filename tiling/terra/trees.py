"""Trees one by one, each a crown that the sun lights from the side, and the shadows of all that stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..box import Box
from ..chance import Words, key, unit
from .ground import SUN
from .land import Flags, Land
from .lattice import NEAR, Field, Points

_SPACING = 6
_SHADOW = 9
MARGIN = 2 * _SPACING + _SHADOW + 2
"""Pixels around a box that may cast something into it."""


@dataclass(frozen=True)
class Trees:
    """Crowns, where ``there``: a ``word`` each, ``height`` above the ground in pixels, ``light`` from -1 to 1."""

    there: Flags
    word: Words
    height: Field
    light: Field


def plant(seed: int, box: Box, land: Land) -> Trees:
    """A tree at every scattered point whose ground has trees; of crowns that overlap, the higher is seen."""
    rows, cols = np.ogrid[box.top : box.bottom, box.left : box.right]
    y, x = np.broadcast_arrays(rows, cols)
    points = Points.around(key(seed, "trees"), y, x, _SPACING, jitter=0.38)
    height, light = np.zeros(box.shape, np.float32), np.zeros(box.shape, np.float32)
    word = np.zeros(box.shape, np.uint64)
    everyone = points.word.ravel()
    size = 2 + np.float32(2.4) * unit(everyone, 3) * unit(everyone, 7)
    lot = unit(everyone, 4)
    row, col = np.indices(box.shape, np.int32)
    for near in NEAR:
        at, down, right = points.neighbour(*near)
        radius = size[at]
        inside = 1 - (down * down + right * right) / (radius * radius)
        foot = (
            np.clip(row - np.rint(down).astype(np.int32), 0, box.height - 1),
            np.clip(col - np.rint(right).astype(np.int32), 0, box.width - 1),
        )
        top = radius * np.float32(1.1) + 3 * np.sqrt(np.maximum(inside, 0))
        seen = (inside > 0) & (lot[at] < land.trees[foot]) & (top > height) & (land.paved <= 1) & ~land.roofs.there
        np.copyto(height, top, where=seen)
        np.copyto(light, (down * SUN[0] + right * SUN[1]) / radius, where=seen)
        np.copyto(word, everyone[at], where=seen)
    return Trees(height > 0, word, height, light)


def shadows(height: Field) -> Field:
    """From 0 to 1, how much of the sun what stands in its way takes; the first rows and columns lack their own."""
    dark = np.zeros(height.shape, np.float32)
    for step in range(1, _SHADOW + 1):
        down, right = step, round(step * float(SUN[1] / SUN[0]))
        above = height[: height.shape[0] - down, : height.shape[1] - right] - np.float32(step * 0.8)
        here = height[down:, right:]
        part = dark[down:, right:]
        np.maximum(part, np.clip(above - here, 0, 1), out=part)
    return dark

"""What lies below everything else: relief and how the sun falls on it, sea and rivers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..box import Box
from ..chance import key
from .lattice import Field, fractal, smoothstep, waves

SUN = (np.float32(-0.78), np.float32(-0.62))
"""The way to the sun on the map, (down, right): north-west, as in most pictures."""

_SEA_LEVEL = -1.2
_RIVER, _STREAM = 7.5, 2.2


@dataclass(frozen=True)
class Ground:
    """The bare land, a number a pixel each.

    ``height`` above the sea in units of its spread, ``light`` of the sun (0 on flat ground), ``rough`` from 0 (plain)
    to 1 (hills), ``river`` how many pixels outside of a river's banks (below 0: in it).
    """

    height: Field
    light: Field
    rough: Field
    river: Field

    @classmethod
    def of(cls, seed: int, box: Box) -> Ground:
        """The land in a box."""
        around = box.pad(1)
        height = fractal(key(seed, "height"), around, 1024, 8, fall=0.52)
        rough = smoothstep(0.35, 1.25, fractal(key(seed, "rough"), around, 1024, 128))
        folds = fractal(key(seed, "folds"), around, 128, 8, fall=0.5) * rough
        surface = height * np.float32(26.0) + folds * np.float32(5.0)
        down, right = _slope(surface)
        light = np.clip((down * SUN[0] + right * SUN[1]) * np.float32(-0.55), np.float32(-0.55), np.float32(0.45))
        return cls(height[1:-1, 1:-1] - np.float32(_SEA_LEVEL), light, rough[1:-1, 1:-1], _rivers(seed, around))


def _rivers(seed: int, around: Box) -> Field:
    """How far each pixel is outside of the nearest water that flows.

    Rivers are where smooth noise passes zero: such lines wind, never end, and never cross.
    """
    banks = np.full((around.height - 2, around.width - 2), np.inf, np.float32)
    for name, length, width, least in (("river", 1024, _RIVER, 0.9), ("stream", 512, _STREAM, 0.15)):
        course = waves(key(seed, name), around, length)
        course += waves(key(seed, f"{name} bends"), around, length // 8) * np.float32(0.09)
        course += waves(key(seed, f"{name} banks"), around, length // 32) * np.float32(0.008)
        down, right = _slope(course)
        away = np.abs(course[1:-1, 1:-1]) / np.sqrt(down * down + right * right + np.float32(1e-9))
        swell = waves(key(seed, f"{name} width"), around, 512)[1:-1, 1:-1]
        # Where it is no longer wide, a stream begins or ends.
        half = np.float32(width) * np.clip(np.float32(least) + swell * np.float32(0.6), -1, 2)
        banks = np.minimum(banks, away - half)
    return banks


def _slope(field: Field) -> tuple[Field, Field]:
    """Change a pixel (down, right) of a field that has a margin of one pixel, which it loses."""
    return (field[2:, 1:-1] - field[:-2, 1:-1]) / 2, (field[1:-1, 2:] - field[1:-1, :-2]) / 2

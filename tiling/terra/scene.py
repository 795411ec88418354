"""A scene: its picture, its label map, and what may hide parts of it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..box import Box
from ..chance import key, unit
from ..errors import InputError
from .ground import Ground
from .land import Flags, Kinds, Use, land_in
from .lattice import Field, fractal, smoothstep
from .paint import Picture, paint, through_lens
from .trees import MARGIN, plant, shadows

BANDS = {
    1: ("gray",),
    2: ("gray", "near infrared"),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "near infrared"),
}
DTYPES = ("uint8", "float32")


@dataclass(frozen=True)
class Terra:
    """The scene of a seed, which has no end: see :data:`BANDS` for its bands."""

    seed: int = 0
    bands: int = 4
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.bands not in BANDS:
            raise InputError(f"bands is {self.bands}; a scene has 1 to {max(BANDS)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype}; choose one of {', '.join(DTYPES)}")

    def look(self, box: Box) -> tuple[NDArray[Any], Kinds]:
        """The picture in a box (band, row, column), uint8 or float32 in [0, 1], and its classes (row, column)."""
        around = box.pad(MARGIN)
        ground = Ground.of(self.seed, around)
        land = land_in(self.seed, around, ground)
        trees = plant(self.seed, around, land)
        standing = np.where(land.roofs.there, land.roofs.height, trees.height)
        picture = paint(self.seed, around, ground, land, trees, shadows(standing))
        inner = box.pad(1).within(around)
        seen = through_lens(picture[:, *inner], self.seed, box)
        labels = np.where(trees.there, np.uint8(Use.WOOD), land.use)[box.within(around)]
        return self._stored(seen), labels

    def _stored(self, seen: Picture) -> NDArray[Any]:
        if self.bands < 3:
            gray = (seen[0] + seen[1] + seen[2]) * np.float32(1 / 3)
            seen = np.stack([gray, seen[3]])
        seen = seen[: self.bands]
        return np.rint(seen).astype(np.uint8) if self.dtype == "uint8" else seen * np.float32(1 / 255)


@dataclass(frozen=True)
class Cover:
    """What hides a scene: a share of ``clouds`` and of ``stripes`` without data, each from 0 to below 1."""

    seed: int = 0
    clouds: float = 0.0
    stripes: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        for name in ("clouds", "stripes"):
            if not 0 <= getattr(self, name) <= 0.9:
                raise InputError(f"{name} is {getattr(self, name)}; give a share from 0 to 0.9")

    def hide(self, picture: NDArray[Any], box: Box) -> tuple[NDArray[Any], Flags]:
        """A picture of a box with what hides it, and where that is."""
        white = np.float32(250 if picture.dtype == np.uint8 else 250 / 255)
        cloud, gaps = self._clouds(box), self._stripes(box)
        hidden = picture + (white - picture.astype(np.float32)) * cloud
        if picture.dtype == np.uint8:
            hidden = np.rint(hidden)
        return np.where(gaps, 0, hidden).astype(picture.dtype), (cloud > 0) | gaps

    def _clouds(self, box: Box) -> Field:
        """How thick the clouds are, from 0 to 1."""
        return sky(self.seed, self.clouds, box) if self.clouds else np.zeros(box.shape, np.float32)

    def _stripes(self, box: Box) -> Flags:
        """Slanting gaps, as a scanner leaves that skips."""
        start = key(self.seed, "stripes")
        period = 48 + np.floor(48 * unit(start, 1))
        slant = np.float32(0.15) + np.float32(0.3) * unit(start, 2)
        rows, cols = np.ogrid[box.top : box.bottom, box.left : box.right]
        place = (rows + cols * slant.astype(np.float64)) / period.astype(np.float64)
        gaps: Flags = place - np.floor(place) < self.stripes
        return gaps


def sky(seed: int, share: float, box: Box, *, longest: int = 512, shortest: int = 4) -> Field:
    """How thick clouds are, from 0 to 1, which cover such a share and have waves of so many pixels."""
    least = NormalDist().inv_cdf(1 - share)
    return smoothstep(least, least + 0.5, fractal(key(seed, "clouds"), box, longest, shortest, fall=0.56))

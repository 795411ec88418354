"""Between an image's own numbers and the range that models work in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

DEFAULT_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Scaling:
    """Maps the data range ``[lo, hi]`` to the model's ``[-1, 1]``, the same for every tile.

    Each is a number, or where bands have ranges of their own one a band: pixels are (band, row, column) then.
    """

    lo: float | tuple[float, ...]
    hi: float | tuple[float, ...]

    @classmethod
    def of(cls, spans: Sequence[tuple[float, float]]) -> Self:
        """The scaling of bands with these ranges, which may all be the same."""
        if len(set(spans)) == 1:
            return cls(*spans[0])
        lows, highs = zip(*spans, strict=True)
        return cls(lows, highs)

    @property
    def listed(self) -> list[Any]:
        """The range as JSON has it: the lower end, or that of each band; then the upper."""
        return [list(end) if isinstance(end, tuple) else end for end in (self.lo, self.hi)]

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value of any band's range."""
        return float(np.min(self.lo)), float(np.max(self.hi))

    def to_model(self, data: NDArray[Any]) -> NDArray[np.float32]:
        """Pixels in their own numbers as float32 in model range."""
        lo, hi = _spread(self.lo), _spread(self.hi)
        return (data.astype(np.float32) - lo.astype(np.float32)) * (2 / (hi - lo)).astype(np.float32) - np.float32(1)

    def from_model(self, data: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Model range as pixels: integers are rounded half to even and clipped, floats are neither."""
        lo, hi = _spread(self.lo), _spread(self.hi)
        pixels = (data.astype(np.float64) + 1) * ((hi - lo) / 2) + lo
        if dtype.kind == "f":
            return pixels.astype(dtype)
        limits = np.iinfo(dtype)
        return np.clip(np.rint(pixels), limits.min, limits.max).astype(dtype)


def _spread(end: float | tuple[float, ...]) -> NDArray[np.float64]:
    """An end of the range as it is spread over pixels."""
    found = np.asarray(end, np.float64)
    return found[:, None, None] if found.ndim else found

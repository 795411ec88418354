"""Between an image's own numbers and the range that models work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Scaling:
    """Maps the data range ``[lo, hi]`` to the model's ``[-1, 1]``, the same for every tile."""

    lo: float
    hi: float

    def to_model(self, data: NDArray[Any]) -> NDArray[np.float32]:
        """Pixels in their own numbers as float32 in model range."""
        unit = np.float32(2.0 / (self.hi - self.lo))
        return (data.astype(np.float32) - np.float32(self.lo)) * unit - np.float32(1)

    def from_model(self, data: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Model range as pixels: integers are rounded half to even and clipped, floats are neither."""
        pixels = (data.astype(np.float64) + 1) * ((self.hi - self.lo) / 2) + self.lo
        if dtype.kind == "f":
            return pixels.astype(dtype)
        limits = np.iinfo(dtype)
        return np.clip(np.rint(pixels), limits.min, limits.max).astype(dtype)

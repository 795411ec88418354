"""A dask array as an image: computed window by window in this process."""

from __future__ import annotations

import hashlib
from typing import Any

import dask.array
import numpy as np
from numpy.typing import NDArray

from .box import Box
from .cache import ChunkCache
from .decoding import check_decoded
from .errors import InputError
from .windowed import Header, WindowedSource


class DaskSource(WindowedSource):
    """A 2-D (row, column) or 3-D (band, row, column) dask array.

    One unit is one block of the array (the largest, where blocks differ in size), computed by itself:
    slicing keeps only the part of the graph that the unit needs.
    """

    def __init__(self, array: dask.array.Array, *, cache: ChunkCache | None = None) -> None:
        """Wrap the array; nothing is computed yet."""
        uri = f"dask array {array.name}"
        if array.ndim not in (2, 3) or any(np.isnan(size) for size in array.shape) or 0 in array.shape:
            raise InputError(f"{uri}: has shape {array.shape}; give (row, column) or (band, row, column), known sizes")
        self._array = array[None] if array.ndim == 2 else array
        bands, height, width = self._array.shape
        _, chunk_height, chunk_width = self._array.chunksize
        chunk = (int(chunk_height), int(chunk_width))
        check_decoded(uri, "block of all bands", bands * chunk[0] * chunk[1] * array.dtype.itemsize)
        dtype = array.dtype.newbyteorder("=")
        super().__init__(Header(uri, bands, height, width, dtype, chunk), cache=cache)

    def decode(self, box: Box) -> NDArray[Any]:
        """Compute one unit in the calling thread, so that lanes and not dask decide how many cores are busy."""
        rows, columns = box.slices
        window = self._array[:, rows, columns].compute(scheduler="synchronous")
        return np.array(window, dtype=self.dtype, order="C")

    def digest(self) -> str:
        """Hexadecimal blake2b over the computed blocks, one block in memory at a time."""
        digest = hashlib.blake2b(repr((self._array.shape, self.dtype.str)).encode(), digest_size=32)
        height, width = self.chunk
        for top in range(0, self.height, height):
            for left in range(0, self.width, width):
                box = Box(top, left, min(top + height, self.height), min(left + width, self.width))
                digest.update(self.decode(box).data)
        return digest.hexdigest()

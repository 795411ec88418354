"""The scratch canvas of one level: finished pixels in model range, one chunk a tile, one writer a chunk."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from .box import Box
from .cache import ChunkCache, read_window
from .decoding import decoding
from .errors import CorruptChunk, NotOwned
from .grid import Grid
from .place import Located, place
from .store import ensure_array
from .work import Floats


class Canvas:
    """Float32 pixels of a level's padded grid, axes (band, row, column).

    The array's origin lies ``chunk_offset`` pixels before the image's, so that far edges are chunk borders.
    """

    def __init__(self, folder: Located, grid: Grid, *, bands: int, cache: ChunkCache) -> None:
        """Open the canvas, or create it if this is its first use."""
        rows, cols = grid.rows, grid.cols
        self.folder = place(folder)
        self._grid = grid
        self._bands = bands
        self._cache = cache
        self._origin = (rows.chunk_offset, cols.chunk_offset)
        self._stride = grid.stride
        self._array = ensure_array(
            folder,
            shape=(bands, rows.length + self._origin[0], cols.length + self._origin[1]),
            chunk=(bands, self._stride, self._stride),
            dtype="float32",
            fill=float("nan"),
        )

    def read(self, box: Box) -> Floats:
        """Committed pixels of a box; a chunk that is missing or damaged raises :class:`CorruptChunk`."""
        return read_window(
            box.shift(*self._origin),
            chunk=(self._stride, self._stride),
            load=self._chunk,
            bands=self._bands,
            dtype=np.dtype(np.float32),
        )

    def _chunk(self, row: int, col: int) -> Floats:
        return self._cache.get((str(self.folder), (row, col)), lambda: self._load(row, col))

    def _load(self, row: int, col: int) -> Floats:
        s = self._stride
        with decoding(str(self.folder), f"c/0/{row}/{col}"):
            chunk = np.asarray(self._array[:, row * s : (row + 1) * s, col * s : (col + 1) * s], np.float32)
        # A chunk that was never written reads as the fill value; a written one holds no NaN.
        if np.isnan(chunk).any():
            raise CorruptChunk(f"chunk c/0/{row}/{col} of {self.folder} is missing")
        return chunk

    def write(self, row: int, col: int, pixels: Floats) -> str:
        """Write what tile (row, col) owns, as whole chunks; returns the pixels' hash."""
        if not (0 <= row < self._grid.rows.count and 0 <= col < self._grid.cols.count):
            raise NotOwned(f"{self.folder} has no tile row {row} column {col}")
        owned = self._grid.owns(row, col)
        if pixels.shape != (self._bands, *owned.shape):
            raise NotOwned(f"tile row {row} column {col} owns {owned}, not an array of shape {pixels.shape}")
        at = owned.shift(*self._origin)
        # The strip before the image's origin belongs to the first tile's chunks: writing it keeps chunks whole.
        lead = (at.top if row == 0 else 0, at.left if col == 0 else 0)
        top, left = at.top - lead[0], at.left - lead[1]
        if top % self._stride or left % self._stride:
            raise NotOwned(f"{owned} does not begin on a chunk border of {self.folder}")
        # A copy in any case: the cache takes the block over, and the caller keeps its pixels.
        block = np.pad(pixels, ((0, 0), (lead[0], 0), (lead[1], 0))) if any(lead) else pixels.copy(order="C")
        # Not ``array[...] = block``: that first tries to make sense of far richer indices, at a cost for every tile.
        self._array.set_basic_selection((slice(None), slice(top, at.bottom), slice(left, at.right)), block)
        self._remember(block, top // self._stride, left // self._stride)
        return hash_pixels(block[:, lead[0] :, lead[1] :])

    def _remember(self, block: Floats, row: int, col: int) -> None:
        s = self._stride
        if block.shape[1] <= s and block.shape[2] <= s:
            # Nearly every tile owns one chunk: the cache takes it over without another copy.
            self._cache.put((str(self.folder), (row, col)), block)
            return
        for r in range(-(-block.shape[1] // s)):
            for c in range(-(-block.shape[2] // s)):
                chunk = block[:, r * s : (r + 1) * s, c * s : (c + 1) * s]
                self._cache.put((str(self.folder), (row + r, col + c)), np.ascontiguousarray(chunk))


def hash_pixels(pixels: Floats) -> str:
    """The hash that the ledger keeps of a tile's output."""
    return blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()

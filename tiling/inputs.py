"""Coarser inputs, and the survey of what is to be restored: made once, in tasks of bounded size, before any tile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .cache import ChunkCache, read_window
from .decoding import decoding
from .errors import CorruptChunk
from .grid import Axis, Grid
from .measurement import Lift, Measurement
from .observe import Flags, Observation, everything, lifted, lifts_complete
from .place import Located, place
from .store import ensure_array
from .work import Floats

CHUNK = 256
TASK = 4 * CHUNK
OWNS, KEEPS = 1, 2


class LevelInputs:
    """A level's own measurement, where it is not the finer level's: y and flags, lifted chunk by chunk.

    A level that cannot but be complete keeps no flags.
    """

    def __init__(self, folder: Located, fine: Observation, lift: Lift, *, cache: ChunkCache) -> None:
        """Open the arrays, or create them if this is their first use."""
        self.height, self.width = -(-fine.height // lift.pool), -(-fine.width // lift.pool)
        self._fine, self._lift, self._cache, self._folder = fine, lift, cache, place(folder)
        self._bands = fine.bands
        shape = (self._bands, self.height, self.width)
        self._y = ensure_array(
            self._folder / "y", shape=shape, chunk=(self._bands, CHUNK, CHUNK), dtype="float32", fill=float("nan")
        )
        self._complete = lifts_complete(fine, lift)
        if not self._complete:
            # Flags of a chunk that was never written read as a value that no written flag has.
            self._flags = ensure_array(
                self._folder / "flags", shape=(1, *shape[1:]), chunk=(1, CHUNK, CHUNK), dtype="uint8", fill=255
            )

    def tasks(self) -> Iterator[Box]:
        """Boxes of whole chunks that cover the level, each for one writer."""
        return boxes(self.height, self.width, TASK)

    def lift(self, box: Box) -> None:
        """Make one task's part from the finer level."""
        for part in boxes(box.height, box.width, CHUNK):
            at = part.shift(box.top, box.left)
            y, flags = lifted(self._fine, self._lift, at)
            self._y[:, *at.slices] = y
            if not self._complete:
                self._flags[:, *at.slices] = flags[None]

    def observation(self, measurement: Measurement) -> Observation:
        """The level's observation, reading what the tasks made."""
        read_flags = everything if self._complete else self._read_flags
        return Observation(measurement, self._bands, self.height, self.width, self._read_y, read_flags)

    def _read_y(self, box: Box) -> Floats:
        return read_window(box, chunk=(CHUNK, CHUNK), load=self._chunk_y, bands=self._bands, dtype=np.float32)

    def _read_flags(self, box: Box) -> Flags:
        window = read_window(box, chunk=(CHUNK, CHUNK), load=self._chunk_flags, bands=1, dtype=np.uint8)
        return np.asarray(window[0], np.uint8)

    def _chunk_y(self, row: int, col: int) -> Floats:
        return self._cache.get((str(self._folder / "y"), (row, col)), lambda: self._load("y", row, col))

    def _chunk_flags(self, row: int, col: int) -> Flags:
        return self._cache.get((str(self._folder / "flags"), (row, col)), lambda: self._load("flags", row, col))

    def _load(self, name: str, row: int, col: int) -> NDArray[np.generic]:
        array = self._y if name == "y" else self._flags
        with decoding(str(self._folder / name), f"c/0/{row}/{col}"):
            chunk = np.asarray(array[:, row * CHUNK : (row + 1) * CHUNK, col * CHUNK : (col + 1) * CHUNK])
        if np.isnan(chunk).any() if name == "y" else (chunk == 255).any():
            raise CorruptChunk(f"chunk c/0/{row}/{col} of {self._folder / name} is missing")
        return chunk


def boxes(height: int, width: int, size: int) -> Iterator[Box]:
    """Squares of ``size`` that cover height x width pixels, cut at its end, row by row."""
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield Box(top, left, min(top + size, height), min(left + size, width))


def survey(observation: Observation, grid: Grid, tiles: Box) -> NDArray[np.uint8]:
    """OWNS and KEEPS bits of a block of tiles (a box of rows and columns of the grid).

    A tile that owns no wanted pixel need not run; one that keeps none is done from the start.
    """
    if observation.uniform:
        return _survey_uniform(observation, grid, tiles)
    bits = np.zeros(tiles.shape, np.uint8)
    first, last = grid.sees(tiles.top, tiles.left), grid.sees(tiles.bottom - 1, tiles.right - 1)
    seen = Box(first.top, first.left, last.bottom, last.right)
    wanted = observation.wanted(seen)
    if not wanted.any():
        return bits
    for row in range(tiles.top, tiles.bottom):
        for col in range(tiles.left, tiles.right):
            keeps = wanted[grid.keeps(row, col).within(seen)].any()
            owns = keeps and wanted[grid.owns(row, col).within(seen)].any()
            bits[row - tiles.top, col - tiles.left] = keeps * KEEPS | owns * OWNS
    return bits


def _survey_uniform(observation: Observation, grid: Grid, tiles: Box) -> NDArray[np.uint8]:
    """The survey where nothing need be read: all real pixels are wanted, or none if they are known exactly."""
    if observation.measurement.exact and observation.complete:
        return np.zeros(tiles.shape, np.uint8)
    scale = observation.measurement.scale
    rows = _touches(grid.rows, range(tiles.top, tiles.bottom), observation.height * scale)
    cols = _touches(grid.cols, range(tiles.left, tiles.right), observation.width * scale)
    # A box holds a real pixel if it does along both axes, so the axes' bits combine by "and".
    return np.bitwise_and.outer(rows, cols)


def _touches(axis: Axis, span: range, size: int) -> NDArray[np.uint8]:
    """OWNS and KEEPS bits of tiles along an axis, for real pixels from 0 to ``size``."""
    ends = [min(axis.far(j), size) for j in span]
    keeps = [axis.start(j) < end for j, end in zip(span, ends, strict=True)]
    owns = [axis.near(j) < end for j, end in zip(span, ends, strict=True)]
    bits: NDArray[np.uint8] = (np.array(keeps) * KEEPS | np.array(owns) * OWNS).astype(np.uint8)
    return bits

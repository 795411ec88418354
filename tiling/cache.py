"""Decoded chunks, kept while there is room, and windows put together from them.

Halos make neighbouring tiles read the same chunks again and again; decoding is what costs, so each
chunk is decoded whole, once, and every window is copied out of decoded chunks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .box import Box

ChunkKey = tuple[Hashable, Hashable]
"""(array id, chunk index)."""


class ChunkCache:
    """The most recently used chunks of any number of arrays, at most ``max_bytes`` of them.

    Thread safe. The newest chunk is kept even when it alone is larger than ``max_bytes``: a picture that
    is decoded whole would otherwise be decoded for every window.
    """

    def __init__(self, max_bytes: int) -> None:
        """An empty cache; ``hits`` and ``misses`` count from here."""
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self.nbytes = 0
        self._chunks: OrderedDict[ChunkKey, NDArray[Any]] = OrderedDict()
        self._changes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._chunks)

    def get(self, key: ChunkKey, load: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The chunk, read-only; ``load`` runs on a miss, outside the lock, and its array is taken over."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
                self.hits += 1
                return chunk
            self.misses += 1
            changes = self._changes
        chunk = _frozen(load())
        with self._lock:
            # A put or drop while we were loading may have made our copy old: hand it out, do not keep it.
            if changes == self._changes:
                self._keep(key, chunk)
        return chunk

    def put(self, key: ChunkKey, array: NDArray[Any]) -> None:
        """Keep a chunk that was just written; the cache takes ``array`` over and makes it read-only."""
        chunk = _frozen(array)
        with self._lock:
            self._changes += 1
            self._keep(key, chunk)

    def drop(self, array: Hashable) -> None:
        """Forget every chunk of one array."""
        with self._lock:
            self._changes += 1
            for key in [key for key in self._chunks if key[0] == array]:
                self.nbytes -= self._chunks.pop(key).nbytes

    def _keep(self, key: ChunkKey, chunk: NDArray[Any]) -> None:
        old = self._chunks.pop(key, None)
        if old is not None:
            self.nbytes -= old.nbytes
        self._chunks[key] = chunk
        self.nbytes += chunk.nbytes
        while self.nbytes > self.max_bytes and len(self._chunks) > 1:
            self.nbytes -= self._chunks.popitem(last=False)[1].nbytes


def read_window(
    box: Box,
    *,
    chunk: tuple[int, int],
    load: Callable[[int, int], NDArray[Any]],
    bands: int,
    dtype: DTypeLike,
    origin: tuple[int, int] = (0, 0),
) -> NDArray[Any]:
    """The window ``box`` (band, row, column), read-only, put together from whole decoded chunks.

    ``load(i, j)`` gives the chunk whose first pixel lies at ``origin + (i, j) * chunk``; the chunks at the
    end of the array may be cut short. A window inside one chunk is a view of it, without a copy.
    """
    height, width = chunk
    top, left = box.top - origin[0], box.left - origin[1]
    bottom, right = box.bottom - origin[0], box.right - origin[1]
    first_row, last_row = top // height, (bottom - 1) // height
    first_col, last_col = left // width, (right - 1) // width
    if first_row == last_row and first_col == last_col:
        y, x = first_row * height, first_col * width
        return load(first_row, first_col)[:, top - y : bottom - y, left - x : right - x]
    window = np.empty((bands, bottom - top, right - left), dtype)
    for row in range(first_row, last_row + 1):
        y = row * height
        y0, y1 = max(y, top), min(y + height, bottom)
        for col in range(first_col, last_col + 1):
            x = col * width
            x0, x1 = max(x, left), min(x + width, right)
            window[:, y0 - top : y1 - top, x0 - left : x1 - left] = load(row, col)[:, y0 - y : y1 - y, x0 - x : x1 - x]
    window.flags.writeable = False
    return window


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The array, read-only; a view is copied, because its owner could still write to it or be far larger."""
    if array.base is not None:
        array = array.copy()
    array.flags.writeable = False
    return array

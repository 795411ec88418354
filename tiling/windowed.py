"""What images of every kind share: a header, windows through the chunk cache, digests of files."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .cache import ChunkCache, read_window
from .decoding import decoding

PRIVATE_CACHE = 64 * 2**20
"""Bytes of decoded chunks that an image keeps when it was opened without a shared cache."""

UNIT_SIDE, UNIT_BYTES = 384, 16 * 2**20
"""How large a reading unit of several stored chunks may be: a call costs as much as decoding a chunk of this size."""

_opened = itertools.count()


@dataclass(frozen=True)
class Header:
    """What is known of an image before a pixel is read; ``chunk`` is the (rows, columns) read at once."""

    uri: str
    bands: int
    height: int
    width: int
    dtype: np.dtype[Any]
    chunk: tuple[int, int]
    nodata: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class WindowedSource(ABC):
    """An image read by window: a subclass decodes one unit of ``chunk`` rows and columns, all bands."""

    def __init__(self, header: Header, *, cache: ChunkCache | None = None) -> None:
        """Keep the header; without ``cache`` the image gets one of ``PRIVATE_CACHE`` bytes of its own."""
        self.uri = header.uri
        self.bands = header.bands
        self.height = header.height
        self.width = header.width
        self.dtype = header.dtype
        self.chunk = header.chunk
        self.nodata = header.nodata
        self.metadata = header.metadata
        self._cache = ChunkCache(PRIVATE_CACHE) if cache is None else cache
        # Not the uri: a file opened again may have changed on disk.
        self._id = next(_opened)

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of ``box`` as (band, row, column) in the native dtype, read-only."""
        if box.top < 0 or box.left < 0 or box.bottom > self.height or box.right > self.width:
            raise ValueError(f"{box} is not inside {self.uri} of {self.height} x {self.width} pixels")
        return read_window(box, chunk=self.chunk, load=self._load, bands=self.bands, dtype=self.dtype)

    @abstractmethod
    def decode(self, box: Box) -> NDArray[Any]:
        """Decode the pixels of one unit, bypassing the cache; (band, row, column) in the native dtype."""

    @abstractmethod
    def digest(self) -> str:
        """Hexadecimal blake2b of what is stored: another one whenever a stored byte of the pixels changes."""

    def _load(self, row: int, col: int) -> NDArray[Any]:
        return self._cache.get((self._id, (row, col)), partial(self._decode_unit, row, col))

    def _decode_unit(self, row: int, col: int) -> NDArray[Any]:
        height, width = self.chunk
        top, left = row * height, col * width
        box = Box(top, left, min(top + height, self.height), min(left + width, self.width))
        with decoding(self.uri, f"({row}, {col}) at {box}"):
            return self.decode(box)


def reading_unit(chunk: tuple[int, int], size: tuple[int, int], bytes_per_pixel: int) -> tuple[int, int]:
    """(rows, columns) to decode at once: whole stored chunks, several where they are small.

    Thin strips and tiny chunks cost a call each, so they are read together up to ``UNIT_SIDE`` pixels a
    side, as far as that stays below ``UNIT_BYTES``.
    """
    width = min(chunk[1] * max(1, UNIT_SIDE // chunk[1]), size[1])
    affordable = UNIT_BYTES // (chunk[0] * width * bytes_per_pixel)
    height = min(chunk[0] * max(1, min(UNIT_SIDE // chunk[0], affordable)), size[0])
    return height, width


def file_digest(path: str, salt: str = "") -> str:
    """Hexadecimal blake2b over a whole file, read in pieces; ``salt`` tells apart parts of one file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(_salted, salt)).hexdigest()


def _salted(salt: str) -> hashlib.blake2b:
    return hashlib.blake2b(salt.encode(), digest_size=32)

"""The published result: a pyramid of sharded zarr v3 arrays, written one whole shard at a time.

Level 0 is the image, each further level half the one before, until a level fits one chunk::

    out.zarr/            group with the OME-Zarr description
      0/c/0/ROW/COL      one shard: up to 4 x 4 chunks of 512 x 512 pixels, all bands, zstd + crc32c
      1/c/0/ROW/COL      means of the 2 x 2 pixels below

A shard has one writer and is written once, so no lock is needed. Unlike plain zarr, reading here
never takes a missing shard for an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync
from zarr.errors import BaseZarrError
from zarr.storage import StorePath

from .box import Box
from .errors import CorruptChunk, InputError, NotOwned, StoreError
from .observe import is_nodata
from .ome import plain
from .place import Located, place

Pixels = NDArray[Any]
Pixel = Any  # one numpy scalar of the pixels' dtype
Shard = tuple[int, int]
_Array = zarr.Array[Any]

_SHARD_BYTES = 64 * 2**20
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_DECODING_ERRORS = (ValueError, RuntimeError, EOFError, OSError)


@dataclass(frozen=True)
class PyramidSpec:
    """The layout of a pyramid, for an image of (bands, height, width) pixels of a numpy ``dtype``.

    ``chunk`` and ``shard`` are sides in pixels, halved until a decoded shard has at most 64 MiB.
    A ``nodata`` that no pixel of the dtype can hold counts as none.
    """

    bands: int
    height: int
    width: int
    dtype: str
    nodata: float | None = None
    chunk: int = 512
    shard: int = 2048

    def __post_init__(self) -> None:
        """Refuse what cannot be laid out."""
        if min(self.bands, self.height, self.width, self.chunk) < 1:
            raise InputError(
                f"an image of {self.bands} bands, {self.height}x{self.width} pixels has nothing to publish"
            )
        if self.dtype not in _DTYPES:
            raise InputError(f"pixels of type {self.dtype} cannot be published: choose one of {', '.join(_DTYPES)}")
        if self.shard < self.chunk or self.shard % self.chunk:
            raise InputError(f"shard {self.shard} must be a multiple of chunk {self.chunk}")

    @property
    def sides(self) -> tuple[int, int]:
        """(chunk, shard) in pixels, as the shard's decoded bytes allow."""
        bytes_per_pixel = self.bands * np.dtype(self.dtype).itemsize
        chunk, per_side = self.chunk, self.shard // self.chunk
        while (chunk * per_side) ** 2 * bytes_per_pixel > _SHARD_BYTES and chunk * per_side > 1:
            chunk, per_side = (chunk, per_side // 2) if per_side > 1 else (chunk // 2, 1)
        return chunk, chunk * per_side

    @property
    def files(self) -> int:
        """Shards of all levels, which are a file each."""
        shards = ((self.shape(level), self.shards(level)) for level in range(self.levels))
        return sum(-(-height // rows) * -(-width // cols) for (_, height, width), (_, rows, cols) in shards)

    @property
    def levels(self) -> int:
        """Levels down to the first that fits one chunk."""
        levels = 1
        while max(self.shape(levels - 1)[1:]) > self.sides[0]:
            levels += 1
        return levels

    def shape(self, level: int) -> tuple[int, int, int]:
        """(bands, rows, columns) of a level; an odd side is rounded up."""
        return self.bands, -(-self.height >> level), -(-self.width >> level)

    def chunks(self, level: int) -> tuple[int, int, int]:
        """(bands, rows, columns) of a chunk, no larger than the level."""
        _, height, width = self.shape(level)
        chunk, _ = self.sides
        return self.bands, min(chunk, height), min(chunk, width)

    def shards(self, level: int) -> tuple[int, int, int]:
        """(bands, rows, columns) of a shard: whole chunks, no more than the level needs."""
        chunk, shard = self.sides
        rows, cols = (
            side * min(shard // chunk, -(-length // side))
            for side, length in zip(self.chunks(level)[1:], self.shape(level)[1:], strict=True)
        )
        return self.bands, rows, cols

    @property
    def fill(self) -> Pixel | None:
        """The nodata value as a pixel, or None."""
        dtype = np.dtype(self.dtype)
        if self.nodata is None:
            return None
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                pixel: Pixel = dtype.type(self.nodata)
            return pixel if isfinite(float(pixel)) or not isfinite(self.nodata) else None
        limits = np.iinfo(dtype)
        holds = isfinite(self.nodata) and self.nodata == int(self.nodata) and limits.min <= self.nodata <= limits.max
        return dtype.type(int(self.nodata)) if holds else None


@dataclass(frozen=True)
class Pyramid:
    """A pyramid in a store: ``arrays[k]`` is level k, axes (band, row, column); can be pickled.

    ``name`` is how messages call it. Workers share nothing but the store: each writes whole shards.
    """

    name: str
    arrays: tuple[_Array, ...]
    nodata: Pixel | None

    @classmethod
    def create(cls, root: Located | Store, spec: PyramidSpec, *, attributes: Mapping[str, Any]) -> Pyramid:
        """Lay out an empty pyramid in the group ``root``, in place of any that is there.

        Nothing else in the group is touched. ``attributes`` replace the group's and are written last.
        """
        try:
            group = zarr.open_group(_zarr(root), mode="a", zarr_format=3)
            arrays = tuple(_create_level(group, spec, level) for level in range(spec.levels))
            stale = spec.levels
            while str(stale) in group:
                del group[str(stale)]
                stale += 1
            group.attrs.put(plain(attributes))
        except BaseZarrError as error:
            raise InputError(f"{root} holds something else; choose another place for the result ({error})") from error
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{root} cannot be written: {error}") from error
        return cls(_name(root), arrays, spec.fill)

    @classmethod
    def open(cls, root: Located | Store, mode: Literal["r", "r+"] = "r+") -> Pyramid:
        """The pyramid that :meth:`create` laid out."""
        try:
            group = zarr.open_group(_zarr(root), mode=mode, zarr_format=3)
            found: list[_Array | zarr.Group] = []
            while str(len(found)) in group:
                found.append(group[str(len(found))])
        except StoreError:
            raise
        except (*_DECODING_ERRORS, KeyError, TypeError) as error:
            raise InputError(f"{root} holds no result: {error}") from error
        # Opening forgets this option, and without it a shard of nothing but fill would leave no file.
        arrays = tuple(
            array.with_config({"write_empty_chunks": True})
            for array in found
            if isinstance(array, zarr.Array) and array.shards and array.ndim == 3
        )
        if not arrays or len(arrays) < len(found):
            raise InputError(f"{root} holds no result: its arrays are not the levels of a published pyramid")
        nodata: Any = arrays[0].attrs.get("nodata")
        return cls(_name(root), arrays, None if nodata is None else arrays[0].dtype.type(float(nodata)))

    def box(self, level: int) -> Box:
        """All pixels of a level."""
        _, height, width = self.arrays[level].shape
        return Box(0, 0, height, width)

    def tasks(self, level: int) -> list[Shard]:
        """(row, column) of every shard of a level; one task each, in any order.

        A level's tasks need the tasks of the level before it.
        """
        _, height, width = self.arrays[level].shape
        _, rows, cols = self._shards(level)
        return [(row, col) for row in range(-(-height // rows)) for col in range(-(-width // cols))]

    def shard_box(self, level: int, index: Shard) -> Box:
        """The pixels of a shard, in pixels of its level."""
        _, rows, cols = self._shards(level)
        whole = Box(index[0] * rows, index[1] * cols, (index[0] + 1) * rows, (index[1] + 1) * cols)
        box = whole.intersect(self.box(level))
        if min(index) < 0 or box.empty:
            raise NotOwned(f"level {level} of {self.name} has no shard {index}")
        return box

    def write_base(
        self, index: Shard, render: Callable[[Box], Pixels], *, before: Callable[[], None] = lambda: None
    ) -> None:
        """Write one shard of the image itself.

        ``render(box)`` gives the final pixels, (band, row, column), of a box inside the image; it is
        asked for one chunk at a time. ``before`` is called once all of them are there, and may refuse.
        """
        self._write(0, index, render, before)

    def write_coarser(self, level: int, index: Shard, *, before: Callable[[], None] = lambda: None) -> None:
        """Write one shard of a level above 0 from the finished level before it."""
        source = self.box(level - 1)

        def render(box: Box) -> Pixels:
            return halve(self.read(level - 1, box.scale(2).intersect(source)), nodata=self.nodata)

        self._write(level, index, render, before)

    def read(self, level: int, box: Box) -> Pixels:
        """The pixels of a box inside a level; a missing or damaged shard or chunk raises, naming it."""
        array = self.arrays[level]
        if box.empty or not self.box(level).contains(box):
            raise InputError(f"{box} does not lie inside level {level} of {self.name}, {self.box(level)}")
        _, rows, cols = self._shards(level)
        for row, col in _indices(box, rows, cols):
            # zarr takes a shard of no bytes for one of nothing but fill.
            if not sync(_size(array.store_path / array.metadata.encode_chunk_key((0, row, col)))):
                raise CorruptChunk(
                    f"level {level} of {self.name}: shard {row, col} is missing or empty; publish it again"
                )
        try:
            return np.asarray(array[(slice(None), *box.slices)])
        except StoreError:
            raise
        except _DECODING_ERRORS as error:
            damaged = _first_damaged(array, box)
            raise CorruptChunk(
                f"level {level} of {self.name}: the chunk at {damaged} in shard "
                f"{damaged.top // rows, damaged.left // cols} is damaged ({error})"
            ) from error

    def check(self, level: int, index: Shard) -> None:
        """Decode a whole shard and raise what :meth:`read` raises."""
        self.read(level, self.shard_box(level, index))

    def _shards(self, level: int) -> tuple[int, ...]:
        return self.arrays[level].shards or self.arrays[level].chunks

    def _write(self, level: int, index: Shard, render: Callable[[Box], Pixels], before: Callable[[], None]) -> None:
        array, box = self.arrays[level], self.shard_box(level, index)
        shard = np.empty((array.shape[0], *box.shape), array.dtype)
        for part in _chunk_boxes(array, box):
            pixels = render(part)
            if pixels.shape != (array.shape[0], *part.shape) or pixels.dtype != array.dtype:
                raise InputError(
                    f"pixels of shape {pixels.shape}, {pixels.dtype}, were given for {part} of level {level}, "
                    f"which needs {(array.shape[0], *part.shape)}, {array.dtype}"
                )
            shard[(slice(None), *part.within(box))] = pixels
        before()
        try:
            # zarr reads an old shard before replacing it, and a damaged one would stop the very write that mends it.
            sync((array.store_path / array.metadata.encode_chunk_key((0, *index))).delete())
            array[(slice(None), *box.slices)] = shard
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"shard {index} of level {level} of {self.name} cannot be written: {error}") from error


def halve(pixels: Pixels, *, nodata: Pixel | None = None) -> Pixels:
    """The image (band, row, column) at half its size: means of 2 x 2 pixels, of fewer at an odd edge.

    Integer means are exact and rounded half to even, float means computed in float64. With ``nodata``
    only pixels that are not missing count; where there is none the result is missing, and nowhere
    else: a mean that happens to equal nodata in every band takes the next value.
    """
    whole = pixels.dtype.kind in "iu"
    bands, height, width = pixels.shape
    total = np.zeros((bands, -(-height // 2), -(-width // 2)), np.int64 if whole else np.float64)
    count = np.zeros(total.shape[1:], np.uint8)
    with np.errstate(invalid="ignore"):
        for top, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
            corner = pixels[:, top::2, left::2]
            part = (slice(corner.shape[1]), slice(corner.shape[2]))
            valid = np.ones(corner.shape[1:], bool) if nodata is None else ~is_nodata(corner, nodata)
            total[:, *part] += np.where(valid, corner, pixels.dtype.type(0))
            count[part] += valid
        mean = _rounded(total, np.maximum(count, 1)) if whole else total / np.maximum(count, 1)
    mean = mean.astype(pixels.dtype)
    if nodata is None:
        return mean
    if nodata == nodata:
        mean = np.where(is_nodata(mean, nodata), _beside(nodata), mean)
    return np.where(count == 0, nodata, mean)


def never_nodata(pixels: Pixels, nodata: Pixel | None) -> Pixels:
    """Restored pixels: whichever value happens to equal nodata takes the one beside it.

    Values one by one, as other programs may ask each band by itself whether a pixel is missing; here it
    is missing only where all bands say so.
    """
    if nodata is None or nodata != nodata:
        return pixels
    return np.where(pixels == nodata, _beside(nodata), pixels)


def _rounded(total: NDArray[np.int64], count: NDArray[np.uint8]) -> NDArray[np.int64]:
    """``total / count``, half to even, without leaving the integers."""
    floor, rest = np.divmod(total, count)
    twice = 2 * rest
    up: NDArray[np.bool_] = (twice > count) | ((twice == count) & (floor % 2 == 1))
    return np.add(floor, up, dtype=np.int64)


def _beside(nodata: Pixel) -> Pixel:
    """The value above nodata, or below where it is the largest."""
    if nodata.dtype.kind == "f":
        return np.nextafter(nodata, nodata.dtype.type(-inf if nodata > 0 else inf))
    one = nodata.dtype.type(1)
    return nodata - one if nodata == np.iinfo(nodata.dtype).max else nodata + one


def _create_level(group: zarr.Group, spec: PyramidSpec, level: int) -> _Array:
    return group.create_array(
        str(level),
        shape=spec.shape(level),
        dtype=spec.dtype,
        chunks=spec.chunks(level),
        shards=spec.shards(level),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=0 if spec.fill is None else spec.fill,
        dimension_names=("c", "y", "x"),
        attributes={} if spec.fill is None else {"nodata": plain(spec.fill)},
        config={"write_empty_chunks": True},
        overwrite=True,
    )


async def _size(path: StorePath) -> int:
    """Bytes stored under a path; 0 where there is nothing."""
    try:
        return await path.store.getsize(path.path)
    except FileNotFoundError:
        return 0


def _zarr(root: Located | Store) -> Store | StorePath:
    return root if isinstance(root, Store) else place(root).zarr()


def _name(root: Located | Store) -> str:
    return "the result" if isinstance(root, Store) else str(root)


def _indices(box: Box, rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """(row, column) of every cell of a grid of ``rows`` x ``cols`` pixels that holds a pixel of the box."""
    for row in range(box.top // rows, -(-box.bottom // rows)):
        for col in range(box.left // cols, -(-box.right // cols)):
            yield row, col


def _chunk_boxes(array: _Array, box: Box) -> Iterator[Box]:
    """The box cut along the array's chunks."""
    _, rows, cols = array.chunks
    for row, col in _indices(box, rows, cols):
        yield Box(row * rows, col * cols, (row + 1) * rows, (col + 1) * cols).intersect(box)


def _first_damaged(array: _Array, box: Box) -> Box:
    """The first chunk of a box that cannot be decoded, or all of it if it now can be."""
    for part in _chunk_boxes(array, box):
        try:
            array[(slice(None), *part.slices)]
        except _DECODING_ERRORS:
            return part
    return box

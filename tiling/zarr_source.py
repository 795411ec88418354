"""Zarr arrays (v3 and v2) and OME-Zarr groups (0.4 and 0.5) as images."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from .box import Box
from .cache import ChunkCache
from .decoding import check_decoded, opening
from .errors import InputError
from .georeference import nodata_value
from .place import Stored, place
from .windowed import Header, WindowedSource, reading_unit

_LETTERS = {"row": "y", "lat": "y", "latitude": "y", "column": "x", "col": "x", "lon": "x", "longitude": "x"}
_LETTERS |= {"band": "c", "bands": "c", "channel": "c", "channels": "c", "sample": "c"}
_METADATA_FILES = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
_MOST_UNNAMED_BANDS = 16


@dataclass(frozen=True)
class Axes:
    """Which axis of an array is which: positions of y, x and of the bands (None: one band)."""

    ndim: int
    y: int
    x: int
    c: int | None

    def index(self, box: Box) -> tuple[slice | int, ...]:
        """What to ask of the array for all bands of ``box``; other axes have length 1."""
        index: list[slice | int] = [0] * self.ndim
        index[self.y], index[self.x] = box.slices
        if self.c is not None:
            index[self.c] = slice(None)
        return tuple(index)

    def order(self, window: NDArray[Any]) -> NDArray[Any]:
        """The array that ``index`` gave, as (band, row, column)."""
        wanted = [axis for axis in (self.c, self.y, self.x) if axis is not None]
        kept = sorted(wanted)
        if kept != wanted:
            window = np.ascontiguousarray(window.transpose([kept.index(axis) for axis in wanted]))
        return window if self.c is not None else window[None]


class ZarrSource(WindowedSource):
    """One array in a Zarr hierarchy; a chunk that was never written reads as the fill value."""

    def __init__(
        self,
        header: Header,
        *,
        array: zarr.Array[Any],
        axes: Axes,
        opened_as: tuple[str, int | str | None],
        cache: ChunkCache | None = None,
    ) -> None:
        """Keep the array; ``opened_as`` is the (uri, level) that opens it again."""
        super().__init__(header, cache=cache)
        self._array = array
        self._axes = axes
        self._opened_as = opened_as

    def __reduce__(self) -> tuple[Any, ...]:
        uri, level = self._opened_as
        return partial(open_zarr, uri, level=level), ()

    def decode(self, box: Box) -> NDArray[Any]:
        """Read one unit through zarr."""
        window = np.asarray(self._array.get_basic_selection(self._axes.index(box)))
        return self._axes.order(window).astype(self.dtype, copy=False)

    def digest(self) -> str:
        """Hexadecimal blake2b over names and bytes of the stored chunks, and what gives them their meaning."""
        array = self._array
        meaning = (array.shape, array.chunks, array.dtype.str, repr(array.fill_value), self._axes)
        digest = hashlib.blake2b(repr(meaning).encode(), digest_size=32)
        for stored in _stored_chunks(self.uri):
            digest.update(f"\0{stored.name}\0{stored.size}\0".encode())
            for piece in stored.content():
                digest.update(piece)
        return digest.hexdigest()


def open_zarr(uri: str, *, level: int | str | None = None, cache: ChunkCache | None = None) -> ZarrSource:
    """Open an array, or one level (by default the finest) of an OME-Zarr group."""
    with opening(uri, "Zarr"):
        try:
            node = zarr.open(place(uri).zarr(), mode="r")
        except FileNotFoundError as error:
            raise InputError(f"{uri}: is a folder but no Zarr array or OME-Zarr group") from error
    if isinstance(node, zarr.Array):
        if level not in (None, 0, "0"):
            raise InputError(f"{uri}: is a single array and has no level {level}")
        found = _Found(uri, node, _names_of(node), _conventions(dict(node.attrs)))
    else:
        with opening(uri, "OME-Zarr group"):
            found = _ome_level(uri, node, level)
    return _source(found, opened_as=(uri, level), cache=cache)


@dataclass(frozen=True)
class _Found:
    """An array, the folder it lies in, the names of its axes (None: unnamed) and what is said about it."""

    uri: str
    array: zarr.Array[Any]
    names: list[str] | None
    metadata: dict[str, Any]


def _source(found: _Found, *, opened_as: tuple[str, int | str | None], cache: ChunkCache | None) -> ZarrSource:
    uri, array = found.uri, found.array
    if 0 in array.shape:
        raise InputError(f"{uri}: has shape {array.shape}, which holds no pixel")
    axes = _axes(found)
    bands = 1 if axes.c is None else array.shape[axes.c]
    height, width = array.shape[axes.y], array.shape[axes.x]
    chunk = (min(array.chunks[axes.y], height), min(array.chunks[axes.x], width))
    pixel = bands * array.dtype.itemsize
    check_decoded(uri, "chunk", max(math.prod(array.chunks) * array.dtype.itemsize, chunk[0] * chunk[1] * pixel))
    dtype = array.dtype.newbyteorder("=")
    unit = reading_unit(chunk, (height, width), pixel)
    nodata = _nodata(dict(array.attrs), dtype)
    header = Header(uri, bands, height, width, dtype, unit, nodata, found.metadata)
    return ZarrSource(header, array=array, axes=axes, opened_as=opened_as, cache=cache)


def _names_of(array: zarr.Array[Any]) -> list[str] | None:
    """The names of the axes: Zarr v3's own, or xarray's convention for v2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return None if names is None else [str(name) for name in cast("Iterable[object]", names)]


def _axes(found: _Found) -> Axes:
    """Which axis is which; an axis beyond y, x and the bands may only have length 1."""
    shape, uri = found.array.shape, found.uri
    letters = [_LETTERS.get(name.lower(), name.lower()) for name in found.names or ()]
    if not {"y", "x"} & set(letters):
        return _unnamed_axes(uri, shape)
    if len(letters) != len(shape) or letters.count("y") != 1 or letters.count("x") != 1 or letters.count("c") > 1:
        raise InputError(f"{uri}: axes {found.names} do not name one y and one x of shape {shape}")
    for letter, size in zip(letters, shape, strict=True):
        if letter not in ("c", "y", "x") and size > 1:
            raise InputError(
                f"{uri}: axis {letter} has length {size}; cut out one plane, only y, x and c may be longer"
            )
    return Axes(len(shape), letters.index("y"), letters.index("x"), letters.index("c") if "c" in letters else None)


def _unnamed_axes(uri: str, shape: tuple[int, ...]) -> Axes:
    if len(shape) == 2:
        return Axes(2, 0, 1, None)
    likely_bands_last = len(shape) == 3 and shape[0] > _MOST_UNNAMED_BANDS and shape[2] <= 4
    if len(shape) != 3 or likely_bands_last:
        raise InputError(
            f"{uri}: shape {shape} is neither (row, column) nor (band, row, column); "
            "name its axes with dimension_names, such as y, x, c"
        )
    return Axes(3, 1, 2, 0)


def _ome_level(uri: str, group: zarr.Group, level: int | str | None) -> _Found:
    """One dataset of the first multiscale image, with the axes and the pixel size that the group states."""
    attributes = dict(group.attrs)
    ome: Any = attributes.get("ome", attributes)
    if not ome.get("multiscales"):
        raise InputError(f"{uri}: is a Zarr group without multiscales; name one array in it, such as {_example(uri)}")
    image = ome["multiscales"][0]
    datasets = image["datasets"]
    paths = [str(dataset["path"]) for dataset in datasets]
    chosen = _level_index(uri, paths, level)
    array = group[paths[chosen]]
    if not isinstance(array, zarr.Array):
        raise InputError(f"{uri}: level {paths[chosen]} is no array")
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
    names = [str(axis["name"]) for axis in axes]
    metadata = _conventions(attributes if chosen == 0 else {}) | _conventions(dict(array.attrs))
    for transform in datasets[chosen].get("coordinateTransformations", ()):
        if transform["type"] == "scale":
            y, x = names.index("y"), names.index("x")
            unit = axes[x].get("unit", "pixel")
            metadata["pixel_size"] = {"y": transform["scale"][y], "x": transform["scale"][x], "unit": unit}
    labels = [channel.get("label") for channel in ome.get("omero", {}).get("channels", ())]
    if all(labels) and labels:
        metadata["bands"] = labels
    return _Found(str(place(uri) / paths[chosen]), array, names, metadata)


def _level_index(uri: str, paths: list[str], level: int | str | None) -> int:
    """Which dataset a level means: its path or its number, 0 being the finest."""
    if level is None:
        return 0
    if str(level) in paths:
        return paths.index(str(level))
    if str(level).isdigit() and int(level) < len(paths):
        return int(level)
    raise InputError(f"{uri}: has no level {level}; it has {', '.join(paths)}")


def _example(folder: str) -> str:
    """A node inside a group; looked up by its files, because zarr warns of whatever else lies there."""
    inside = place(folder).children()
    nodes = (str(node) for node in inside if _METADATA_FILES & {found.name for found in node.children()})
    return next(nodes, str(place(folder) / "NAME"))


def _conventions(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The georeference that the zarr conventions ``spatial`` and ``proj`` state."""
    found = {"transform": attributes.get("spatial:transform"), "crs": attributes.get("proj:code")}
    return {key: value for key, value in found.items() if value is not None}


def _nodata(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> float | None:
    stated = attributes.get("nodata", attributes.get("_FillValue"))
    if isinstance(stated, str) and stated.endswith("="):
        # xarray stores a floating fill value in Zarr v3 as base64 of a little-endian double
        stated = float(np.frombuffer(base64.b64decode(stated), "<f8")[0])
    return nodata_value(stated, dtype)


def _stored_chunks(folder: str) -> Iterator[Stored]:
    """The files of an array that hold pixels, in a fixed order; not metadata, not leftovers of unfinished writes."""
    for stored in place(folder).files():
        name = stored.name.rpartition("/")[2]
        if name not in _METADATA_FILES and not name.endswith(".partial"):
            yield stored

"""TIFF, BigTIFF, OME-TIFF, GeoTIFF and SVS-like pyramids as images, tile by tile and strip by strip.

tifffile parses the file and gives the decoder; the bytes of one segment are read here, so that a
damaged segment is named, nothing but the wanted segments is touched, and no file stays open.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import FileIO
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from .box import Box
from .cache import ChunkCache
from .decoding import check_decoded, opening
from .errors import InputError
from .georeference import GDAL_NODATA, GEOTIFF_TAGS, georeference, nodata_value, scaled
from .windowed import Header, WindowedSource, file_digest, reading_unit

_JPEG = frozenset({6, 7, 34892, 33007})
_END_OF_JPEG = b"\xff\xd9"
_ICC_PROFILE, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 34675, 282, 283, 296
_MICROMETRES = {2: 25400.0, 3: 10000.0}
_BAND_AXES = "SCQ"
_ROW_PIECE = 512


class Layout(Protocol):
    """How the pixels of one level lie in the file."""

    def fill(self, out: NDArray[Any], box: Box, file: FileIO) -> None:
        """Write the pixels of ``box`` to ``out`` (band, row, column)."""


@dataclass(frozen=True)
class Rows:
    """Uncompressed pixels in one run: any window is read row by row, without decoding the rest.

    ``strides`` of (band, row, column) are in samples; ``dtype`` has the file's byte order.
    """

    offset: int
    dtype: np.dtype[Any]
    strides: tuple[int, int, int]

    def fill(self, out: NDArray[Any], box: Box, file: FileIO) -> None:
        """Write the pixels of ``box`` to ``out`` (band, row, column)."""
        band_stride, row_stride, column_stride = self.strides
        bands, height, width = out.shape
        interleaved = column_stride > 1
        for plane in range(1 if interleaved else bands):
            for row in range(height):
                start = (box.top + row) * row_stride + box.left * column_stride + plane * band_stride
                raw = _read(
                    file, self.offset + start * self.dtype.itemsize, width * column_stride * self.dtype.itemsize
                )
                samples = np.frombuffer(raw, self.dtype)
                if interleaved:
                    out[:, row] = samples.reshape(width, bands).T
                else:
                    out[plane, row] = samples


@dataclass(frozen=True)
class Plane:
    """Where one or all bands come from: the page's segments, and which of them is the first."""

    bands: slice
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    first: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Segments:
    """Tiles or strips of ``size`` (rows, columns), decoded one at a time.

    A segment that was never written (GDAL's sparse files) reads as ``missing``.
    """

    planes: tuple[Plane, ...]
    size: tuple[int, int]
    across: int
    image: Box
    decoder: Callable[..., tuple[NDArray[Any] | None, Any, Any]]
    jpeg: bool
    missing: float

    def fill(self, out: NDArray[Any], box: Box, file: FileIO) -> None:
        """Write the pixels of ``box`` to ``out`` (band, row, column)."""
        height, width = self.size
        for row in range(box.top // height, -(-box.bottom // height)):
            for col in range(box.left // width, -(-box.right // width)):
                segment = Box(row * height, col * width, (row + 1) * height, (col + 1) * width)
                wanted = segment.intersect(box)
                for plane in self.planes:
                    pixels = self._pixels(plane, row * self.across + col, wanted.within(segment), file)
                    out[plane.bands, *wanted.within(box)] = pixels

    def _pixels(self, plane: Plane, segment: int, part: tuple[slice, slice], file: FileIO) -> NDArray[Any] | float:
        index = plane.first + segment
        offset, length = int(plane.offsets[index]), int(plane.lengths[index])
        if offset == 0 or length == 0:
            return self.missing
        raw = _read(file, offset, length)
        if self.jpeg and "jpegheader" not in plane.options and _END_OF_JPEG not in raw:
            # libjpeg draws the missing rest of a cut picture in grey, without an error
            raise ValueError(f"the JPEG of segment {index} ends early")
        data = self.decoder(raw, index, **plane.options)[0]
        if data is None or data.shape[1] < part[0].stop or data.shape[2] < part[1].stop:
            raise ValueError(f"segment {index} decodes to less than its size")
        pixels: NDArray[Any] = data[0][part].transpose(2, 0, 1)
        return pixels


class TiffSource(WindowedSource):
    """One level of the first image of a TIFF file."""

    def __init__(self, header: Header, *, layout: Layout, level: int, cache: ChunkCache | None = None) -> None:
        """Keep the header and the layout; the file is opened for each unit, so none stays open."""
        super().__init__(header, cache=cache)
        self._layout = layout
        self._level = level

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(open_tiff, self.uri, level=self._level), ()

    def decode(self, box: Box) -> NDArray[Any]:
        """Decode the segments of one unit."""
        out = np.empty((self.bands, *box.shape), self.dtype)
        with open(self.uri, "rb", buffering=0) as file:
            self._layout.fill(out, box, file)
        return out

    def digest(self) -> str:
        """Hexadecimal blake2b over the whole file and the level's number."""
        return file_digest(self.uri, salt=f"level {self._level}")


def open_tiff(uri: str, *, level: int | str | None = None, cache: ChunkCache | None = None) -> TiffSource:
    """Open one level (0, the finest, by default) of the first image in a file."""
    with opening(uri, "TIFF"), tifffile.TiffFile(uri) as file:
        levels = file.series[0].levels
        number = 0 if level is None else int(level) if str(level).isdigit() else -1
        if not 0 <= number < len(levels):
            raise InputError(f"{uri}: has no level {level}; it has 0 to {len(levels) - 1}")
        series = levels[number]
        header, layout = _describe(uri, series, _metadata(file, number))
    return TiffSource(header, layout=layout, level=number, cache=cache)


def _describe(uri: str, series: tifffile.TiffPageSeries, metadata: dict[str, Any]) -> tuple[Header, Layout]:
    page = series.keyframe
    _check_meaning(uri, series, page)
    bands = _bands(uri, series)
    height, width = page.imagelength, page.imagewidth
    dtype = np.dtype(series.dtype).newbyteorder("=")
    nodata = nodata_value(page.tags.valueof(GDAL_NODATA), dtype)
    layout: Layout
    if series.dataoffset is not None:
        layout = _rows(uri, series)
        unit = reading_unit((1, min(_ROW_PIECE, width)), (height, width), bands * dtype.itemsize)
    else:
        layout = _segments(uri, series, bands, nodata)
        stored = (min(layout.size[0], height), min(layout.size[1], width))
        kind = "tile" if page.is_tiled else "strip"
        check_decoded(uri, f"{kind} of all bands", stored[0] * stored[1] * bands * dtype.itemsize)
        unit = reading_unit(stored, (height, width), bands * dtype.itemsize)
    return Header(uri, bands, height, width, dtype, unit, nodata, metadata), layout


def _check_meaning(uri: str, series: tifffile.TiffPageSeries, page: tifffile.TiffPage) -> None:
    """Refuse pixels that are not plain intensities: what is stored would not be what is seen."""
    photometric = tifffile.PHOTOMETRIC
    plain = {photometric.MINISBLACK, photometric.RGB, photometric.MASK}
    if page.compression in _JPEG:
        plain.add(photometric.YCBCR)
    if page.photometric not in plain:
        name = getattr(page.photometric, "name", page.photometric)
        raise InputError(f"{uri}: stores colours as {name}; save it as RGB or as grey with black = 0")
    if page.compression != 1 and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise InputError(f"{uri}: is compressed with {page.compression!r}, which cannot be read; save it with deflate")
    if series.is_multifile or any(part is None for part in series.pages):
        raise InputError(f"{uri}: keeps its bands in several files or lacks some; save them in one file")
    if series.transform is not None or page.imagedepth != 1:
        raise InputError(f"{uri}: is a volume or a gel scan; save its pixels as a plain two-dimensional TIFF")


def _bands(uri: str, series: tifffile.TiffPageSeries) -> int:
    """How many bands the axes name; any other axis beyond y and x may only have length 1."""
    sizes = [(axis, size) for axis, size in zip(series.get_axes(False), series.get_shape(False), strict=True)]
    longer = [(axis, size) for axis, size in sizes if axis not in "YX" and size > 1]
    for axis, size in longer:
        if axis not in _BAND_AXES:
            raise InputError(
                f"{uri}: axis {axis} has length {size}; cut out one plane, only y, x and bands may be longer"
            )
    if len(longer) > 1:
        raise InputError(f"{uri}: has several axes that could be bands, {longer}; keep one")
    return longer[0][1] if longer else 1


def _rows(uri: str, series: tifffile.TiffPageSeries) -> Rows:
    axes, shape = series.get_axes(False), series.get_shape(False)
    dtype = np.dtype(series.dtype).newbyteorder(series.keyframe.parent.byteorder)
    offset = series.dataoffset or 0
    _check_length(uri, offset + math.prod(shape) * dtype.itemsize)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    band = next((strides[i] for i, size in enumerate(shape) if axes[i] not in "YX" and size > 1), 0)
    return Rows(offset, dtype, (band, strides[axes.index("Y")], strides[axes.index("X")]))


def _segments(uri: str, series: tifffile.TiffPageSeries, bands: int, nodata: float | None) -> Segments:
    page = series.keyframe
    height, width = page.imagelength, page.imagewidth
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    across, down = -(-width // tile[1]), -(-height // tile[0])
    pages = [part for part in series.pages if part is not None]
    separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
    if len(pages) > 1:
        planes = [_plane(part, slice(band, band + 1), 0) for band, part in enumerate(pages)]
    elif separate:
        planes = [_plane(page, slice(band, band + 1), band * across * down) for band in range(bands)]
    else:
        planes = [_plane(page, slice(0, bands), 0)]
    for plane in planes:
        _check_length(uri, int((plane.offsets + plane.lengths).max(initial=0)))
    return Segments(
        tuple(planes),
        tile,
        across,
        Box(0, 0, height, width),
        page.decode,
        page.compression in _JPEG,
        0 if nodata is None else nodata,
    )


def _plane(page: tifffile.TiffPage | tifffile.TiffFrame, bands: slice, first: int) -> Plane:
    options = {} if page.jpegtables is None else {"jpegtables": page.jpegtables}
    keyframe = page.keyframe
    if keyframe is not None and keyframe.jpegheader is not None:
        options["jpegheader"] = keyframe.jpegheader
    offsets, lengths = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
    return Plane(bands, offsets, lengths, first, options)


def _check_length(uri: str, end: int) -> None:
    size = os.path.getsize(uri)
    if end > size:
        raise InputError(f"{uri}: is cut short, its pixels should end at byte {end} but it has {size}; copy it again")


def _read(file: FileIO, offset: int, length: int) -> bytes:
    """Exactly ``length`` bytes; a raw read may return fewer at a time."""
    file.seek(offset)
    raw = file.read(length)
    while raw is not None and len(raw) < length:
        more = file.read(length - len(raw))
        if not more:
            raise EOFError(f"the file ends {length - len(raw)} bytes early")
        raw += more
    return raw


def _metadata(file: tifffile.TiffFile, level: int) -> dict[str, Any]:
    """What the file says about the image, for the pixels of ``level``."""
    series = file.series[0]
    page = series.keyframe
    tags = {code: page.tags.valueof(code) for code in GEOTIFF_TAGS if code in page.tags}
    metadata: dict[str, Any] = {"axes": series.axes, **georeference(tags)}
    if profile := page.tags.valueof(_ICC_PROFILE):
        metadata["icc_profile"] = base64.b64encode(bytes(profile)).decode()
    metadata.update(_physical(page))
    if file.is_ome and file.ome_metadata:
        metadata.update(_ome(file.ome_metadata))
    if file.is_svs:
        slide = tifffile.tifffile.svs_description_metadata(page.description)
        found = {"mpp": slide.get("MPP"), "objective": slide.get("AppMag")}
        metadata.update({key: value for key, value in found.items() if value is not None})
    if level == 0:
        return metadata
    # Pyramids halve and round down; the true ratio is the whole number nearby.
    return scaled(metadata, 1 / round(page.imagewidth / series.levels[level].keyframe.imagewidth))


def _physical(page: tifffile.TiffPage) -> dict[str, Any]:
    """The pixel size that the resolution tags state, where their unit is a length."""
    unit = _MICROMETRES.get(int(page.tags.valueof(_RESOLUTION_UNIT) or 0))
    x, y = page.tags.valueof(_X_RESOLUTION), page.tags.valueof(_Y_RESOLUTION)
    if unit is None or not x or not y or 0 in (*x, *y):
        return {}
    return {"pixel_size": {"y": unit * y[1] / y[0], "x": unit * x[1] / x[0], "unit": "micrometer"}}


def _ome(xml: str) -> dict[str, Any]:
    """Pixel size and channel names of the first image of OME-XML."""
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    if pixels is None:
        return {}
    found: dict[str, Any] = {}
    x, y = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")
    if x and y:
        found["pixel_size"] = {"y": float(y), "x": float(x), "unit": pixels.get("PhysicalSizeXUnit", "µm")}
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    return found | ({"bands": names} if names and all(names) else {})

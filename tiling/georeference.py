"""Where the pixels lie on Earth: GeoTIFF tags kept as they are, and what they say in plain numbers.

``metadata`` dictionaries hold JSON values only: ``geotiff_tags`` {code: value}, ``transform`` (6 numbers in
rasterio's order: x = a col + b row + c, y = d col + e row + f, of pixel corners), ``crs`` ("EPSG:n"),
``pixel_size`` {y, x, unit}, ``mpp`` (micrometres per pixel).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PIXEL_SCALE, TIEPOINTS, TRANSFORMATION = 33550, 33922, 34264
KEY_DIRECTORY, GDAL_METADATA, GDAL_NODATA = 34735, 42112, 42113
GEOTIFF_TAGS = (PIXEL_SCALE, TIEPOINTS, TRANSFORMATION, KEY_DIRECTORY, 34736, 34737, GDAL_METADATA, GDAL_NODATA)
"""The tags that carry a georeference; copied verbatim they georeference an image on the same grid."""

_RASTER_TYPE_KEY, _GEOGRAPHIC_KEY, _PROJECTED_KEY = 1025, 2048, 3072
_PIXEL_IS_POINT, _USER_DEFINED = 2, 32767


def georeference(tags: Mapping[int, Any]) -> dict[str, Any]:
    """The metadata that a TIFF page's tags (code to value) hold; empty where there is no georeference."""
    kept = {str(code): _plain(tags[code]) for code in GEOTIFF_TAGS if code in tags}
    if not kept:
        return {}
    metadata: dict[str, Any] = {"geotiff_tags": kept}
    transform = _transform(kept)
    if transform is not None:
        metadata["transform"] = transform
    keys = _geo_keys(kept)
    code = keys.get(_PROJECTED_KEY) or keys.get(_GEOGRAPHIC_KEY)
    if code is not None and code != _USER_DEFINED:
        metadata["crs"] = f"EPSG:{code}"
    return metadata


def whereabouts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What metadata says of where the pixels lie, without all that it says of their values."""
    found = {name: metadata[name] for name in ("transform", "crs", "pixel_size", "mpp") if name in metadata}
    of_values = {str(GDAL_METADATA), str(GDAL_NODATA)}
    tags = {code: value for code, value in metadata.get("geotiff_tags", {}).items() if code not in of_values}
    return {**found, "geotiff_tags": tags} if tags else found


def nodata_value(stated: object, dtype: np.dtype[Any]) -> float | None:
    """The nodata value that a file states (number or text), or None where no pixel of ``dtype`` can have it."""
    if stated is None:
        return None
    try:
        value = float(str(stated).strip().rstrip("\0"))
    except ValueError:
        return None
    if dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return value if value.is_integer() and limits.min <= value <= limits.max else None


def scaled(metadata: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The metadata of the same scene on a grid ``factor`` times finer (x4 super-resolution: 4)."""
    result = dict(metadata)
    if "geotiff_tags" in metadata:
        result["geotiff_tags"] = _scaled_tags(metadata["geotiff_tags"], factor)
    if "transform" in metadata:
        a, b, c, d, e, f = metadata["transform"]
        result["transform"] = [a / factor, b / factor, c, d / factor, e / factor, f]
    if "pixel_size" in metadata:
        size = metadata["pixel_size"]
        result["pixel_size"] = {**size, "y": size["y"] / factor, "x": size["x"] / factor}
    if "mpp" in metadata:
        result["mpp"] = metadata["mpp"] / factor
    return result


def shifted(metadata: Mapping[str, Any], rows: int, columns: int) -> dict[str, Any]:
    """The metadata of the same scene on a grid that begins so many pixels further up and further left."""
    result = dict(metadata)
    if "geotiff_tags" in metadata:
        result["geotiff_tags"] = _shifted_tags(metadata["geotiff_tags"], rows, columns)
    if "transform" in metadata:
        a, b, c, d, e, f = metadata["transform"]
        result["transform"] = [a, b, c - a * columns - b * rows, d, e, f - d * columns - e * rows]
    return result


def _shifted_tags(tags: Mapping[str, Any], rows: int, columns: int) -> dict[str, Any]:
    """Tiepoints follow their pixels, (column, row) of each; a matrix is told of the pixels as they were."""
    result = dict(tags)
    if points := tags.get(str(TIEPOINTS)):
        moved = (columns, rows, 0, 0, 0, 0)
        result[str(TIEPOINTS)] = [value + moved[index % 6] for index, value in enumerate(points)]
    if matrix := tags.get(str(TRANSFORMATION)):
        lines = [matrix[start : start + 4] for start in range(0, 16, 4)]
        result[str(TRANSFORMATION)] = [value for a, b, c, d in lines for value in (a, b, c, d - a * columns - b * rows)]
    return result


def _scaled_tags(tags: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Divide the pixel scale; raster positions follow the pixels.

    Where a pixel is a point, position i is the centre of pixel i, so it moves to (i + 1/2) factor - 1/2.
    """
    result = dict(tags)
    half = 0.5 if _is_point(tags) else 0.0
    if scale := tags.get(str(PIXEL_SCALE)):
        result[str(PIXEL_SCALE)] = [scale[0] / factor, scale[1] / factor, *scale[2:]]
    if points := tags.get(str(TIEPOINTS)):
        moved = [(value + half) * factor - half if index % 6 < 2 else value for index, value in enumerate(points)]
        result[str(TIEPOINTS)] = moved
    if matrix := tags.get(str(TRANSFORMATION)):
        offset = half / factor - half
        rows = [matrix[start : start + 4] for start in range(0, 16, 4)]
        result[str(TRANSFORMATION)] = [
            value for a, b, c, d in rows for value in (a / factor, b / factor, c, d + (a + b) * offset)
        ]
    return result


def _transform(tags: Mapping[str, Any]) -> list[float] | None:
    """Rasterio's six numbers for pixel corners, from the matrix or from the scale and the first tiepoint."""
    matrix = tags.get(str(TRANSFORMATION))
    scale, points = tags.get(str(PIXEL_SCALE)), tags.get(str(TIEPOINTS))
    if matrix and len(matrix) == 16:
        a, b, c, d, e, f = matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
    elif scale and points and len(points) >= 6:
        a, b, d, e = scale[0], 0.0, 0.0, -scale[1]
        c, f = points[3] - points[0] * a, points[4] - points[1] * e
    else:
        return None
    if _is_point(tags):
        c, f = c - (a + b) / 2, f - (d + e) / 2
    return [float(value) for value in (a, b, c, d, e, f)]


def _is_point(tags: Mapping[str, Any]) -> bool:
    return _geo_keys(tags).get(_RASTER_TYPE_KEY) == _PIXEL_IS_POINT


def _geo_keys(tags: Mapping[str, Any]) -> dict[int, int]:
    """The GeoKeys whose value stands in the directory itself: 4 numbers a key (id, place, count, value)."""
    directory: Sequence[int] = tags.get(str(KEY_DIRECTORY), ())
    entries = (directory[start : start + 4] for start in range(4, len(directory) - 3, 4))
    return {key: value for key, place, _, value in entries if place == 0}


def _plain(value: object) -> str | list[Any]:
    """A tag's value as JSON holds it."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    numbers: list[Any] = np.atleast_1d(np.asarray(value)).tolist()
    return numbers

"""What is said about a published image: OME-Zarr 0.5, georeference and provenance, as group attributes.

OME-Zarr knows neither a north-up image (its scale must be positive) nor a provenance. So the
georeference stands beside it in the ``proj:``, ``spatial:`` and ``multiscales`` conventions of zarr,
and everything else under ``tileloom``, the source's raw tags word for word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import hypot, isfinite
from typing import Any

import numpy as np

from .errors import InputError

Affine = tuple[float, float, float, float, float, float]

_UNITS = {
    "angstrom": ("å", "angstroms"),
    "nanometer": ("nm", "nanometre", "nanometers", "nanometres"),
    "micrometer": ("um", "µm", "μm", "micron", "microns", "micrometre", "micrometers", "micrometres"),
    "millimeter": ("mm", "millimetre", "millimeters", "millimetres"),
    "centimeter": ("cm", "centimetre", "centimeters", "centimetres"),
    "meter": ("m", "metre", "meters", "metres"),
    "kilometer": ("km", "kilometre", "kilometers", "kilometres"),
    "inch": ("in", "inches"),
    "foot": ("ft", "feet"),
}
_OME_UNIT = {name: unit for unit, spellings in _UNITS.items() for name in (unit, *spellings)}

_CONVENTIONS = {
    "proj:": ("geo-proj", "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system of geospatial data"),
    "spatial:": ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinates of array indices"),
    "multiscales": ("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Layout of the resolution levels"),
}


@dataclass(frozen=True)
class Provenance:
    """How a result came to be; it always says that pixels were invented.

    ``counts`` holds pixels and tiles by name (restored, kept, degraded, ...); ``generated``: all of them were.
    """

    version: str
    source: str
    source_digest: str
    job: Mapping[str, Any]
    model: str
    seeds: Sequence[int]
    counts: Mapping[str, int] = field(default_factory=dict)
    generated: bool = False


@dataclass(frozen=True)
class Description:
    """What a source tells about its image, and what was done to it.

    ``pixel_size`` is (rows, columns) in ``unit``; ``transform`` takes (column, row) of level 0 to
    coordinates, six numbers in rasterio's order; ``crs`` is an authority's code ("EPSG:32633") or WKT2.
    ``limits`` are the values to show as black and white, needed for float pixels only.
    """

    name: str
    provenance: Provenance
    pixel_size: tuple[float, float] | None = None
    unit: str | None = None
    band_names: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None
    transform: Affine | None = None
    crs: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)


def describe(
    description: Description, shapes: Sequence[tuple[int, int, int]], *, dtype: str, nodata: float | None = None
) -> dict[str, Any]:
    """The attributes of the group whose arrays "0", "1", ... have these (bands, rows, columns)."""
    bands = shapes[0][0]
    names = description.band_names or tuple(f"band {band + 1}" for band in range(bands))
    if len(names) != bands:
        raise InputError(f"{len(names)} band names were given for an image of {bands} bands")
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [_multiscale(description, levels=len(shapes))]}
    limits = description.limits or _range(dtype)
    if limits:
        ome["omero"] = {"channels": [_channel(name, band, limits, bands=bands) for band, name in enumerate(names)]}
    own = {
        "synthetic": True,
        "provenance": asdict(description.provenance) | {"synthetic": True},
        "bands": names,
        "dtype": dtype,
        "nodata": nodata,
        "unit": description.unit,
        "tags": description.tags,
    }
    attributes: dict[str, Any] = plain({"ome": ome, **_georeference(description, shapes), "tileloom": own})
    return attributes


def plain(value: Any) -> Any:  # noqa: ANN401
    """The value as strict JSON: numpy and tuples unpacked, bytes as hex, NaN and infinities as zarr spells them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _multiscale(description: Description, *, levels: int) -> dict[str, Any]:
    """The OME image: a pixel of level k has its centre among those of the 2^k x 2^k it is the mean of."""
    rows, cols = _pixel_size(description)
    unit = _OME_UNIT.get((description.unit or "").strip().lower()) if description.pixel_size else None
    space = {"type": "space"} | ({"unit": unit} if unit else {})
    datasets = []
    for level in range(levels):
        factor, shift = 2.0**level, (2.0**level - 1) / 2
        transformations = [
            {"type": "scale", "scale": [1.0, rows * factor, cols * factor]},
            {"type": "translation", "translation": [0.0, rows * shift, cols * shift]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return {
        "name": description.name,
        "axes": [{"name": "c", "type": "channel"}, {"name": "y", **space}, {"name": "x", **space}],
        "datasets": datasets,
        "type": "mean",
    }


def _pixel_size(description: Description) -> tuple[float, float]:
    """(rows, columns) a pixel, positive; 1 where nothing is known."""
    if description.pixel_size:
        rows, cols = description.pixel_size
    elif description.transform:
        a, b, _, d, e, _ = description.transform
        rows, cols = hypot(b, e), hypot(a, d)
    else:
        rows, cols = 1.0, 1.0
    if not (isfinite(rows) and isfinite(cols) and rows > 0 and cols > 0):
        raise InputError(f"a pixel of {rows} x {cols} is no pixel: its sizes must be positive numbers")
    return rows, cols


def _range(dtype: str) -> tuple[float, float] | None:
    """The values an integer pixel can have."""
    if np.dtype(dtype).kind == "f":
        return None
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def _channel(name: str, band: int, limits: tuple[float, float], *, bands: int) -> dict[str, Any]:
    """How a viewer shows a band at first: three or more as red, green and blue, fewer as grey."""
    colors = ("FF0000", "00FF00", "0000FF") if bands >= 3 else ("FFFFFF",)
    low, high = limits
    return {
        "label": name,
        "color": colors[band] if band < len(colors) else "FFFFFF",
        "active": band < len(colors),
        "window": {"min": low, "max": high, "start": low, "end": high},
    }


def _georeference(description: Description, shapes: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """The zarr conventions: all levels share the corner, a pixel of level k is 2^k pixels wide."""
    attributes: dict[str, Any] = {}
    if description.crs:
        authority, _, code = description.crs.partition(":")
        is_code = code.isdigit() and authority.replace("_", "").isalnum() and authority.isupper()
        attributes["proj:code" if is_code else "proj:wkt2"] = description.crs
    if description.transform:
        layout: list[dict[str, Any]] = []
        for level, (_, height, width) in enumerate(shapes):
            a, b, c, d, e, f = description.transform
            factor = 2**level
            step: dict[str, Any] = {"asset": str(level)}
            if level:
                step |= {"derived_from": str(level - 1), "transform": {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}}
            step["spatial:shape"] = [height, width]
            step["spatial:transform"] = [a * factor, b * factor, c, d * factor, e * factor, f]
            layout.append(step)
        attributes["spatial:dimensions"] = ["y", "x"]
        attributes["spatial:bbox"] = _bounds(description.transform, height=shapes[0][1], width=shapes[0][2])
        attributes["spatial:registration"] = "pixel"
        attributes["multiscales"] = {"layout": layout, "resampling_method": "average"}
    used = [name for name in _CONVENTIONS if any(key.startswith(name) for key in attributes)]
    return {"zarr_conventions": [_convention(name) for name in used], **attributes} if used else {}


def _bounds(transform: Affine, *, height: int, width: int) -> list[float]:
    """[xmin, ymin, xmax, ymax] of the image's corners."""
    a, b, c, d, e, f = transform
    corners = [(col, row) for row in (0, height) for col in (0, width)]
    xs = [a * col + b * row + c for col, row in corners]
    ys = [d * col + e * row + f for col, row in corners]
    return [min(xs), min(ys), max(xs), max(ys)]


def _convention(name: str) -> dict[str, str]:
    repository, uuid, description = _CONVENTIONS[name]
    return {
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{repository}/refs/tags/v1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{repository}/blob/v1/README.md",
        "uuid": uuid,
        "name": name,
        "description": description,
    }

"""Writing a scene window by window, as an image that every other command opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from ..errors import InputError
from ..inputs import boxes
from ..place import Located, Place, place
from .land import Use
from .scene import BANDS, Cover, Terra

CHUNK = 256
"""Pixels a side of a chunk: a crop for training reads few of them."""

_WINDOW = 2 * CHUNK
_AXES = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]


def write_scene(
    terra: Terra, target: Located, size: tuple[int, int], *, cover: Cover | None, advance: Callable[[int], None]
) -> None:
    """Write ``size`` (rows, columns) of a scene as a Zarr group; ``advance`` is told of pixels that are written.

    ``scene`` is the picture, by which the group itself opens, and ``labels`` the classes, a band of :class:`Use`;
    with a cover, ``covered`` is the picture with what hides it and ``mask`` where that is. What makes it a group
    is written last.
    """
    where = place(target)
    if where.exists():
        raise InputError(f"{where} exists: choose another name, or remove it first")
    dtypes = {"scene": terra.dtype, "labels": "uint8"}
    if cover is not None:
        dtypes |= {"covered": terra.dtype, "mask": "uint8"}
    try:
        arrays = {name: _array(where / name, dtype, terra, size) for name, dtype in dtypes.items()}
        for box in boxes(*size, _WINDOW):
            picture, labels = terra.look(box)
            parts = {"scene": picture, "labels": labels[None]}
            if cover is not None:
                hidden, mask = cover.hide(picture, box)
                parts |= {"covered": hidden, "mask": mask[None].astype(np.uint8)}
            for name, part in parts.items():
                arrays[name][:, *box.slices] = part
            advance(box.area)
        zarr.create_group(where.zarr(), attributes=_attributes(terra, cover))
    except BaseException:
        where.remove()
        raise


def _array(where: Place, dtype: str, terra: Terra, size: tuple[int, int]) -> zarr.Array[Any]:
    bands = terra.bands if where.name in ("scene", "covered") else 1
    return zarr.create_array(
        where.zarr(),
        shape=(bands, *size),
        chunks=(bands, min(CHUNK, size[0]), min(CHUNK, size[1])),
        dtype=dtype,
        dimension_names=("c", "y", "x"),
        serializer=BytesCodec(),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
    )


def _attributes(terra: Terra, cover: Cover | None) -> dict[str, object]:
    """An OME image of one level, and what drew it."""
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    image = {"axes": _AXES, "datasets": [{"path": "scene", "coordinateTransformations": scale}]}
    channels = [{"label": name} for name in BANDS[terra.bands]]
    return {
        "ome": {"version": "0.5", "multiscales": [image], "omero": {"channels": channels}},
        "tileloom": {
            "terra": asdict(terra),
            "cover": None if cover is None else asdict(cover),
            "classes": {use.name.lower(): use.value for use in Use},
        },
    }

"""A lazy view of a published result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from .box import Box
from .errors import InputError
from .place import Located
from .pyramid import Pyramid


@dataclass(frozen=True)
class _Level:
    """One level of a pyramid as dask sees a source."""

    pyramid: Pyramid
    level: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ndim: int = 3


def open_result(path: Located, level: int = 0) -> da.Array:
    """The pixels of a result as a lazy dask array, axes (band, row, column).

    ``level`` 0 is the image itself, each further one half its size. A chunk of the array is a chunk
    of the result, so computing a part decodes nothing else; a damaged or missing part raises
    :class:`CorruptChunk` instead of reading as empty.
    """
    pyramid = Pyramid.open(path, mode="r")
    if not 0 <= level < len(pyramid.arrays):
        raise InputError(f"{path} has levels 0 to {len(pyramid.arrays) - 1}, no level {level}")
    array = pyramid.arrays[level]
    source = _Level(pyramid, level, array.shape, array.dtype)
    view: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        source,
        chunks=array.chunks,
        # A name made from the contents would read them; one made from the path would outlive a new result there.
        name=False,
        getitem=_read,
        asarray=False,
        meta=np.empty((0, 0, 0), array.dtype),
    )
    return view


def _read(source: _Level, where: tuple[slice, slice, slice]) -> NDArray[Any]:
    _, rows, cols = where
    return source.pyramid.read(source.level, Box(rows.start, cols.start, rows.stop, cols.stop))

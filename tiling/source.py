"""Images of every accepted kind, opened for reading by window."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol, Self

import dask.array
import numpy as np
from numpy.typing import NDArray

from .blank_source import BlankSource, is_blank
from .box import Box
from .cache import ChunkCache
from .dask_source import DaskSource
from .decoding import opening
from .errors import InputError
from .picture_source import JPEG_SIGNATURE, PNG_SIGNATURE, open_picture
from .place import Folder, place
from .tiff_source import open_tiff
from .zarr_source import open_zarr

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IMAGE_DTYPES = ("uint8", "uint16", "float32")


class Source(Protocol):
    """An image opened for reading by window; axes (band, row, column), native dtype.

    ``uri`` is the file, the array's folder or the name of the dask array; ``nodata`` the value of samples
    that hold no data; ``chunk`` the (rows, columns) decoded at once; ``metadata`` holds JSON values: see
    ``georeference`` for its keys, and ``icc_profile`` (base64), ``bands`` (names), ``objective``, ``axes``.
    Sources of files pickle by opening their file again, with a cache of their own.
    """

    uri: str
    bands: int
    height: int
    width: int
    dtype: np.dtype[Any]
    nodata: float | None
    metadata: dict[str, Any]
    chunk: tuple[int, int]

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of ``box``, which lies inside the image, as (band, row, column), read-only."""

    def digest(self) -> str:
        """Hexadecimal digest of the stored bytes."""


@dataclass(frozen=True)
class SourceFacts:
    """What stays to be known of an image once it is closed: see :class:`Source`."""

    bands: int
    height: int
    width: int
    metadata: dict[str, Any]

    @classmethod
    def of(cls, source: Source) -> Self:
        """The facts of an opened image."""
        return cls(source.bands, source.height, source.width, source.metadata)


class MaskSource:
    """A mask of one band: True where pixels are to be restored, that is where the file is not 0."""

    def __init__(self, stored: Source) -> None:
        """Read an image of one band as a mask."""
        self._stored = stored
        self.uri = stored.uri
        self.bands = 1
        self.height = stored.height
        self.width = stored.width
        self.dtype = np.dtype(np.bool_)
        self.nodata: float | None = None
        self.metadata = stored.metadata
        self.chunk = stored.chunk

    def read(self, box: Box) -> NDArray[Any]:
        """The mask in ``box`` as (1, row, column) of bool."""
        return np.asarray(self._stored.read(box) != 0, np.bool_)

    def digest(self) -> str:
        """Hexadecimal digest of the stored bytes."""
        return self._stored.digest()


def open_source(
    uri: str | os.PathLike[str] | dask.array.Array, *, cache: ChunkCache | None = None, level: int | str | None = None
) -> Source:
    """Open an image of uint8, uint16 or float32.

    ``uri`` is a path, a URL, the name of a blank image or a dask array, ``level`` the number (0 is the finest) or the
    name of a pyramid's level; without ``cache`` the source keeps a small cache of its own.
    """
    source = _open(uri, cache=cache, level=level)
    if source.dtype.name not in _IMAGE_DTYPES:
        raise InputError(f"{source.uri}: has dtype {source.dtype}; convert it to one of {', '.join(_IMAGE_DTYPES)}")
    return source


def open_mask(
    uri: str | os.PathLike[str] | dask.array.Array, *, cache: ChunkCache | None = None, level: int | str | None = None
) -> Source:
    """Open a mask: one band of bool or of any integers, not 0 = restore."""
    source = _open(uri, cache=cache, level=level)
    if source.bands != 1:
        raise InputError(f"{source.uri}: has {source.bands} bands and a mask has one; save one of them as the mask")
    if source.dtype.kind not in "bui":
        raise InputError(f"{source.uri}: has dtype {source.dtype} and a mask has bool or integers; not 0 = restore")
    return MaskSource(source)


def open_labels(uri: str | os.PathLike[str], *, cache: ChunkCache | None = None) -> Source:
    """Open a map of classes or instances: one band of whole numbers."""
    source = _open(uri, cache=cache, level=None)
    if source.bands != 1 or source.dtype.kind not in "bui":
        raise InputError(
            f"{source.uri}: has {source.bands} bands of {source.dtype}, and a map of labels has one of whole numbers: "
            "save the numbers of classes or instances, not their colours"
        )
    return source


def _open(
    uri: str | os.PathLike[str] | dask.array.Array, *, cache: ChunkCache | None, level: int | str | None
) -> Source:
    if isinstance(uri, dask.array.Array):
        _only_level(uri.name, level)
        return DaskSource(uri, cache=cache)
    if is_blank(uri):
        _only_level(str(uri), level)
        return BlankSource(str(uri))
    # A source is opened again in processes that run elsewhere.
    where = place(uri).absolute()
    path = str(where)
    if where.is_folder():
        return open_zarr(path, level=level, cache=cache)
    if not where.exists():
        raise InputError(f"{path}: does not exist; check the path")
    if not isinstance(where, Folder):
        raise InputError(f"{path}: only Zarr is read from object stores; convert it to Zarr, or copy it here first")
    with opening(path, "file"), open(path, "rb") as file:
        start = file.read(8)
    if start.startswith(_TIFF_SIGNATURES):
        return open_tiff(path, level=level, cache=cache)
    if start.startswith((PNG_SIGNATURE, JPEG_SIGNATURE)):
        _only_level(path, level)
        return open_picture(path, cache=cache)
    raise InputError(f"{path}: is of no kind that can be read; convert it to Zarr, TIFF, PNG or JPEG")


def _only_level(name: str, level: int | str | None) -> None:
    if level not in (None, 0, "0"):
        raise InputError(f"{name}: has no level {level}; it is a single image")

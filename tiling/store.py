"""Zarr arrays and small files as tileloom writes them: checked, whole or absent, never torn."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.errors import ContainsArrayError

from .place import Located, place


def create_array(
    folder: Located, *, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, fill: float
) -> zarr.Array[Any]:
    """A scratch array: unsharded, every chunk written, a checksum on each."""
    return zarr.create_array(
        store=place(folder).zarr(),
        shape=shape,
        chunks=chunk,
        dtype=dtype,
        fill_value=fill,
        filters=None,
        serializer=BytesCodec(),
        compressors=[Crc32cCodec()],
        config={"write_empty_chunks": True},
        overwrite=False,
    )


def open_array(folder: Located) -> zarr.Array[Any]:
    """A scratch array that :func:`create_array` made (opening forgets that empty chunks are to be written)."""
    array = zarr.open_array(store=place(folder).zarr(), mode="r+")
    return array.with_config({"write_empty_chunks": True})


def ensure_array(
    folder: Located, *, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, fill: float
) -> zarr.Array[Any]:
    """The array at ``folder``, created if neither an earlier run nor another worker did."""
    if not (place(folder) / "zarr.json").is_file():
        with suppress(ContainsArrayError):
            create_array(folder, shape=shape, chunk=chunk, dtype=dtype, fill=fill)
    return open_array(folder)


def write_json(path: Located, value: Any) -> None:  # noqa: ANN401  any JSON value
    """Write a value as JSON, atomically."""
    place(path).write(json.dumps(value, indent=1, sort_keys=True).encode())


def write_array(path: Located, array: np.ndarray) -> None:
    """Write a small array as ``.npy``, atomically, without pickling."""
    header = json.dumps({"shape": array.shape, "dtype": array.dtype.str}).encode() + b"\n"
    place(path).write(header + np.ascontiguousarray(array).tobytes())


def read_array(path: Located) -> np.ndarray:
    """What :func:`write_array` wrote."""
    header, _, data = place(path).read().partition(b"\n")
    facts = json.loads(header)
    return np.frombuffer(data, facts["dtype"]).reshape(facts["shape"])

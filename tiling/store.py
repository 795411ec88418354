"""Zarr arrays and small files as tileloom writes them: checked, whole or absent, never torn."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.errors import ContainsArrayError

from .errors import StoreError


def create_array(
    folder: Path, *, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, fill: float
) -> zarr.Array[Any]:
    """A scratch array: unsharded, every chunk written, a checksum on each."""
    return zarr.create_array(
        store=str(folder),
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


def open_array(folder: Path) -> zarr.Array[Any]:
    """A scratch array that :func:`create_array` made (opening forgets that empty chunks are to be written)."""
    array = zarr.open_array(store=str(folder), mode="r+")
    return array.with_config({"write_empty_chunks": True})


def ensure_array(
    folder: Path, *, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, fill: float
) -> zarr.Array[Any]:
    """The array at ``folder``, created if neither an earlier run nor another worker did."""
    if not (folder / "zarr.json").exists():
        with suppress(ContainsArrayError):
            create_array(folder, shape=shape, chunk=chunk, dtype=dtype, fill=fill)
    return open_array(folder)


def sweep(folder: Path) -> int:
    """Remove what killed writers left half-written; returns how many files."""
    leftovers = list(folder.rglob("*.partial"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def write_atomically(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Write a small file whole or not at all; ``exclusive`` raises FileExistsError where one stands already."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        if exclusive:
            os.link(partial, path)
        else:
            partial.replace(path)
    except OSError as error:
        # A file where a folder should be says "exists" too.
        if exclusive and isinstance(error, FileExistsError) and path.exists():
            raise
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  any JSON value
    """Write a value as JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode())


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a small array as ``.npy``, atomically, without pickling."""
    header = json.dumps({"shape": array.shape, "dtype": array.dtype.str}).encode() + b"\n"
    write_atomically(path, header + np.ascontiguousarray(array).tobytes())


def read_array(path: Path) -> np.ndarray:
    """What :func:`write_array` wrote."""
    header, _, data = path.read_bytes().partition(b"\n")
    facts = json.loads(header)
    return np.frombuffer(data, facts["dtype"]).reshape(facts["shape"])

"""Sample images for tests, and files of every kind to read them back from; arrays are (band, row, column)."""

from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

GEO_TAGS = {
    33550: ("d", (10.0, 20.0, 0.0)),
    33922: ("d", (0.0, 0.0, 0.0, 500000.0, 4000000.0, 0.0)),
    34735: ("H", (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)),
    42113: ("s", "7"),
}


def noise(bands=3, height=40, width=50, *, dtype="uint8", seed=0):
    """Pixels that do not compress, so that nearly every stored byte matters."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal((bands, height, width)).astype(dtype)
    if np.dtype(dtype) == bool:
        return rng.random((bands, height, width)) < 0.5
    return rng.integers(0, np.iinfo(dtype).max, (bands, height, width), dtype=dtype, endpoint=True)


def smooth(bands=3, height=64, width=80):
    """A gentle uint8 picture that lossy compression hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 60 * np.sin(y / 17 + band) + 50 * np.cos(x / 23) for band in range(bands)]).astype(np.uint8)


def write_zarr(path, array, *, chunk=(16, 16), zarr_format=3, names=None, shards=None, attributes=None, crc=True):
    """One Zarr array with the axes as given (the last two chunked when unnamed), checksummed when ``crc``."""
    axes = names or ("c", "y", "x")[-array.ndim :]
    sizes = {"y": chunk[0], "x": chunk[1]}
    chunks = tuple(min(sizes.get(axis, size), size) for axis, size in zip(axes, array.shape, strict=True))
    v3 = zarr_format == 3
    stored = zarr.create_array(
        str(path),
        shape=array.shape,
        dtype=array.dtype,
        chunks=chunks,
        shards=shards,
        zarr_format=zarr_format,
        dimension_names=names if v3 else None,
        compressors=[ZstdCodec(level=1), Crc32cCodec()] if v3 and crc else "auto",
        serializer=BytesCodec() if v3 else "auto",
        attributes={**({"_ARRAY_DIMENSIONS": list(names)} if names and not v3 else {}), **(attributes or {})},
    )
    stored[...] = array
    return Path(path)


def write_ome_zarr(path, array, *, version="0.5", levels=2, axes="cyx", chunk=(16, 16), unit="micrometer"):
    """An OME-Zarr pyramid whose level k is every 2^k-th pixel."""
    zarr_format = 3 if version == "0.5" else 2
    kinds = {"c": "channel", "t": "time"}
    multiscale = {
        "axes": [{"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if a in "zyx" else {})} for a in axes],
        "datasets": [],
    }
    for level in range(levels):
        step = 2**level
        scale = [0.5 * step if axis in "yx" else 1.0 for axis in axes]
        transforms = [{"type": "scale", "scale": scale}]
        multiscale["datasets"].append({"path": f"s{level}", "coordinateTransformations": transforms})
    attributes = {"multiscales": [multiscale], "omero": {"channels": [{"label": f"band {i}"} for i in range(3)]}}
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    group.attrs.update({"ome": {"version": version, **attributes}} if version == "0.5" else attributes)
    for level in range(levels):
        names = list(axes) if zarr_format == 3 else None
        part = array[..., :: 2**level, :: 2**level]
        stored = group.create_array(
            f"s{level}",
            shape=part.shape,
            dtype=part.dtype,
            chunks=(*(1,) * (part.ndim - 2), *chunk),
            dimension_names=names,
        )
        stored[...] = part
    return Path(path)


def write_tiff(path, array, *, tile=None, contig=True, levels=1, extratags=(), **options):
    """A TIFF of (band, row, column): bands beside each other or plane after plane, in ``levels`` sub-resolutions."""
    container = {"bigtiff": options.pop("bigtiff", False), "byteorder": options.pop("byteorder", None)}
    with tifffile.TiffWriter(str(path), **container) as writer:
        for level in range(levels):
            part = array[:, :: 2**level, :: 2**level]
            one = len(part) == 1
            writer.write(
                part[0] if one else np.moveaxis(part, 0, -1) if contig else part,
                tile=tile,
                photometric=options.get("photometric", "minisblack"),
                planarconfig=None if one else "contig" if contig else "separate",
                subifds=levels - 1 if levels > 1 and level == 0 else None,
                subfiletype=1 if level else 0,
                extratags=extratags if level == 0 else (),
                metadata=None,
                **{key: value for key, value in options.items() if key != "photometric"},
            )
    return Path(path)


def geo_extratags(tags=None):
    """GeoTIFF tags as tifffile writes them."""
    tags = GEO_TAGS if tags is None else tags
    return [(code, kind, len(value) if kind != "s" else 0, value, True) for code, (kind, value) in tags.items()]


def write_png(path, array):
    """A PNG of uint8 or uint16."""
    Path(path).write_bytes(imagecodecs.png_encode(_interleaved(array)))
    return Path(path)


def write_jpeg(path, array, *, level=95):
    """A JPEG of one or three bands."""
    Path(path).write_bytes(imagecodecs.jpeg8_encode(_interleaved(array), level=level))
    return Path(path)


def flip_byte(path, offset):
    """Damage one byte of a file; a negative offset counts from its end."""
    data = bytearray(Path(path).read_bytes())
    data[offset] ^= 0x40
    Path(path).write_bytes(bytes(data))


def _interleaved(array):
    return (array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)).copy(order="C")

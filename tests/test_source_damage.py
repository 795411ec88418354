"""A damaged chunk of an input is named when it is read, and never comes back as pixels."""

import gzip
import pickle
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests import images
from tileloom.tiling.box import Box
from tileloom.tiling.decoding import decoding
from tileloom.tiling.errors import CorruptChunk, InputError
from tileloom.tiling.source import open_source


def read_all(path):
    source = open_source(path)
    return source.read(Box(0, 0, source.height, source.width))


def test_one_flipped_bit_in_a_checksummed_chunk(tmp_path):
    array = images.noise(1, 512, 600)
    path = images.write_zarr(tmp_path / "a.zarr", array, chunk=(256, 256))
    images.flip_byte(path / "c/0/1/2", 1000)
    source = open_source(path)
    np.testing.assert_array_equal(source.read(Box(0, 0, 512, 512)), array[:, :, :512])
    with pytest.raises(CorruptChunk, match=r"a\.zarr: chunk \(1, 2\) at rows 256:512, columns 512:600"):
        source.read(Box(300, 500, 310, 520))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_chunk_cut_short(tmp_path, zarr_format):
    path = images.write_zarr(tmp_path / "a.zarr", images.noise(1, 16, 16), zarr_format=zarr_format, crc=False)
    chunk = path / ("c/0/0/0" if zarr_format == 3 else "0.0.0")
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(CorruptChunk, match="damaged"):
        read_all(path)


def test_a_damaged_chunk_stays_damaged(tmp_path):
    path = images.write_zarr(tmp_path / "a.zarr", images.noise(1, 16, 16))
    images.flip_byte(path / "c/0/0/0", 100)
    source = open_source(path)
    for _ in range(2):
        with pytest.raises(CorruptChunk):
            source.read(Box(0, 0, 16, 16))


def shorten_segment(path, index, kept):
    """State fewer bytes for one tile or strip than it has."""
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        tag = page.tags["TileByteCounts" if page.is_tiled else "StripByteCounts"]
        counts = list(tag.value)
        counts[index] = int(counts[index] * kept)
        tag.overwrite(tuple(counts))


@pytest.mark.parametrize("contig", [True, False])
@pytest.mark.parametrize("layout", [{"tile": (256, 256)}, {"rowsperstrip": 256}], ids=["tiles", "strips"])
@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits"])
def test_a_tiff_segment_cut_short(tmp_path, compression, layout, contig):
    array = images.noise(3, 512, 512)
    path = images.write_tiff(tmp_path / "a.tif", array, compression=compression, contig=contig, **layout)
    shorten_segment(path, -1, 0.7)
    source = open_source(path)
    np.testing.assert_array_equal(source.read(Box(0, 0, 256, 256)), array[:, :256, :256])
    with pytest.raises(CorruptChunk, match=r"a\.tif: chunk \(1, \d\) at rows 256:512"):
        source.read(Box(500, 500, 501, 501))


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_a_tiff_that_shrinks_after_it_was_opened(tmp_path, compression):
    path = images.write_tiff(tmp_path / "a.tif", images.noise(3), compression=compression)
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CorruptChunk, match=r"ends \d+ bytes early"):
        source.read(Box(0, 0, 40, 50))


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_flipped_byte_in_a_tiff_tile(tmp_path, compression):
    path = images.write_tiff(tmp_path / "a.tif", images.noise(1, 16, 16), tile=(16, 16), compression=compression)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[0]
    images.flip_byte(path, offset + 1)
    with pytest.raises(CorruptChunk):
        read_all(path)


def test_a_jpeg_tile_cut_short_is_not_filled_with_grey(tmp_path):
    options = {"tile": (64, 64), "compression": "jpeg", "photometric": "rgb"}
    path = images.write_tiff(tmp_path / "a.tif", images.smooth(3, 64, 64), **options)
    read_all(path)
    shorten_segment(path, 0, 0.7)
    with pytest.raises(CorruptChunk, match="ends early"):
        read_all(path)


@pytest.mark.parametrize("write", [images.write_png, images.write_jpeg])
def test_a_picture_cut_short_is_not_filled_with_grey(tmp_path, write):
    path = write(tmp_path / "picture", images.smooth(3, 64, 64))
    read_all(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptChunk, match="picture: chunk"):
        read_all(path)


def test_a_flipped_byte_in_a_png(tmp_path):
    path = images.write_png(tmp_path / "a.png", images.noise())
    images.flip_byte(path, -200)
    with pytest.raises(CorruptChunk):
        read_all(path)


def test_a_file_that_is_gone(tmp_path):
    path = images.write_png(tmp_path / "a.png", images.noise())
    source = open_source(path)
    path.unlink()
    with pytest.raises(CorruptChunk, match="FileNotFoundError"):
        source.read(Box(0, 0, 1, 1))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong size"),
        RuntimeError("zstd"),
        EOFError("early"),
        OSError("disk"),
        gzip.BadGzipFile("crc"),
        zlib.error("stream"),
        struct.error("unpack"),
        KeyError("tag"),
        imagecodecs.ZlibError("f", -3),
        tifffile.TiffFileError("tile"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_decode_error_becomes_one(error):
    with pytest.raises(CorruptChunk, match=r"^scene: chunk c/0/1 is damaged") as caught, decoding("scene", "c/0/1"):
        raise error
    assert caught.value.__cause__ is error
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_chunk_already_named_keeps_its_name():
    with pytest.raises(CorruptChunk, match=r"^inner$"), decoding("scene", "c/0/1"):
        raise CorruptChunk("inner")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), ImportError("no codec")])
def test_what_is_no_damage_passes_through(error):
    with pytest.raises(type(error)), decoding("scene", "c/0/1"):
        raise error


def test_damage_is_not_the_users_input_error():
    assert not issubclass(CorruptChunk, InputError)

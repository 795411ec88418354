import pickle
from pathlib import Path

import dask.array
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests import images
from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.source import open_mask, open_source

DTYPES = ["uint8", "uint16", "float32"]
BANDS = [1, 3, 4, 13]
SIZES = [(1, 1), (1, 37), (33, 1), (16, 16), (47, 35)]


def whole(source):
    return source.read(Box(0, 0, source.height, source.width))


def assert_holds(source, array):
    assert (source.bands, source.height, source.width) == array.shape
    assert source.dtype == array.dtype
    assert source.dtype.isnative
    pixels = whole(source)
    assert pixels.dtype == array.dtype
    np.testing.assert_array_equal(pixels, array)


def any_box(data, height, width):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    return Box(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))


WRITERS = {
    "zarr v3": lambda path, a: images.write_zarr(path, a),
    "zarr v2": lambda path, a: images.write_zarr(path, a, zarr_format=2),
    "zarr, bands last": lambda path, a: images.write_zarr(path, np.moveaxis(a, 0, -1), names=("y", "x", "c")),
    "zarr v2, bands last": lambda path, a: images.write_zarr(
        path, np.moveaxis(a, 0, -1), names=("lat", "lon", "band"), zarr_format=2
    ),
    "zarr, transposed": lambda path, a: images.write_zarr(path, a.transpose(2, 0, 1), names=("x", "c", "y")),
    "tiff in one run": lambda path, a: images.write_tiff(path, a),
    "tiff in one run, planes": lambda path, a: images.write_tiff(path, a, contig=False),
    "tiff strips": lambda path, a: images.write_tiff(path, a, compression="zlib", rowsperstrip=7),
    "tiff strips, planes": lambda path, a: images.write_tiff(path, a, compression="zlib", rowsperstrip=1, contig=False),
    "tiff tiles": lambda path, a: images.write_tiff(path, a, tile=(16, 32), compression="zstd"),
    "tiff tiles, planes": lambda path, a: images.write_tiff(path, a, tile=(32, 16), compression="lzw", contig=False),
    "tiff tiles, uncompressed": lambda path, a: images.write_tiff(path, a, tile=(16, 16)),
    "bigtiff, big-endian": lambda path, a: images.write_tiff(path, a, bigtiff=True, byteorder=">"),
    "bigtiff tiles, big-endian": lambda path, a: images.write_tiff(
        path, a, bigtiff=True, byteorder=">", tile=(16, 16), compression="deflate", predictor=True
    ),
    "ome-tiff": lambda path, a: tifffile.imwrite(
        path, a, ome=True, metadata={"axes": "CYX"}, photometric="minisblack", compression="zlib"
    ),
    "ome-tiff in one run": lambda path, a: tifffile.imwrite(
        path, a, ome=True, metadata={"axes": "CYX"}, photometric="minisblack"
    ),
}


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_comes_back_exactly(tmp_path, kind, dtype, bands):
    for height, width in SIZES:
        array = images.noise(bands, height, width, dtype=dtype)
        path = tmp_path / f"{height}x{width}.ome.tif"
        WRITERS[kind](path, array)
        assert_holds(open_source(path), array)


@pytest.mark.parametrize("kind", WRITERS)
def test_windows_equal_slices(tmp_path_factory, kind):
    array = images.noise(3, 53, 41, dtype="uint16")
    path = tmp_path_factory.mktemp("windows") / "image.ome.tif"
    WRITERS[kind](path, array)
    cache = ChunkCache(4000)
    source = open_source(path, cache=cache)

    @given(st.data())
    def windows(data):
        box = any_box(data, *array.shape[1:])
        np.testing.assert_array_equal(source.read(box), array[:, *box.slices])

    windows()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_png_comes_back_exactly(tmp_path, bands, dtype):
    for height, width in SIZES:
        array = images.noise(bands, height, width, dtype=dtype)
        assert_holds(open_source(images.write_png(tmp_path / "a.png", array)), array)


@pytest.mark.parametrize("kind", ["jpeg", "minisblack", "rgb"])
def test_jpeg_comes_back_closely(tmp_path, kind):
    array = images.smooth(1 if kind == "minisblack" else 3)
    path = tmp_path / "picture"
    if kind == "jpeg":
        images.write_jpeg(path, array)
    else:
        options = {"compression": "jpeg", "compressionargs": {"level": 95}, "photometric": kind}
        images.write_tiff(path, array, tile=(32, 32), **options)
    source = open_source(path)
    assert (source.bands, source.height, source.width) == array.shape
    assert np.abs(whole(source).astype(int) - array).max() <= 24
    assert np.abs(whole(source).astype(int) - array).mean() <= 2


@pytest.mark.parametrize("shape", [(9, 11), (1, 9, 11), (5, 9, 11)])
def test_dask_arrays_come_back_exactly_whatever_their_blocks(shape):
    array = images.noise(*(1, *shape)[-3:]).reshape(shape)
    for rows, columns in (((4, 5), (4, 4, 3)), ((2, 7), (8, 3)), ((9,), (11,))):
        chunks = (*(2,) * (len(shape) - 2), rows, columns)
        assert_holds(open_source(dask.array.from_array(array, chunks=chunks)), array.reshape((1, *shape)[-3:]))


def test_a_dask_window_computes_only_the_blocks_it_touches():
    computed = []

    def block(block_info=None):
        computed.append(block_info[None]["chunk-location"])
        return np.zeros((1, 4, 4), np.uint8)

    lazy = dask.array.map_blocks(block, chunks=((1,), (4,) * 50, (4,) * 50), dtype=np.uint8, meta=np.empty(0, np.uint8))
    source = open_source(lazy)
    for _ in range(2):
        source.read(Box(10, 10, 13, 11))
    assert sorted(computed) == [(0, 2, 2), (0, 3, 2)]


@pytest.mark.parametrize("axes", ["cyx", "yx", "tczyx"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_of_ome_zarr(tmp_path, version, axes):
    array = images.noise(1 if axes == "yx" else 3, 40, 36)
    stored = {"yx": array[0], "cyx": array, "tczyx": array[None, :, None]}[axes]
    path = images.write_ome_zarr(tmp_path / "a.zarr", stored, version=version, axes=axes)
    assert_holds(open_source(path), array)
    for level in (1, "1", "s1"):
        assert_holds(open_source(path, level=level), array[:, ::2, ::2])
    assert open_source(path).metadata["pixel_size"] == {"y": 0.5, "x": 0.5, "unit": "micrometer"}
    assert open_source(path, level=1).metadata["pixel_size"] == {"y": 1.0, "x": 1.0, "unit": "micrometer"}
    assert open_source(path).metadata["bands"] == ["band 0", "band 1", "band 2"]


@pytest.mark.parametrize("contig", [True, False])
def test_levels_of_a_tiff_pyramid(tmp_path, contig):
    array = images.noise(3, 128, 96)
    path = images.write_tiff(tmp_path / "a.tif", array, tile=(16, 16), levels=3, contig=contig, compression="zlib")
    for level in range(3):
        assert_holds(open_source(path, level=level), array[:, :: 2**level, :: 2**level])
    assert_holds(open_source(path, level="1"), array[:, ::2, ::2])


def test_a_slide_gives_its_magnification_and_levels(tmp_path):
    array = images.smooth(3, 256, 256)
    path = tmp_path / "slide.svs"
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 4):
            writer.write(
                np.moveaxis(array[:, ::step, ::step], 0, -1),
                tile=(16, 16),
                photometric="rgb",
                compression="zlib",
                description="Aperio Image Library v12.0\r\n256x256|AppMag = 20|MPP = 0.5",
                metadata=None,
            )
    assert_holds(open_source(path), array)
    assert open_source(path).metadata["mpp"] == 0.5
    assert open_source(path).metadata["objective"] == 20


def test_sharded_zarr_is_read_by_inner_chunk(tmp_path):
    array = images.noise(2, 1200, 600)
    path = images.write_zarr(tmp_path / "a.zarr", array, chunk=(300, 300), shards=(2, 600, 600))
    source = open_source(path)
    assert source.chunk == (300, 300)
    assert_holds(source, array)


def test_chunks_that_were_never_written_read_as_the_fill_value(tmp_path):
    path = images.write_zarr(tmp_path / "a.zarr", images.noise(1, 32, 32))
    (path / "c/0/1/1").unlink()
    pixels = whole(open_source(path))
    assert not pixels[:, 16:, 16:].any()
    assert pixels[:, :16].any()


def test_segments_that_were_never_written_read_as_nodata(tmp_path):
    path = tmp_path / "sparse.tif"
    tags = [(42113, "s", 0, "9", True)]
    rows = iter([np.full((16, 16), 5, np.uint8), None, None, np.full((16, 16), 6, np.uint8)])
    options = {"tile": (16, 16), "compression": "zlib", "extratags": tags, "metadata": None}
    tifffile.imwrite(path, rows, shape=(32, 32), dtype=np.uint8, photometric="minisblack", **options)
    blocks = whole(open_source(path)).reshape(2, 16, 2, 16)
    assert (blocks == np.array([[5, 9], [9, 6]])[:, None, :, None]).all()


def test_thin_strips_are_read_together(tmp_path):
    array = images.noise(1, 600, 300)
    path = images.write_tiff(tmp_path / "a.tif", array, compression="zlib", rowsperstrip=1)
    cache = ChunkCache(2**20)
    source = open_source(path, cache=cache)
    assert_holds(source, array)
    assert cache.misses == 2


def test_units_of_many_bands_stay_small(tmp_path):
    source = open_source(images.write_tiff(tmp_path / "a.tif", np.zeros((400, 300, 600), np.float32)))
    assert source.chunk[0] * source.chunk[1] * 400 * 4 <= 2**24
    assert not source.read(Box(250, 500, 300, 600)).any()


def test_images_that_share_a_cache_do_not_mix(tmp_path):
    cache = ChunkCache(2**20)
    arrays = [images.noise(seed=seed) for seed in range(3)]
    sources = [
        open_source(images.write_zarr(tmp_path / f"{seed}.zarr", array), cache=cache)
        for seed, array in enumerate(arrays)
    ]
    for _ in range(2):
        for source, array in zip(sources, arrays, strict=True):
            assert_holds(source, array)
    assert cache.hits == cache.misses


def test_a_file_that_changed_is_not_served_from_the_cache(tmp_path):
    cache = ChunkCache(2**20)
    for seed in range(2):
        array = images.noise(seed=seed)
        path = images.write_png(tmp_path / "a.png", array)
        assert_holds(open_source(path, cache=cache), array)


def test_windows_are_read_only(tmp_path):
    source = open_source(images.write_zarr(tmp_path / "a.zarr", images.noise()))
    for box in (Box(0, 0, 2, 2), Box(0, 0, 40, 50)):
        assert not source.read(box).flags.writeable


@pytest.mark.parametrize("box", [Box(-1, 0, 4, 4), Box(0, 0, 41, 4), Box(0, -3, 1, 1), Box(0, 0, 1, 51)])
def test_a_window_beyond_the_image_is_refused(tmp_path, box):
    source = open_source(images.write_zarr(tmp_path / "a.zarr", images.noise(3, 40, 50)))
    with pytest.raises(ValueError, match="not inside"):
        source.read(box)


@pytest.mark.parametrize("kind", [*WRITERS, "png"])
def test_sources_travel_to_another_folder_and_process(tmp_path, monkeypatch, kind):
    array = images.noise()
    monkeypatch.chdir(tmp_path)
    path = Path("image.ome.tif")
    {**WRITERS, "png": images.write_png}[kind](path, array)
    source = open_source(path)
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(source))
    assert_holds(again, array)
    assert again.uri == source.uri
    assert again.digest() == source.digest()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_travel_too(tmp_path, version):
    array = images.noise(3, 128, 96)
    zarr_path = images.write_ome_zarr(tmp_path / "a.zarr", array, version=version)
    tiff_path = images.write_tiff(tmp_path / "a.tif", array, tile=(16, 16), levels=2, compression="zlib")
    for path in (zarr_path, tiff_path):
        again = pickle.loads(pickle.dumps(open_source(path, level=1)))
        assert_holds(again, array[:, ::2, ::2])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_digest_changes_with_the_pixels_and_not_by_opening_again(tmp_path, kind):
    array = images.noise()
    one, other = tmp_path / "1.ome.tif", tmp_path / "2.ome.tif"
    WRITERS[kind](one, array)
    changed = array.copy()
    changed[1, 33, 44] ^= 1
    WRITERS[kind](other, changed)
    assert open_source(one).digest() == open_source(one).digest()
    assert open_source(one).digest() != open_source(other).digest()


def test_every_chunk_counts_in_the_digest_of_a_zarr(tmp_path):
    path = images.write_zarr(tmp_path / "a.zarr", images.noise(2, 32, 32), attributes={"note": "old"})
    digest = open_source(path).digest()
    chunks = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")
    assert len(chunks) == 4
    for chunk in chunks:
        images.flip_byte(chunk, 20)
        assert open_source(path).digest() != digest
        images.flip_byte(chunk, 20)
    assert open_source(path).digest() == digest
    kept = chunks[0].read_bytes()
    chunks[0].unlink()
    assert open_source(path).digest() != digest
    chunks[0].write_bytes(kept)
    (path / "zarr.json").write_text((path / "zarr.json").read_text().replace("old", "new"))
    (path / "c/0/0/0.1234.partial").write_bytes(b"left over")
    assert open_source(path).digest() == digest


def test_levels_have_digests_of_their_own(tmp_path):
    array = images.noise(3, 128, 96)
    path = images.write_tiff(tmp_path / "a.tif", array, tile=(16, 16), levels=2, compression="zlib")
    assert open_source(path).digest() == open_source(path, level=0).digest() != open_source(path, level=1).digest()


def test_the_digest_of_a_dask_array_follows_its_values():
    array = images.noise(1, 20, 20)
    digests = {open_source(dask.array.from_array(array + offset, chunks=8)).digest() for offset in (0, 0, 1)}
    assert len(digests) == 2


MASKS = {
    "bool zarr": lambda path, a: images.write_zarr(path, a[0]),
    "bool tiff": lambda path, a: tifffile.imwrite(path, a[0], photometric="minisblack", metadata=None),
    "png": lambda path, a: images.write_png(path, a.astype(np.uint8) * 255),
    "int64 zarr": lambda path, a: images.write_zarr(path, a.astype(np.int64) * 2**40),
    "int16 tiff": lambda path, a: images.write_tiff(path, a.astype(np.int16) * -5, tile=(16, 16), compression="zlib"),
    "packed bits": lambda path, a: tifffile.imwrite(
        path, a[0], compression="packbits", photometric="minisblack", metadata=None
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_say_true_where_not_zero(tmp_path, kind):
    mask = images.noise(1, 33, 47, dtype=bool)
    path = tmp_path / "mask"
    MASKS[kind](path, mask)
    source = open_mask(path)
    assert_holds(source, mask)
    assert_holds(pickle.loads(pickle.dumps(source)), mask)
    assert source.digest() == open_mask(path).digest()

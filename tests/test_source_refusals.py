"""What is no image, or not one that can be read by window, is refused in one sentence that names it."""

import json
import struct
import zlib

import dask.array
import numpy as np
import pytest
import tifffile
import zarr

from tests import images
from tileloom.tiling import decoding
from tileloom.tiling.errors import InputError
from tileloom.tiling.source import open_mask, open_source


def refusal(path, opener=open_source, **options):
    with pytest.raises(InputError) as caught:
        opener(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    if not isinstance(path, dask.array.Array):
        assert str(path) in message
    return message


def test_a_missing_file(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.tif")


def test_a_remote_file():
    with pytest.raises(InputError, match=r"^https://\.\.\.: there are no stores of this kind"):
        open_source("https://example.com/scene.tif")


@pytest.mark.parametrize("content", [b"", b"hello world", b"BM" + bytes(60)])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "image.tif"
    path.write_bytes(content)
    assert "Zarr, TIFF, PNG or JPEG" in refusal(path)


def test_an_empty_folder(tmp_path):
    assert "no Zarr array" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"zarr_format": 3, "node_type": "array"}', "[]"])
def test_a_zarr_with_damaged_metadata(tmp_path, text):
    path = images.write_zarr(tmp_path / "a.zarr", images.noise())
    (path / "zarr.json").write_text(text)
    refusal(path)


def test_a_group_that_is_no_pyramid_names_what_it_holds(tmp_path):
    zarr.open_group(str(tmp_path / "g.zarr"), mode="w").create_array("inside", shape=(2, 2), dtype="u1")
    message = refusal(tmp_path / "g.zarr")
    assert "multiscales" in message
    assert str(tmp_path / "g.zarr" / "inside") in message
    assert open_source(tmp_path / "g.zarr" / "inside").width == 2


def test_a_pyramid_whose_level_is_gone(tmp_path):
    path = images.write_ome_zarr(tmp_path / "a.zarr", images.noise())
    (path / "s0" / "zarr.json").unlink()
    refusal(path)


@pytest.mark.parametrize("missing", ["datasets", "axes"])
def test_a_pyramid_with_incomplete_metadata(tmp_path, missing):
    path = images.write_ome_zarr(tmp_path / "a.zarr", images.noise())
    text = json.loads((path / "zarr.json").read_text())
    del text["attributes"]["ome"]["multiscales"][0][missing]
    (path / "zarr.json").write_text(json.dumps(text))
    assert "OME-Zarr" in refusal(path)


@pytest.mark.parametrize("level", [2, -1, "coarse"])
def test_a_level_that_is_not_there(tmp_path, level):
    array = images.noise(3, 64, 64)
    for path in (
        images.write_ome_zarr(tmp_path / "a.zarr", array),
        images.write_zarr(tmp_path / "b.zarr", array),
        images.write_tiff(tmp_path / "a.tif", array, tile=(16, 16), levels=2, compression="zlib"),
        images.write_png(tmp_path / "a.png", array),
    ):
        assert f"no level {level}" in refusal(path, level=level)


@pytest.mark.parametrize("shape", [(5,), (40, 50, 3), (2, 3, 4, 5)])
def test_axes_without_names_that_could_be_anything(tmp_path, shape):
    path = images.write_zarr(
        tmp_path / "a.zarr", np.zeros(shape, np.uint8), names=None if len(shape) < 4 else tuple("abcd")
    )
    message = refusal(path)
    assert str(shape) in message
    assert "dimension_names" in message


@pytest.mark.parametrize(
    ("names", "said"),
    [(("t", "y", "x"), "axis t has length 3"), (("c", "y", "z"), "one y and one x"), (("c", "c", "y"), "one y")],
)
def test_axes_that_are_not_an_image(tmp_path, names, said):
    if len(set(names)) < 3:
        path = images.write_zarr(tmp_path / "a.zarr", np.zeros((3, 4, 5), np.uint8), names=names, zarr_format=2)
    else:
        path = images.write_zarr(tmp_path / "a.zarr", np.zeros((3, 4, 5), np.uint8), names=names)
    assert said in refusal(path)


def test_time_series_in_ome_zarr(tmp_path):
    path = images.write_ome_zarr(tmp_path / "a.zarr", images.noise(4)[:, None], axes="tcyx")
    assert "axis t has length 4" in refusal(path)


def test_an_array_without_pixels(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(3, 0, 5), chunks=(3, 1, 5), dtype="u1")
    assert "(3, 0, 5)" in refusal(tmp_path / "a.zarr")


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "int64", "float16", "float64", "complex64", "bool"])
def test_other_dtypes(tmp_path, dtype):
    message = refusal(images.write_zarr(tmp_path / "a.zarr", np.zeros((1, 8, 8), dtype)))
    assert dtype in message
    assert "uint8, uint16, float32" in message


def test_a_dask_array_of_another_dtype_or_shape():
    assert "float64" in refusal(dask.array.zeros((4, 4)))
    assert "(2, 2, 2, 2)" in refusal(dask.array.zeros((2, 2, 2, 2), dtype=np.uint8))
    unknown = dask.array.arange(9, dtype=np.uint8)
    assert "known sizes" in refusal(unknown[unknown > 3][None])
    assert "no level 1" in refusal(dask.array.zeros((4, 4), dtype=np.uint8), level=1)


def test_masks_of_many_bands_even_equal_ones(tmp_path):
    path = images.write_png(tmp_path / "m.png", np.ones((3, 8, 8), np.uint8))
    message = refusal(path, open_mask)
    assert "3 bands" in message
    assert "a mask has one" in message


def test_masks_of_floats(tmp_path):
    path = images.write_zarr(tmp_path / "m.zarr", np.zeros((1, 8, 8), np.float32))
    assert "bool or integers" in refusal(path, open_mask)


@pytest.mark.parametrize("photometric", ["miniswhite", "palette", "cielab", "separated"])
def test_tiffs_whose_values_are_not_intensities(tmp_path, photometric):
    options = {"colormap": np.zeros((3, 256), np.uint16)} if photometric == "palette" else {}
    bands = {"cielab": 3, "separated": 4}.get(photometric, 1)
    path = images.write_tiff(tmp_path / "a.tif", images.noise(bands), photometric=photometric, **options)
    assert photometric.upper() in refusal(path)


def test_stacks_of_pages(tmp_path):
    pages = tmp_path / "pages.tif"
    with tifffile.TiffWriter(pages) as writer:
        for page in images.noise(3):
            writer.write(page, metadata=None, compression="zlib")
    assert "axis I has length 3" in refusal(pages)
    volume = tmp_path / "volume.ome.tif"
    tifffile.imwrite(volume, images.noise(6), ome=True, metadata={"axes": "ZYX"}, photometric="minisblack")
    assert "axis Z has length 6" in refusal(volume)
    both = tmp_path / "both.tif"
    tifffile.imwrite(both, images.noise(6).reshape(2, 3, 40, 50), metadata={"axes": "QCYX"}, photometric="minisblack")
    assert "several axes" in refusal(both)


def test_codecs_that_cannot_be_read(tmp_path):
    path = images.write_tiff(tmp_path / "a.tif", images.noise(1), compression="zlib", rowsperstrip=8)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(65535)
    assert "65535" in refusal(path)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib", "rowsperstrip": 8}])
def test_tiffs_that_are_cut_short(tmp_path, options):
    path = images.write_tiff(tmp_path / "a.tif", images.noise(), **options)
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(path)
    assert "cut short" in message
    assert "copy it again" in message


@pytest.mark.parametrize("kept", [8, 12, 40, 90])
def test_headers_that_are_cut_short(tmp_path, kept):
    for write in (images.write_tiff, images.write_png, images.write_jpeg):
        path = write(tmp_path / "a", images.noise(3))
        path.write_bytes(path.read_bytes()[: min(kept, 30) if write is images.write_png else kept])
        refusal(path)


def test_damaged_ome_xml(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, images.noise(3), ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    path.write_bytes(path.read_bytes().replace(b"<Pixels", b"<Pixel<", 1))
    refusal(path)


def test_a_jpeg_of_four_bands(tmp_path):
    path = images.write_jpeg(tmp_path / "a.jpg", images.smooth())
    data = path.read_bytes()
    frame = data.index(b"\xff\xc0")
    path.write_bytes(data[: frame + 9] + b"\4" + data[frame + 10 :])
    assert "4 bands" in refusal(path)


@pytest.fixture
def _little_is_too_much(monkeypatch):
    monkeypatch.setattr(decoding, "DECODED_LIMIT", 2**20)


@pytest.mark.usefixtures("_little_is_too_much")
def test_decoding_units_that_do_not_fit_are_refused_with_the_mend(tmp_path):
    array = images.noise(3, 640, 640)
    for path in (
        images.write_zarr(tmp_path / "a.zarr", array, chunk=(640, 640)),
        images.write_tiff(tmp_path / "strip.tif", array, compression="zlib", rowsperstrip=640),
        images.write_tiff(tmp_path / "planes.tif", array, compression="zlib", rowsperstrip=640, contig=False),
        images.write_tiff(tmp_path / "tile.tif", array, tile=(640, 640), compression="zlib"),
        images.write_png(tmp_path / "a.png", array),
        images.write_jpeg(tmp_path / "a.jpg", array),
        dask.array.from_array(array, chunks=-1),
    ):
        message = refusal(path)
        assert "at most 1 MB" in message
        assert "in tiles or convert it to Zarr" in message


@pytest.mark.usefixtures("_little_is_too_much")
def test_uncompressed_tiffs_and_small_chunks_are_never_too_large(tmp_path):
    array = images.noise(3, 640, 640)
    for path in (
        images.write_tiff(tmp_path / "one-run.tif", array),
        images.write_tiff(tmp_path / "planes.tif", array, contig=False),
        images.write_tiff(tmp_path / "tiles.tif", array, tile=(128, 128), compression="zlib"),
        images.write_zarr(tmp_path / "a.zarr", array, chunk=(128, 128), shards=(3, 640, 640)),
    ):
        assert open_source(path).width == 640


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    chunk = struct.pack(">I", len(header)) + body + struct.pack(">I", zlib.crc32(body))
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I4s", 10, b"IDAT"))
    assert "28610 MB" in refusal(path)

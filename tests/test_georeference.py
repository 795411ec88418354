import json
import math

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests import images
from tileloom.tiling.georeference import georeference, nodata_value, scaled, shifted, whereabouts
from tileloom.tiling.source import open_source

POINT_KEYS = (1, 1, 0, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326)
MATRIX = (3.0, 1.0, 0.0, 100.0, -1.0, -2.0, 0.0, 900.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def located(transform, col, row):
    a, b, c, d, e, f = transform
    return a * col + b * row + c, d * col + e * row + f


def geo(tags):
    return georeference({code: value for code, (_, value) in tags.items()})


def test_scale_and_tiepoint():
    metadata = geo(images.GEO_TAGS)
    assert metadata["transform"] == [10.0, 0.0, 500000.0, 0.0, -20.0, 4000000.0]
    assert metadata["crs"] == "EPSG:32633"
    assert metadata["geotiff_tags"]["42113"] == "7"


def test_a_tiepoint_within_the_image():
    metadata = georeference({33550: (2.0, 2.0, 0.0), 33922: (10.0, 5.0, 0.0, 100.0, 50.0, 0.0)})
    assert located(metadata["transform"], 10, 5) == (100.0, 50.0)


def test_a_matrix():
    assert georeference({34264: MATRIX})["transform"] == [3.0, 1.0, 100.0, -1.0, -2.0, 900.0]


def test_a_pixel_that_is_a_point_is_located_by_its_centre():
    metadata = georeference({33550: (10.0, 20.0, 0.0), 33922: (0.0, 0.0, 0.0, 7.0, 9.0, 0.0), 34735: POINT_KEYS})
    assert located(metadata["transform"], 0.5, 0.5) == (7.0, 9.0)
    assert metadata["crs"] == "EPSG:4326"


def test_without_georeference_nothing_is_said():
    assert georeference({256: 10}) == {}


def test_a_user_defined_projection_has_no_code():
    assert "crs" not in georeference({34735: (1, 1, 0, 1, 3072, 0, 1, 32767)})


def test_a_tiff_keeps_its_tags_verbatim_and_says_what_they_mean(tmp_path):
    path = images.write_tiff(tmp_path / "a.tif", images.noise(), extratags=images.geo_extratags())
    source = open_source(path)
    kept = source.metadata["geotiff_tags"]
    assert set(kept) == {"33550", "33922", "34735", "42113"}
    assert kept["34735"] == list(images.GEO_TAGS[34735][1])
    assert source.metadata["transform"] == geo(images.GEO_TAGS)["transform"]
    assert source.nodata == 7
    assert json.loads(json.dumps(source.metadata)) == source.metadata


def test_a_coarser_level_covers_the_same_ground(tmp_path):
    tags = images.geo_extratags()
    path = images.write_tiff(tmp_path / "a.tif", images.noise(1, 64, 64), tile=(16, 16), levels=2, extratags=tags)
    fine, coarse = open_source(path), open_source(path, level=1)
    assert located(coarse.metadata["transform"], 32, 32) == located(fine.metadata["transform"], 64, 64)


CASES = {
    "scale and tiepoint": images.GEO_TAGS,
    "tiepoint within": {33550: ("d", (3.0, 4.0, 1.0)), 33922: ("d", (8.0, 6.0, 0.0, 50.0, 60.0, 5.0))},
    "matrix": {34264: ("d", MATRIX)},
    "point": {33550: ("d", (3.0, 4.0, 0.0)), 33922: ("d", (8.0, 6.0, 0.0, 5.0, 6.0, 0.0)), 34735: ("H", POINT_KEYS)},
    "point matrix": {34264: ("d", MATRIX), 34735: ("H", POINT_KEYS)},
}


@pytest.mark.parametrize("case", CASES)
@given(factor=st.integers(1, 16), col=st.integers(0, 1000), row=st.integers(0, 1000))
def test_scaled_metadata_locates_the_same_ground(case, factor, col, row):
    metadata = geo(CASES[case])
    finer = scaled(metadata, factor)
    expected = located(metadata["transform"], col, row)
    np.testing.assert_allclose(located(finer["transform"], col * factor, row * factor), expected, rtol=1e-12)
    # The tags themselves must say the same as the transform that stands beside them.
    again = georeference({int(code): value for code, value in finer["geotiff_tags"].items()})
    np.testing.assert_allclose(again["transform"], finer["transform"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
@given(rows=st.integers(-50, 50), columns=st.integers(-50, 50), col=st.integers(0, 1000), row=st.integers(0, 1000))
def test_shifted_metadata_locates_the_same_ground(case, rows, columns, col, row):
    metadata = geo(CASES[case])
    larger = shifted(metadata, rows, columns)
    expected = located(metadata["transform"], col, row)
    np.testing.assert_allclose(located(larger["transform"], col + columns, row + rows), expected, rtol=1e-12, atol=1e-9)
    again = georeference({int(code): value for code, value in larger["geotiff_tags"].items()})
    np.testing.assert_allclose(again["transform"], larger["transform"], rtol=1e-9, atol=1e-9)


def test_what_lies_nowhere_is_shifted_nowhere():
    metadata = {"mpp": 0.5, "pixel_size": {"y": 2.0, "x": 3.0, "unit": "nm"}}
    assert shifted(metadata, 3, 4) == metadata


def test_scaling_touches_sizes_only_and_changes_nothing_in_place():
    metadata = {**geo(images.GEO_TAGS), "mpp": 0.5, "pixel_size": {"y": 2.0, "x": 3.0, "unit": "nm"}, "bands": ["a"]}
    before = json.dumps(metadata)
    finer = scaled(metadata, 4)
    assert json.dumps(metadata) == before
    assert finer["mpp"] == 0.125
    assert finer["pixel_size"] == {"y": 0.5, "x": 0.75, "unit": "nm"}
    assert (finer["bands"], finer["crs"]) == (["a"], "EPSG:32633")
    assert finer["geotiff_tags"]["33550"] == [2.5, 5.0, 0.0]
    assert finer["geotiff_tags"]["42113"] == "7"


@pytest.mark.parametrize(
    ("stated", "dtype", "value"),
    [
        ("0", "uint8", 0),
        ("255\0", "uint8", 255),
        (-9999, "uint8", None),
        ("256", "uint8", None),
        ("0.5", "uint16", None),
        ("65535", "uint16", 65535),
        ("-9999", "float32", -9999),
        ("nan", "uint8", None),
        ("inf", "uint8", None),
        ("none", "float32", None),
        (None, "float32", None),
    ],
)
def test_nodata_is_a_value_that_a_pixel_can_have(stated, dtype, value):
    assert nodata_value(stated, np.dtype(dtype)) == value


@pytest.mark.parametrize("stated", ["nan", "NaN", float("nan"), "AAAAAAAA+H8="])
@pytest.mark.parametrize("key", ["nodata", "_FillValue"])
def test_nodata_of_a_zarr(tmp_path, key, stated):
    array = images.noise(1, 8, 8, dtype="float32")
    assert math.isnan(open_source(images.write_zarr(tmp_path / "a.zarr", array, attributes={key: stated})).nodata)


def test_the_fill_value_of_a_zarr_is_not_nodata(tmp_path):
    assert open_source(images.write_zarr(tmp_path / "a.zarr", images.noise())).nodata is None


def test_the_zarr_conventions_for_georeference(tmp_path):
    attributes = {"spatial:transform": [1, 0, 5, 0, -1, 9], "proj:code": "EPSG:3857"}
    metadata = open_source(images.write_zarr(tmp_path / "a.zarr", images.noise(), attributes=attributes)).metadata
    assert metadata == {"transform": [1, 0, 5, 0, -1, 9], "crs": "EPSG:3857"}


def test_resolution_profile_and_names_of_tiffs(tmp_path):
    array = images.noise(3)
    options = {"resolution": (100, 200), "resolutionunit": "CENTIMETER", "iccprofile": b"profile"}
    metadata = open_source(images.write_tiff(tmp_path / "a.tif", array, **options)).metadata
    assert metadata["pixel_size"] == {"y": 50.0, "x": 100.0, "unit": "micrometer"}
    assert metadata["icc_profile"] == "cHJvZmlsZQ=="
    ome = {"axes": "CYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "Channel": {"Name": ["r", "g", "b"]}}
    tifffile.imwrite(tmp_path / "b.ome.tif", array, ome=True, metadata=ome, photometric="minisblack")
    metadata = open_source(tmp_path / "b.ome.tif").metadata
    assert metadata["pixel_size"] == {"y": 0.5, "x": 0.25, "unit": "µm"}
    assert metadata["bands"] == ["r", "g", "b"]


def test_where_pixels_lie_is_told_without_what_their_values_are():
    tags = {33550: (2.0, 2.0, 0.0), 33922: (0.0, 0.0, 0.0, 7.0, 9.0, 0.0)}
    where = {**georeference(tags), "pixel_size": {"y": 1.0, "x": 2.0, "unit": "metre"}, "mpp": 0.5, "crs": "EPSG:32631"}
    values = {"icc_profile": "AAAA", "bands": ["classes"], "objective": 20}
    named = georeference({**tags, 42112: "<GDALMetadata/>", 42113: "0"})
    assert whereabouts({**where, **values, "geotiff_tags": named["geotiff_tags"]}) == where
    assert whereabouts({**values, **georeference({42113: "0"})}) == {}

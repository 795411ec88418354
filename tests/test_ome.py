"""The description of a result: valid OME-Zarr 0.5, georeference in place, provenance complete and loud."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image
from pydantic import ValidationError

from tileloom.tiling.errors import InputError
from tileloom.tiling.ome import Description, Provenance, describe, plain
from tileloom.tiling.pyramid import Pyramid, PyramidSpec

PROVENANCE = Provenance(
    version="0.1.0",
    source="scene.tif",
    source_digest="ab12",
    job={"task": "sr:4", "steps": 25},
    model="gaussian",
    seeds=(1, 2),
    counts={"restored": 7},
)
SCENE = Description(
    name="scene",
    provenance=PROVENANCE,
    band_names=("red", "green", "blue"),
    transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0),
    crs="EPSG:32633",
    tags={"33550": (10.0, 10.0, 0.0), "42113": "-9999", "34735": np.array([1, 1, 0], np.uint16), "raw": b"\x01\xff"},
)
SHAPES = [(3, 45, 61), (3, 23, 31), (3, 12, 16)]


def published(root, description=SCENE, dtype="uint8"):
    """A group on disk with its arrays and description."""
    spec = PyramidSpec(3, 45, 61, dtype, chunk=16, shard=32)
    shapes = [spec.shape(level) for level in range(spec.levels)]
    Pyramid.create(root, spec, attributes=describe(description, shapes, dtype=dtype))
    return zarr.open_group(root, mode="r+")


def transforms(attributes):
    return [dataset["coordinateTransformations"] for dataset in attributes["ome"]["multiscales"][0]["datasets"]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "description",
    [
        SCENE,
        Description(name="slide", provenance=PROVENANCE, pixel_size=(0.25, 0.25), unit="µm"),
        Description("x", PROVENANCE),
    ],
)
def test_a_result_is_valid_ome_zarr(tmp_path, description, dtype):
    image = Image.from_zarr(published(tmp_path / "a.zarr", description, dtype))
    assert [dataset.path for dataset in image.ome_attributes.multiscales[0].datasets] == ["0", "1", "2"]


def spoil_scale_length(ome):
    ome["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"].pop()


def spoil_axes_order(ome):
    ome["multiscales"][0]["axes"].reverse()


def spoil_level_order(ome):
    ome["multiscales"][0]["datasets"].reverse()


def spoil_version(ome):
    del ome["version"]


def spoil_missing_level(ome):
    ome["multiscales"][0]["datasets"][2]["path"] = "3"


def spoil_axis_name(ome):
    ome["multiscales"][0]["axes"][1]["name"] = "row"


def spoil_transform_order(ome):
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [
        {"type": "translation", "translation": [0, 0, 0]}
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_scale_length,
        spoil_axes_order,
        spoil_level_order,
        spoil_version,
        spoil_missing_level,
        spoil_axis_name,
        spoil_transform_order,
    ],
)
def test_the_validator_would_find_a_fault(tmp_path, spoil):
    group = published(tmp_path / "a.zarr")
    Image.from_zarr(group)
    ome = copy.deepcopy(group.attrs["ome"])
    spoil(ome)
    group.attrs["ome"] = ome
    with pytest.raises((ValidationError, ValueError, KeyError)):
        Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))


def test_levels_lie_where_their_pixels_are():
    """The centre of pixel p of level k is the mean centre of the 2^k pixels of level 0 it averages."""
    attributes = describe(replace(SCENE, pixel_size=(3.0, 5.0)), SHAPES, dtype="uint8")
    for level, (scale, translation) in enumerate(transforms(attributes)):
        for axis, size in ((1, 3.0), (2, 5.0)):
            below = size * np.arange(4 * 2**level, 5 * 2**level)
            centre = scale["scale"][axis] * 4 + translation["translation"][axis]
            assert centre == pytest.approx(below.mean())
        assert (scale["type"], translation["type"]) == ("scale", "translation")
        assert (scale["scale"][0], translation["translation"][0]) == (1, 0)


def test_the_georeference_of_every_level_covers_the_same_ground():
    attributes = describe(SCENE, SHAPES, dtype="uint8")
    for level, step in enumerate(attributes["multiscales"]["layout"]):
        a, b, c, d, e, f = step["spatial:transform"]
        assert step["asset"] == str(level)
        assert step["spatial:shape"] == list(SHAPES[level][1:])
        col, row = 7, 3  # the corner of this pixel is the corner of pixel (col, row) * 2^level of level 0
        assert a * col + b * row + c == 500_000 + 10 * col * 2**level
        assert d * col + e * row + f == 5_000_000 - 10 * row * 2**level
    assert attributes["spatial:bbox"] == [500_000, 5_000_000 - 450, 500_610, 5_000_000]
    assert attributes["proj:code"] == "EPSG:32633"
    assert transforms(attributes)[0][0]["scale"] == [1, 10, 10]  # positive: OME knows no north


def test_a_rotated_image_has_its_true_pixel_size_and_bounds():
    attributes = describe(replace(SCENE, transform=(3.0, 8.0, 0.0, 4.0, -6.0, 0.0)), [(3, 1, 1)], dtype="uint8")
    assert transforms(attributes)[0][0]["scale"] == [1, 10, 5]
    assert attributes["spatial:bbox"] == [0, -6, 11, 4]


@pytest.mark.parametrize(
    ("crs", "key"),
    [
        ("EPSG:4326", "proj:code"),
        ("IAU_2015:30100", "proj:code"),
        ('PROJCRS["WGS 84 / UTM zone 33N",ID["EPSG",32633]]', "proj:wkt2"),
        ('GEOGCS["WGS: 84"]', "proj:wkt2"),
    ],
)
def test_a_coordinate_system_is_told_by_code_or_text(crs, key):
    attributes = describe(replace(SCENE, crs=crs), SHAPES, dtype="uint8")
    assert attributes[key] == crs
    assert [name for name in attributes if name.startswith("proj:")] == [key]


def test_every_convention_used_is_declared_and_no_other():
    def declared(description):
        attributes = describe(description, SHAPES, dtype="uint8")
        return [convention["name"] for convention in attributes.get("zarr_conventions", [])]

    assert declared(SCENE) == ["proj:", "spatial:", "multiscales"]
    assert declared(replace(SCENE, crs=None)) == ["spatial:", "multiscales"]
    assert declared(replace(SCENE, crs=None, transform=None)) == []


@pytest.mark.parametrize(
    ("unit", "known"),
    [("µm", "micrometer"), ("Metre", "meter"), ("nm", "nanometer"), ("degree", None), ("", None), (None, None)],
)
def test_the_axis_unit_stands_only_where_it_is_known(unit, known):
    attributes = describe(Description("a", PROVENANCE, pixel_size=(2.0, 2.0), unit=unit), SHAPES, dtype="uint8")
    band, *space = attributes["ome"]["multiscales"][0]["axes"]
    assert "unit" not in band
    assert [axis.get("unit") for axis in space] == [known, known]
    assert attributes["tileloom"]["unit"] == unit


def test_an_unmeasured_pixel_has_no_unit():
    attributes = describe(Description("a", PROVENANCE, unit="micrometer"), SHAPES, dtype="uint8")
    assert transforms(attributes)[0][0]["scale"] == [1, 1, 1]
    assert "unit" not in attributes["ome"]["multiscales"][0]["axes"][1]


@pytest.mark.parametrize("size", [(0.0, 1.0), (1.0, -2.0), (np.nan, 1.0), (1.0, np.inf)])
def test_an_impossible_pixel_size_is_refused(size):
    with pytest.raises(InputError, match="positive"):
        describe(replace(SCENE, pixel_size=size), SHAPES, dtype="uint8")


def test_bands_are_named_and_coloured():
    channels = describe(SCENE, SHAPES, dtype="uint16")["ome"]["omero"]["channels"]
    assert [channel["label"] for channel in channels] == ["red", "green", "blue"]
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]
    assert channels[0]["window"] == {"min": 0, "max": 65535, "start": 0, "end": 65535}
    many = describe(replace(SCENE, band_names=()), [(13, 4, 4)], dtype="uint8")
    assert [channel["active"] for channel in many["ome"]["omero"]["channels"]] == [True] * 3 + [False] * 10
    assert many["tileloom"]["bands"][12] == "band 13"
    grey = describe(replace(SCENE, band_names=("pan",)), [(1, 4, 4)], dtype="uint8")
    assert grey["ome"]["omero"]["channels"][0]["color"] == "FFFFFF"
    with pytest.raises(InputError, match="3 band names were given for an image of 4 bands"):
        describe(SCENE, [(4, 4, 4)], dtype="uint8")


def test_float_pixels_are_shown_only_with_limits():
    assert "omero" not in describe(SCENE, SHAPES, dtype="float32")["ome"]
    shown = describe(replace(SCENE, limits=(-1.0, 3.0)), SHAPES, dtype="float32")["ome"]["omero"]["channels"][2]
    assert (shown["window"]["start"], shown["window"]["end"]) == (-1, 3)


def test_provenance_is_complete_and_says_that_pixels_were_invented(tmp_path):
    own = published(tmp_path / "a.zarr").attrs["tileloom"]
    assert own["synthetic"] is True
    assert own["provenance"] == {
        "version": "0.1.0",
        "source": "scene.tif",
        "source_digest": "ab12",
        "job": {"task": "sr:4", "steps": 25},
        "model": "gaussian",
        "seeds": [1, 2],
        "counts": {"restored": 7},
        "generated": False,
        "synthetic": True,
    }
    assert own["tags"] == {"33550": [10.0, 10.0, 0.0], "42113": "-9999", "34735": [1, 1, 0], "raw": "01ff"}


def test_attributes_are_strict_json():
    odd = {"nan": np.nan, "inf": np.float32(-np.inf), 5: (np.uint8(3), True, None), "array": np.array([[1.5, np.nan]])}
    attributes = describe(replace(SCENE, tags=odd), SHAPES, dtype="float32", nodata=np.nan)
    back = json.loads(json.dumps(attributes, allow_nan=False))
    assert back["tileloom"]["tags"] == {"nan": "NaN", "inf": "-Infinity", "5": [3, True, None], "array": [[1.5, "NaN"]]}
    assert back["tileloom"]["nodata"] == "NaN"
    assert back == attributes
    assert plain(1 + 2j) == "(1+2j)"

"""An image comes back inside a larger one: its own pixels to the bit, the margins around them invented."""

import json

import numpy as np
import pytest
import zarr

from tests.commandline import QUICK, tileloom
from tests.images import geo_extratags, noise, write_tiff
from tests.pipeline import holes, job, measure, restore, result, scene
from tileloom.jobs.compile import compile_job
from tileloom.tiling.errors import InputError
from tileloom.tiling.source import open_source

MARGINS = (5, 3, 0, 9)  # left, top, right, bottom


def outpainted(folder, image, margins=MARGINS, *, before="", after="", **options):
    """A quick job that adds margins, run to its end."""
    task = ", ".join(filter(None, (before, "outpaint:" + ",".join(map(str, margins)), after)))
    spec = job(folder, image, **{"task": task, "levels": 1, **options})
    restore(spec)
    return spec


def inside(pixels, shape, margins=MARGINS):
    """What of a larger image the given one covers."""
    left, top, _, _ = margins
    return pixels[:, top : top + shape[1], left : left + shape[2]]


def outside(pixels, shape, margins=MARGINS):
    """The values of the margins alone."""
    rest = np.ones(pixels.shape, bool)
    inside(rest, shape, margins)[:] = False
    return pixels[rest]


# --- what comes out ---


@pytest.mark.parametrize("weave", ["msr", "joint", "naive"])
@pytest.mark.parametrize("levels", [1, 2])
def test_what_was_given_comes_back_to_the_bit_and_the_rest_is_drawn(tmp_path, weave, levels):
    image = noise(2, 21, 34)
    found = result(outpainted(tmp_path, image, weave=weave, levels=levels))
    assert found.shape == (2, 21 + 12, 34 + 5)
    np.testing.assert_array_equal(inside(found, image.shape), image)
    assert outside(found, image.shape).std() > 1


@pytest.mark.parametrize("sampler", ["ddnm", "ddim-ddnm", "repaint", "ddpm", "ddim"])
@pytest.mark.parametrize("weave", ["msr", "joint"])
def test_every_sampler_draws_margins(tmp_path, sampler, weave):
    image = noise(1, 12, 17, dtype="uint16")
    found = result(outpainted(tmp_path, image, sampler=sampler, weave=weave))
    np.testing.assert_array_equal(inside(found, image.shape), image)
    assert outside(found, image.shape).std() > 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (17, 1)])
def test_one_pixel_is_enough_to_go_on_from(tmp_path, shape):
    image = noise(1, *shape)
    found = result(outpainted(tmp_path, image, (20, 1, 2, 18)))
    np.testing.assert_array_equal(inside(found, image.shape, (20, 1, 2, 18)), image)


def test_margins_go_on_from_the_image(tmp_path):
    """Where the field is smooth, a pixel beside the given ones is nearly theirs; a blank one would not be."""
    image = np.full((1, 24, 24), 230, np.uint8)
    found = result(outpainted(tmp_path, image, (6, 6, 6, 6), model={"name": "gaussian", "length": 30.0}, steps=20))
    ring = np.concatenate([found[0, 5, 6:-6], found[0, -6, 6:-6], found[0, 6:-6, 5], found[0, 6:-6, -6]])
    assert abs(float(ring.mean()) - 230) < 25


# --- together with other tasks ---


@pytest.mark.parametrize(
    ("before", "margins", "after"), [("sr:2", (3, 1, 0, 2), ""), ("", (6, 2, 0, 4), "sr:2")], ids=["behind", "before"]
)
@pytest.mark.parametrize("weave", ["msr", "joint"])
def test_an_image_is_sharpened_and_enlarged_at_once(tmp_path, before, margins, after, weave):
    given = measure(scene(2, 24, 36), "sr:2").astype(np.float32)
    spec = outpainted(
        tmp_path, given, margins, before=before, after=after, weave=weave, levels=2, range=[-1, 1], dtype="float32"
    )
    found = result(spec)
    assert found.shape == (2, 2 * (12 + 3), 2 * (18 + 3))
    np.testing.assert_allclose(inside(measure(found, "sr:2"), given.shape, (3, 1, 0, 2)), given, atol=1e-5)


def test_holes_are_filled_and_margins_added_at_once(tmp_path):
    image, mask = noise(1, 21, 34), holes(21, 34)
    found = inside(result(outpainted(tmp_path, image, after="inpaint", mask=mask, levels=2)), image.shape)
    np.testing.assert_array_equal(found[:, ~mask], image[:, ~mask])
    assert not np.array_equal(found[:, mask], image[:, mask])


def test_a_mask_of_the_result_is_of_the_given_part_of_it(tmp_path):
    fine, mask = scene(1, 24, 36), holes(24, 36)
    given = measure(fine, "inpaint, sr:2", mask=mask).astype(np.float32)
    spec = outpainted(
        tmp_path, given, (2, 0, 0, 3), before="inpaint, sr:2", mask=mask, levels=2, range=[-1, 1], dtype="float32"
    )
    found = inside(result(spec), fine.shape, (4, 0, 0, 6))
    np.testing.assert_allclose(measure(found, "inpaint, sr:2", mask=mask), given, atol=1e-5)


def test_a_gray_image_is_coloured_and_enlarged_at_once(tmp_path):
    given = measure(scene(3, 20, 20), "colorize").astype(np.float32)
    spec = outpainted(tmp_path, given, before="colorize", bands=3, range=[-1, 1], dtype="float32")
    found = result(spec)
    np.testing.assert_allclose(inside(measure(found, "colorize"), given.shape), given, atol=1e-5)


# --- missing pixels, broken pixels, other types ---


@pytest.mark.parametrize("nodata", [0, 7])
def test_missing_pixels_stay_missing_and_margins_are_none(tmp_path, nodata):
    image = noise(1, 21, 34)
    image[:, 4:9, 3:20] = nodata
    found = result(outpainted(tmp_path, image, nodata=nodata))
    np.testing.assert_array_equal(inside(found, image.shape), image)
    assert not (outside(found, image.shape) == nodata).any()


def test_a_value_that_is_not_finite_is_named_by_its_place_in_the_image(tmp_path):
    image = noise(1, 21, 34, dtype="float32")
    image[0, 11, 13] = np.inf
    with pytest.raises(InputError, match="row 11, column 13"):
        outpainted(tmp_path, image)


def test_known_pixels_are_converted_to_the_type_asked_for(tmp_path):
    image = noise(1, 21, 34)
    found = result(outpainted(tmp_path, image, dtype="float32"))
    np.testing.assert_array_equal(inside(found, image.shape), image.astype(np.float32))


# --- georeference ---


@pytest.mark.parametrize(("after", "scale"), [("", 1), ("sr:2", 2)])
def test_the_georeference_moves_with_the_corner(tmp_path, after, scale):
    path = write_tiff(tmp_path / "scene.tif", noise(1, 20, 24), extratags=geo_extratags())
    before = open_source(path).metadata["transform"]
    spec = outpainted(tmp_path, str(path), (6, 4, 2, 2), before=after, nodata=7)
    attributes = zarr.open_group(spec.output, mode="r").attrs
    a, b, c, d, e, f = before
    left, top = c - 6 * a - 4 * b, f - 6 * d - 4 * e
    tags = attributes["tileloom"]["tags"]
    assert tags["transform"] == [a / scale, b, left, d, e / scale, top]
    points = tags["geotiff_tags"]["33922"]
    assert points == [6 * scale, 4 * scale, 0, *open_source(path).metadata["geotiff_tags"]["33922"][3:]]


# --- looked at ---


def test_a_job_with_margins_is_looked_at_like_any_other(tmp_path, capfd):
    source = write_tiff(tmp_path / "in.tif", noise(1, 21, 34))
    words = (source, tmp_path / "out.zarr", "--task", "outpaint:5,3,0,9", *QUICK)
    assert "task outpaint:5,3,0,9;" in tileloom(capfd, "restore", *words, "--dry-run").out
    said = tileloom(capfd, "restore", *words)
    assert (said.code, said.errors) == (0, [])
    for look in ("status", "verify", "resume"):
        assert tileloom(capfd, look, tmp_path / "out.zarr").code == 0
    found = json.loads(tileloom(capfd, "restore", *words, "--dry-run", "--json").out)
    assert (found["input_size"], found["result_size"]) == ([1, 21, 34], [1, 33, 39])


def test_only_tiles_that_touch_a_margin_are_run(tmp_path):
    spec = job(tmp_path, noise(1, 200, 200), task="outpaint:0,0,8,0", levels=1)
    compiled = compile_job(spec)
    report = restore(spec).report
    assert 0 < report.done < compiled.image.plan.count / 5


def test_a_mask_has_the_size_of_the_given_image(tmp_path):
    spec = job(tmp_path, noise(1, 21, 34), task="inpaint, outpaint:5,3,0,9", mask=holes(33, 39))
    with pytest.raises(InputError, match="needs one of 21x34"):
        compile_job(spec)

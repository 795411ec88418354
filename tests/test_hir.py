"""Coarse first: the finer level keeps what the coarser one settled, and far tiles agree through it."""

import numpy as np
import pytest

from benchmarks.seams import SEEDS, Scene, woven
from tests.exact_conditional import block_means
from tests.pipeline import job, restore, result, root_of, scene
from tileloom.jobs.compile import compile_job
from tileloom.models.contract import GaussianSpec
from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.canvas import Canvas
from tileloom.tiling.seam import seam_excess

ROUNDING = 2e-6
HOLE = Box(9, 11, 53, 69)  # cuts blocks of every factor on all four sides


def canvas(spec, level):
    image = compile_job(spec).image
    return Canvas(
        root_of(spec) / f"canvas-{level}", image.plan.levels[level], bands=image.bands, cache=ChunkCache(2**24)
    )


def within(box, factor):
    """The coarse pixels that lie wholly in a box."""
    return Box(-(-box.top // factor), -(-box.left // factor), box.bottom // factor, box.right // factor)


def settled_in_hole(hole, factor, levels):
    """For each level but the coarsest, the next one's pixels that settle it: beside known pixels it decides alone."""
    for _ in range(levels - 1):
        yield within(hole, factor).pad(-1)
        hole = hole.coarsen(factor)


def assert_keeps_the_coarser(spec, settled):
    """Each level, pooled, is the next coarser one, where ``settled`` (boxes of pixels of levels 1, 2, ...)."""
    plan = compile_job(spec).image.plan
    assert len(plan.levels) == len(settled) + 1
    for level, box in enumerate(settled):
        fine, coarse = canvas(spec, level).read(box.scale(plan.factor)), canvas(spec, level + 1).read(box)
        np.testing.assert_allclose(block_means(fine, plan.factor), coarse, rtol=0, atol=ROUNDING)
        assert coarse.std() > 0.05


def hole_job(folder, **options):
    image = scene(2, 60, 76)
    mask = np.zeros((60, 76), bool)
    mask[HOLE.slices] = True
    spec = job(folder, image, task="inpaint", mask=mask, range=[-1.0, 1.0], **options)
    restore(spec)
    return spec, image, mask


@pytest.mark.parametrize(
    ("weave", "factor", "levels"), [("msr", 2, 2), ("msr", 2, 3), ("msr", 3, 2), ("msr", 4, 2), ("naive", 2, 3)]
)
def test_inside_a_hole_the_fine_result_pools_to_the_coarse_one(tmp_path, weave, factor, levels):
    tile = 24 if factor == 3 else 16
    spec, *_ = hole_job(tmp_path, factor=factor, levels=levels, weave=weave, tile=tile)
    assert_keeps_the_coarser(spec, list(settled_in_hole(HOLE, factor, levels)))


def test_beside_known_pixels_the_finer_level_decides_alone(tmp_path):
    """The coarser level knew nothing of a block that is partly known, so it does not rule there, nor next to it."""
    spec, image, mask = hole_job(tmp_path, levels=2)
    out = result(spec)
    assert np.array_equal(out[:, ~mask], image[:, ~mask])
    inner = within(HOLE, 2)
    for top in (inner.top - 1, inner.top):
        rim = Box(top, inner.left, top + 1, inner.right)
        differs = np.abs(block_means(out[:, *rim.scale(2).slices], 2) - canvas(spec, 1).read(rim))
        assert differs.mean() > 1e-3


def test_a_coarse_pass_that_is_imposed_everywhere_settles_pixels_beside_known_ones_too(tmp_path):
    spec, image, mask = hole_job(tmp_path, levels=2, parity={"coarse_everywhere": True})
    assert_keeps_the_coarser(spec, [within(HOLE, 2)])
    assert np.array_equal(result(spec)[:, ~mask], image[:, ~mask])


@pytest.mark.parametrize(
    ("task", "scale", "levels"), [("sr:4", 4, 2), ("sr:8", 8, 3), ("colorize", 1, 3), ("colorize,sr:4", 4, 2)]
)
def test_where_the_measurement_agrees_the_fine_result_pools_to_the_coarse_one(tmp_path, task, scale, levels):
    gray = "colorize" in task
    y = scene(1 if gray else 2, 60 // scale, 76 // scale)
    spec = job(tmp_path, y, task=task, levels=levels, range=[-1.0, 1.0], bands=3 if gray else None)
    restore(spec)
    out = result(spec)
    whole = [Box(0, 0, out.shape[1] >> level, out.shape[2] >> level) for level in range(1, levels)]
    assert_keeps_the_coarser(spec, whole)
    for level, pixels in enumerate([out, *(canvas(spec, level).read(box) for level, box in enumerate(whole, start=1))]):
        seen = pixels.mean(axis=0, keepdims=True) if gray else pixels
        if scale > 1:
            np.testing.assert_allclose(block_means(seen, scale >> level), y, rtol=0, atol=ROUNDING)


def test_values_lost_after_the_downsampling_change_nothing(tmp_path):
    y, lost = scene(2, 15, 19), np.zeros((15, 19), bool)
    lost[3:11, 4:15] = True
    spec = job(tmp_path, y, task="sr:4,inpaint", mask=lost, levels=2, range=[-1.0, 1.0])
    restore(spec)
    assert_keeps_the_coarser(spec, [Box(0, 0, 30, 38)])


def test_a_single_level_would_come_to_something_else(tmp_path):
    """The low frequencies are the coarse pass's doing: without it they are others."""
    spec, *_ = hole_job(tmp_path / "two", levels=2)
    alone, *_ = hole_job(tmp_path / "one", levels=1)
    (settled,) = settled_in_hole(HOLE, 2, 2)
    alone = block_means(canvas(alone, 0).read(settled.scale(2)), 2)
    assert np.abs(alone - canvas(spec, 1).read(settled)).mean() > 0.01


@pytest.fixture(scope="module")
def independent_tiles():
    """A hole of 3.5 tiles a side, filled by tiles that know nothing of each other: alone, and with two coarser levels.

    At the coarsest level the whole image is one tile.
    """
    field = Scene(GaussianSpec("matern32", 24.0, band_correlation=0.0), 128, Box(8, 8, 120, 120))
    found = {}
    for levels in (1, 3):
        found[levels], rows, cols, _ = woven(field, steps=25, weave="naive", levels=levels)
        assert rows == cols == (32, 64, 96)
    return field, found


@pytest.mark.parametrize("pooled", [4, 8])
def test_independent_tiles_share_their_low_frequencies_through_the_coarse_level(
    independent_tiles, pooled, record_property
):
    """Measured: the seam of means of 4 x 4 and 8 x 8 pixels, its excess over the truth's, mean of eight fields."""
    field, found = independent_tiles
    lines = tuple(line // pooled for line in (32, 64, 96))
    region = within(field.hole, pooled)
    truth = block_means(field.truth, pooled)
    excess = {
        levels: np.mean(
            [
                seam_excess(one[None], true[None], lines, lines, block=1, region=region)
                for one, true in zip(block_means(image, pooled), truth, strict=True)
            ]
        )
        for levels, image in found.items()
    }
    print(excess)
    record_property("seam excess by levels", str(excess))
    assert len(truth) == SEEDS
    assert excess[1] > 1
    assert abs(excess[3]) < excess[1] / 10

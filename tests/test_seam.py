"""The seam measure, on images whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileloom.tiling.box import Box
from tileloom.tiling.errors import InputError
from tileloom.tiling.grid import Axis, Grid
from tileloom.tiling.seam import borders, edge_ratio, seam_excess, seam_ratio

BORDERS = (16, 32, 48)


def ramp(side=64, *, rows=1.0, cols=1.0):
    """Gradient ``rows`` down and ``cols`` across, everywhere."""
    y, x = np.mgrid[:side, :side]
    return (rows * y + cols * x)[None]


def planted(image, height, rows=BORDERS, cols=BORDERS):
    """The image with a step of ``height`` at every border."""
    out = image.astype(np.float64).copy()
    for b in rows:
        out[:, b:] += height
    for b in cols:
        out[..., b:] += height
    return out


@given(height=st.floats(0, 100), block=st.sampled_from([1, 2, 4, 8]))
def test_a_planted_step_raises_the_ratio_by_its_height(height, block):
    image = planted(ramp(), height)
    assert seam_ratio(image, BORDERS, BORDERS, block=block) == pytest.approx(1 + height)
    assert seam_excess(image, ramp(), BORDERS, BORDERS, block=block) == pytest.approx(height, abs=1e-9)


def test_noise_has_no_seam():
    noise = np.random.default_rng(0).normal(size=(3, 256, 256))
    lines = tuple(range(32, 256, 32))
    assert seam_ratio(noise, lines, lines, block=1) == pytest.approx(1, abs=0.02)
    smooth = sum(np.roll(noise, (i, j), (1, 2)) for i in range(4) for j in range(4))
    assert seam_ratio(smooth, lines, lines, block=4) == pytest.approx(1, abs=0.05)


def test_independent_tiles_of_smooth_pixels_have_a_large_seam():
    rng = np.random.default_rng(1)
    tiles = [[np.cumsum(rng.normal(size=(1, 16, 16)), axis=2) for _ in range(4)] for _ in range(4)]
    assert seam_ratio(np.block(tiles), (), BORDERS, block=1) > 2


def test_the_phase_of_replicated_blocks_matters():
    """Each value of a measurement fills 4 x 4 pixels: all gradient lies on multiples of 4, seam or not."""
    image = np.kron(ramp(16), np.ones((1, 4, 4)))
    assert seam_ratio(image, BORDERS, BORDERS, block=4) == pytest.approx(1)
    inner_lines, with_a_step = 63 - 3, 15 - 3
    assert seam_ratio(image, BORDERS, BORDERS, block=1) == pytest.approx(inner_lines / with_a_step)


def test_directions_are_compared_each_with_itself():
    """Three borders down and one across, on an image ten times steeper down: still no seam."""
    assert seam_ratio(ramp(rows=10.0), BORDERS, (32,), block=4) == pytest.approx(1)
    assert seam_ratio(ramp(rows=10.0), (), (32,), block=4) == pytest.approx(1)
    image = planted(ramp(rows=10.0), 5.0, rows=(), cols=(32,))
    assert seam_ratio(image, (), (32,), block=1) == pytest.approx(6)


def test_borders_of_several_phases_are_compared_each_with_its_own():
    steps = np.where(np.arange(64) % 2, 1.0, 9.0)
    image = np.broadcast_to(np.cumsum(steps), (1, 64, 64))
    assert seam_ratio(image, (), (16, 33), block=2) == pytest.approx(1)


def test_whole_numbers_do_not_wrap():
    image = np.zeros((1, 8, 8), np.uint8)
    image[..., 1::2] = 255
    assert seam_ratio(image, (), (4,), block=1) == pytest.approx(1)
    image = np.tile(np.array([10, 9], np.uint8), (1, 8, 4))
    image[..., 4:] += 200
    assert seam_ratio(image, (), (4,), block=1) == pytest.approx(201)


def test_bands_count_alike():
    image = np.concatenate([planted(ramp(), 4.0), ramp(), ramp(), ramp()])
    assert seam_ratio(image, BORDERS, BORDERS, block=4) == pytest.approx(2)


@pytest.mark.parametrize("as_mask", [False, True])
def test_a_region_counts_only_steps_with_both_pixels_inside(as_mask):
    image = planted(ramp(), 3.0, rows=(), cols=(16,))
    left = Box(0, 0, 64, 16)  # ends at the border: its step has one pixel outside
    across = Box(0, 8, 64, 24)

    def region(box):
        mask = np.zeros((64, 64), bool)
        mask[box.slices] = True
        return mask if as_mask else box

    assert seam_ratio(image, (), (16,), block=1, region=region(across)) == pytest.approx(4)
    with pytest.raises(InputError, match="no seam can be measured"):
        seam_ratio(image, (), (16,), block=1, region=region(left))
    assert seam_excess(image, ramp(), (), (16,), block=1, region=region(across)) == pytest.approx(3)


def test_a_region_may_reach_beyond_the_image():
    image = planted(ramp(), 3.0)
    assert seam_ratio(image, BORDERS, BORDERS, block=4, region=Box(-9, -9, 99, 99)) == pytest.approx(4)


def test_borders_outside_the_image_are_left_out():
    image = planted(ramp(), 2.0)
    assert seam_ratio(image, (*BORDERS, 64, 80), (0, *BORDERS), block=4) == pytest.approx(3)


@pytest.mark.parametrize(
    ("rows", "cols", "block"), [((), (), 1), ((70,), (0,), 1), ((32,), (), 64), (range(16, 64, 16), (), 16)]
)
def test_nothing_to_compare_is_said_not_guessed(rows, cols, block):
    with pytest.raises(InputError, match="no seam can be measured"):
        seam_ratio(ramp(), rows, cols, block=block)


def test_flat_images():
    assert seam_ratio(np.zeros((1, 64, 64)), BORDERS, BORDERS, block=1) == 1
    assert seam_ratio(planted(np.zeros((1, 64, 64)), 1.0), BORDERS, BORDERS, block=1) == np.inf


def hole(box, side=64):
    unknown = np.zeros((side, side), bool)
    unknown[box.slices] = True
    return unknown


@pytest.mark.parametrize("block", [1, 4])
def test_the_edge_of_a_hole_that_was_filled_too_bright(block):
    """On a ramp the step out of a filled hole is 1 + h on two sides and |1 - h| on the other two."""
    unknown = hole(Box(16, 16, 48, 48))
    assert edge_ratio(ramp() + 5.0 * unknown, unknown, block=block) == pytest.approx(5)
    assert edge_ratio(ramp() + 0.0 * unknown, unknown, block=block) == pytest.approx(1)


def test_a_hole_in_the_corner_has_edges_inside_the_image_only():
    unknown = hole(Box(32, 32, 64, 64))
    assert edge_ratio(ramp() + 5.0 * unknown, unknown, block=1) == pytest.approx(6)


def test_an_edge_is_compared_with_lines_near_it():
    unknown = hole(Box(24, 24, 40, 40), side=128)
    image = ramp(128, rows=0.0)
    image[..., 64:] = 1000 * np.arange(64)  # a cliff far from the hole
    assert edge_ratio(image, unknown, block=1, reach=8) == pytest.approx(1)
    assert edge_ratio(image, unknown, block=1, reach=60) < 0.1


def test_the_phase_matters_at_an_edge_too():
    image = np.kron(ramp(16), np.ones((1, 4, 4)))
    assert edge_ratio(image, hole(Box(16, 16, 48, 48)), block=4) == pytest.approx(1)
    assert edge_ratio(image, hole(Box(16, 16, 48, 48)), block=1) > 3


@pytest.mark.parametrize("unknown", [np.zeros((64, 64), bool), np.ones((64, 64), bool)])
def test_without_a_hole_there_is_no_edge(unknown):
    with pytest.raises(InputError, match="no seam can be measured"):
        edge_ratio(ramp(), unknown, block=1)


@pytest.mark.parametrize(("tile", "stride", "guard"), [(16, 16, 0), (16, 8, 0), (16, 12, 2), (32, 16, 4)])
def test_borders_are_where_ownership_changes(tile, stride, guard):
    axis = Axis(100, tile, stride, guard)
    owner = [axis.owner(pixel) for pixel in range(100)]
    assert list(borders(axis)) == [p for p in range(1, 100) if owner[p] != owner[p - 1]]


def test_borders_of_a_grid_find_the_seams_of_its_tiles():
    grid = Grid(64, 64, tile=16, stride=12, guard=2)
    image = ramp()
    for row in range(grid.rows.count):
        for col in range(grid.cols.count):
            image[(slice(None), *grid.owns(row, col).slices)] += 100.0 * ((row + col) % 2)
    assert seam_ratio(image, borders(grid.rows), borders(grid.cols), block=1) == pytest.approx(100)
    assert borders(Axis(16, 16, 16, 0)) == ()

"""A level cut into windows, cells and blocks, against brute force; and what a part of a window is given."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.tiles import tile
from tileloom.tiling.box import Box
from tileloom.tiling.errors import InputError
from tileloom.tiling.grid import Grid
from tileloom.tiling.lockstep import Lattice

RELAXED = settings(deadline=None, max_examples=150)


def lattice_of(height, width, window, cell, block, align=1):
    """Windows of ``window`` pixels ``cell`` apart, blocks of ``block`` pixels."""
    return Lattice(
        Grid(height, width, window, cell, 0, align), Grid(height, width, block, block, 0, align, least=window)
    )


@st.composite
def lattices(draw):
    align = draw(st.integers(1, 3))
    window = draw(st.integers(2, 6)) * align
    cell = draw(st.integers(1, window // align - 1)) * align
    block = (-(-window // cell) + draw(st.integers(0, 2))) * cell
    size = st.integers(1, 3 * block + window)
    return lattice_of(draw(size), draw(size), window, cell, block, align)


def everything(lattice):
    return lattice.windows.box


def covered(lattice, boxes):
    """How often each pixel of the level lies in one of the boxes."""
    count = np.zeros(everything(lattice).shape, int)
    for box in boxes:
        count[box.slices] += 1
    return count


def windows(lattice):
    grid = lattice.windows
    return [(row, col) for row in range(grid.rows.count) for col in range(grid.cols.count)]


@RELAXED
@given(lattices())
def test_blocks_and_their_cells_cover_every_pixel_once(lattice):
    assert everything(lattice) == lattice.blocks.box
    boxes = [lattice.box(block) for block in range(lattice.count)]
    assert (covered(lattice, boxes) == 1).all()
    cells = [list(lattice.cells(block)) for block in range(lattice.count)]
    assert (covered(lattice, [cell for of_block in cells for cell in of_block]) == 1).all()
    for box, of_block in zip(boxes, cells, strict=True):
        assert all(box.contains(cell) for cell in of_block)
        assert of_block == sorted(of_block)
        for cell in of_block:
            assert cell.top % lattice.cell == cell.left % lattice.cell == 0
            assert cell.height == min(lattice.cell, everything(lattice).bottom - cell.top)
            assert cell.width == min(lattice.cell, everything(lattice).right - cell.left)


@RELAXED
@given(lattices())
def test_every_window_is_computed_by_the_block_that_holds_its_cell(lattice):
    found = [(window, block) for block in range(lattice.count) for window in lattice.begun(block)]
    assert sorted(window for window, _ in found) == windows(lattice)
    for (row, col), block in found:
        box = lattice.box(block)
        assert box.top <= row * lattice.cell < box.bottom
        assert box.left <= col * lattice.cell < box.right
        assert lattice.begins_in(row, col) == block
    for block in range(lattice.count):
        assert lattice.begun(block) == sorted(lattice.begun(block))


@RELAXED
@given(lattices())
def test_a_window_sees_nothing_beyond_the_blocks_around_its_own(lattice):
    plan = lattice.plan(1, 1)
    for block in range(lattice.count):
        around = plan.around(block)
        assert sorted((*lattice.around[block], block)) == around
        near = covered(lattice, [lattice.box(other) for other in around])
        for window in lattice.begun(block):
            assert near[lattice.windows.sees(*window).slices].all()


@RELAXED
@given(lattices())
def test_the_reach_is_the_least_box_of_the_block_and_its_windows(lattice):
    for block in range(lattice.count):
        boxes = [lattice.box(block), *(lattice.windows.sees(*window) for window in lattice.begun(block))]
        tops, lefts, bottoms, rights = zip(*((b.top, b.left, b.bottom, b.right) for b in boxes), strict=True)
        assert lattice.reach(block) == Box(min(tops), min(lefts), max(bottoms), max(rights))


@RELAXED
@given(lattices(), st.data())
def test_the_windows_over_a_box_are_those_that_see_a_pixel_of_it(lattice, data):
    whole = everything(lattice)
    top, left = data.draw(st.integers(0, whole.bottom - 1)), data.draw(st.integers(0, whole.right - 1))
    box = Box(top, left, data.draw(st.integers(top + 1, whole.bottom)), data.draw(st.integers(left + 1, whole.right)))
    seen = [w for w in windows(lattice) if not lattice.windows.sees(*w).intersect(box).empty]
    assert lattice.over(box) == seen
    assert seen
    assert lattice.over(Box(top, left, top, left)) == []


def test_the_last_window_is_shifted_to_end_with_the_image():
    """Three windows 12 apart would end at 40; the last one begins with pixel 14 and belongs to cell 24."""
    lattice = lattice_of(30, 16, window=16, cell=12, block=24)
    assert [lattice.windows.sees(row, 0) for row in range(3)] == [
        Box(0, 0, 16, 16),
        Box(12, 0, 28, 16),
        Box(14, 0, 30, 16),
    ]
    assert [lattice.begun(block) for block in range(2)] == [[(0, 0), (1, 0)], [(2, 0)]]
    assert lattice.reach(1) == Box(14, 0, 30, 16)


def test_a_block_at_the_end_may_have_no_window_of_its_own():
    lattice = lattice_of(28, 16, window=16, cell=12, block=24)
    assert lattice.box(1) == Box(24, 0, 28, 16)
    assert lattice.begun(1) == []
    assert lattice.reach(1) == lattice.box(1)
    assert lattice.over(lattice.box(1)) == [(1, 0)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (15, 3)])
def test_images_narrower_than_a_window_have_one_row_of_windows(height, width):
    lattice = lattice_of(height, width, window=16, cell=12, block=24)
    assert everything(lattice).shape == (max(height, 16), max(width, 16))
    assert lattice.windows.rows.count == 1 + -(-max(0, height - 16) // 12)
    assert lattice.windows.cols.count == 1 + -(-max(0, width - 16) // 12)


@RELAXED
@given(st.integers(2, 9), st.integers(1, 9), st.integers(1, 40))
def test_blocks_that_cut_cells_or_are_smaller_than_a_window_are_refused_with_the_nearest(window, cell, block):
    assume(cell < window)
    if block % cell == 0 and block >= window:
        lattice_of(40, 40, window, cell, block)
        return
    with pytest.raises(InputError, match=f"blocks of {block} pixels do not suit") as refused:
        lattice_of(40, 40, window, cell, block)
    nearest = int(str(refused.value).rpartition(" ")[2])
    legal = [side for side in range(window, 60) if side % cell == 0]
    assert abs(nearest - block) == min(abs(side - block) for side in legal)


@pytest.mark.parametrize("at", range(3))
def test_a_part_of_a_window_is_given_that_part_of_all_that_is_known(at):
    """Of a downsampled image, a masked one and a gray one; borders lie on those of measured and coarse values."""
    whole = tile(at)
    rng = np.random.default_rng(at)
    bands, half = 2, (whole.box.height // 2, whole.box.width // 2)
    whole = replace(
        whole,
        coarse=rng.standard_normal((bands, *half)).astype(np.float32),
        coarse_mask=rng.random(half) < 0.5,
        start=rng.standard_normal((bands, *whole.box.shape)).astype(np.float32),
        visible=rng.random(whole.box.shape) < 0.5,
    )
    part = Box(whole.box.top + 2, whole.box.left + 4, whole.box.top + 6, whole.box.left + 8)
    cut = whole.crop(part)
    assert cut.box == part
    scale = {name: 2 for name in ("coarse", "coarse_mask")} | {
        name: whole.measurement.scale for name in ("y", "measured")
    }
    for own in fields(whole):
        mine, theirs = getattr(whole, own.name), getattr(cut, own.name)
        if not isinstance(mine, np.ndarray):
            assert own.name == "box" or theirs == mine
            continue
        step = scale.get(own.name, 1)
        expected = mine[..., 2 // step : 6 // step, 4 // step : 8 // step]
        np.testing.assert_array_equal(theirs, expected)
    assert whole.crop(whole.box).digest(b"") == whole.digest(b"")

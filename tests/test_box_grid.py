"""Boxes and grids against brute force: every pixel has one owner, every chunk one writer."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.errors import InputError
from tileloom.tiling.grid import Axis, Grid, grid_align, legal_triple

RELAXED = settings(deadline=None, max_examples=150)


def triples(draw, align, largest=6):
    """(tile, stride, guard) in units of ``align``; one in five is the naive one."""
    tile = draw(st.integers(2, largest)) * align
    if draw(st.integers(0, 4)) == 0:
        return tile, tile, 0
    guard = draw(st.integers(0, tile // align - 2)) * align
    stride = draw(st.integers(1, (tile - guard) // align - 1)) * align
    return tile, stride, guard


@st.composite
def grids(draw):
    align = draw(st.integers(1, 4))
    tile, stride, guard = triples(draw, align)
    size = st.integers(1, 3 * tile + 1)
    return Grid(draw(size), draw(size), tile, stride, guard, align)


@st.composite
def boxes(draw):
    top, left = draw(st.integers(-9, 9)), draw(st.integers(-9, 9))
    return Box(top, left, top + draw(st.integers(-2, 9)), left + draw(st.integers(-2, 9)))


def pixels(box):
    return {(r, c) for r in range(box.top, box.bottom) for c in range(box.left, box.right)}


def simple_axis(axis):
    """(start, stop, far) of every tile, by walking along the axis."""
    starts = [0]
    while starts[-1] + axis.tile < axis.length:
        starts.append(min(starts[-1] + axis.stride, axis.length - axis.tile))
    spans = [(start, start + axis.tile, start + axis.tile - axis.guard) for start in starts]
    spans[-1] = (starts[-1], axis.length, axis.length)
    return spans


def check_axis(axis):
    spans = simple_axis(axis)
    assert axis.count == len(spans)
    assert [(axis.start(j), axis.stop(j), axis.far(j)) for j in range(axis.count)] == spans
    for pixel in range(axis.length):
        owner = next(j for j, (_, _, far) in enumerate(spans) if pixel < far)
        assert axis.owner(pixel) == owner
        assert axis.near(owner) <= pixel < axis.far(owner)
        assert axis.start(owner) <= pixel
    chunk_writers = {}
    for j in range(axis.count):
        assert axis.near(j) < axis.far(j)
        for pixel in range(axis.near(j), axis.far(j)):
            chunk = (pixel + axis.chunk_offset) // axis.stride
            assert chunk_writers.setdefault(chunk, j) == j


def legal_axes(tiles, lengths):
    for tile in tiles:
        for stride, guard in itertools.product(range(1, tile + 1), range(tile)):
            if stride + guard < tile or (stride, guard) == (tile, 0):
                yield from (Axis(length, tile, stride, guard) for length in lengths(tile))


def test_every_small_axis_agrees_with_a_walk_along_it():
    axes = list(legal_axes(range(1, 9), lambda tile: range(tile, 3 * tile + 2)))
    assert len(axes) > 900
    for axis in axes:
        check_axis(axis)


def test_owners_and_seers_of_every_span_of_small_axes():
    for axis in legal_axes(range(1, 6), lambda tile: (tile, 2 * tile + 1, 3 * tile)):
        spans = simple_axis(axis)
        for lo, hi in itertools.combinations_with_replacement(range(axis.length + 1), 2):
            owners = sorted({axis.owner(pixel) for pixel in range(lo, hi)})
            seers = [j for j, (start, stop, _) in enumerate(spans) if max(start, lo) < min(stop, hi)]
            assert list(axis.owners(lo, hi)) == owners
            assert list(axis.seers(lo, hi)) == seers


@RELAXED
@given(grids())
def test_owned_boxes_partition_the_padded_image(grid):
    owner = np.full(grid.box.shape, -1)
    for row, col in itertools.product(range(grid.rows.count), range(grid.cols.count)):
        owned = grid.owns(row, col)
        assert not owned.empty
        assert np.all(owner[owned.slices] == -1)
        owner[owned.slices] = row * grid.cols.count + col
        assert grid.keeps(row, col).contains(owned)
        assert grid.sees(row, col).contains(grid.keeps(row, col))
        assert grid.box.contains(grid.sees(row, col))
        assert grid.sees(row, col).shape == (grid.tile, grid.tile)
    assert owner.min() >= 0
    assert len(np.unique(owner)) == grid.count


@RELAXED
@given(grids())
def test_no_two_tiles_share_a_chunk_and_inner_tiles_write_exactly_one(grid):
    top, left = grid.rows.chunk_offset, grid.cols.chunk_offset
    writers = {}
    for row, col in itertools.product(range(grid.rows.count), range(grid.cols.count)):
        stored = grid.owns(row, col).shift(top, left)
        chunks = list(
            itertools.product(
                range(stored.top // grid.stride, -(-stored.bottom // grid.stride)),
                range(stored.left // grid.stride, -(-stored.right // grid.stride)),
            )
        )
        for chunk in chunks:
            assert writers.setdefault(chunk, (row, col)) == (row, col)
        if 0 < row < grid.rows.count - 1 and 0 < col < grid.cols.count - 1:
            assert len(chunks) == 1
            assert stored.shape == (grid.stride, grid.stride)


@RELAXED
@given(grids())
def test_every_border_is_a_multiple_of_align(grid):
    for axis in (grid.rows, grid.cols):
        assert axis.length % grid.align == 0
        for j in range(axis.count):
            assert {axis.start(j) % grid.align, axis.far(j) % grid.align} == {0}


@RELAXED
@given(grids())
def test_the_level_is_padded_as_little_as_its_tile_and_align_allow(grid):
    for size, axis in ((grid.height, grid.rows), (grid.width, grid.cols)):
        assert size <= axis.length
        assert axis.length == grid.tile or axis.length < size + grid.align


@RELAXED
@given(grids())
def test_context_is_what_west_and_north_keep_of_the_window(grid):
    for row, col in itertools.product(range(grid.rows.count), range(grid.cols.count)):
        sees, owned = pixels(grid.sees(row, col)), pixels(grid.owns(row, col))
        kept = set()
        if col:
            kept |= pixels(grid.keeps(row, col - 1))
        if row:
            kept |= pixels(grid.keeps(row - 1, col))
        context = set().union(*map(pixels, grid.context(row, col)))
        if grid.naive:
            assert not context
            continue
        assert context == kept & sees
        assert not context & owned
        if row or col:
            assert context


@RELAXED
@given(grids(), st.data())
def test_owners_of_a_box_are_those_that_own_its_pixels(grid, data):
    rows = sorted(data.draw(st.tuples(*[st.integers(0, grid.box.bottom)] * 2)))
    cols = sorted(data.draw(st.tuples(*[st.integers(0, grid.box.right)] * 2)))
    box = Box(rows[0], cols[0], rows[1], cols[1])
    every = itertools.product(range(grid.rows.count), range(grid.cols.count))
    assert list(grid.owners(box)) == [tile for tile in every if not grid.owns(*tile).intersect(box).empty]


def test_a_guarded_axis_drawn_by_hand():
    axis = Axis(length=20, tile=8, stride=5, guard=2)
    assert axis.count == 4
    assert [axis.start(j) for j in range(4)] == [0, 5, 10, 12]
    assert [(axis.near(j), axis.far(j)) for j in range(4)] == [(0, 6), (6, 11), (11, 16), (16, 20)]
    assert axis.chunk_offset == 4
    assert list(axis.seers(11, 12)) == [1, 2]


def test_a_single_pixel_is_padded_to_one_tile():
    grid = Grid(1, 1, 64, 48, 8, 4)
    assert (grid.count, grid.box, grid.image) == (1, Box(0, 0, 64, 64), Box(0, 0, 1, 1))
    assert grid.owns(0, 0) == grid.sees(0, 0) == grid.box


@pytest.mark.parametrize(
    ("tile", "stride", "guard", "align"),
    [(64, 64, 8, 1), (64, 56, 8, 1), (64, 48, 6, 4), (62, 48, 8, 4), (64, 0, 0, 1), (64, 48, -4, 4), (64, 46, 8, 4)],
)
def test_a_grid_that_breaks_the_rules_is_refused_with_one_that_keeps_them(tile, stride, guard, align):
    legal = legal_triple(tile, stride, guard, align=align)
    with pytest.raises(InputError, match=f"tile {legal[0]}, stride {legal[1]}, guard {legal[2]}$"):
        Grid(100, 100, tile, stride, guard, align)
    assert Grid(100, 100, *legal, align).rows.count >= 2


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(InputError, match="no pixel to restore"):
        Grid(*size, 64, 48)


@RELAXED
@given(
    st.integers(-5, 300), st.integers(-5, 300), st.integers(-5, 300), st.integers(1, 12), st.sampled_from([1, 2, 8, 32])
)
def test_the_nearest_legal_triple_is_legal_and_stays(tile, stride, guard, align, multiple):
    legal = legal_triple(tile, stride, guard, align=align, multiple=multiple)
    assert {part % align for part in legal} == {0}
    assert legal[0] % multiple == 0
    assert legal[1] >= align
    assert legal[2] >= 0
    assert legal[1] + legal[2] < legal[0]
    assert legal_triple(*legal, align=align, multiple=multiple) == legal


@RELAXED
@given(st.data(), st.integers(1, 6), st.sampled_from([1, 2, 4]))
def test_a_legal_triple_is_left_alone(data, align, multiple):
    unit = np.lcm(align, multiple)
    tile = data.draw(st.integers(-(-2 * align // unit), 20)) * int(unit)
    guard = data.draw(st.integers(0, tile // align - 2)) * align
    stride = data.draw(st.integers(1, (tile - guard) // align - 1)) * align
    assert legal_triple(tile, stride, guard, align=align, multiple=multiple) == (tile, stride, guard)


def test_align_respects_the_operator_and_the_next_level():
    assert grid_align(4, 2) == 4
    assert grid_align(3, 2) == 6
    assert grid_align(3, None) == 3


@RELAXED
@given(boxes(), boxes())
def test_boxes_behave_as_sets_of_pixels(one, other):
    assert pixels(one.intersect(other)) == pixels(one) & pixels(other)
    assert one.area == len(pixels(one))
    assert one.empty == (not pixels(one))
    assert not one.contains(other) or pixels(other) <= pixels(one)
    if not one.empty and not other.empty:
        assert one.contains(other) == (pixels(other) <= pixels(one))


@RELAXED
@given(boxes(), st.integers(1, 4))
def test_scaling_and_coarsening_boxes(box, factor):
    assert box.scale(factor).coarsen(factor) == box
    assert box.shift(3, -2).shift(-3, 2) == box
    assert box.pad(2).pad(-2) == box
    assert box.coarsen(factor).scale(factor).contains(box)
    if not box.empty:
        assert pixels(box.coarsen(factor)) == {(r // factor, c // factor) for r, c in pixels(box)}


def test_a_box_indexes_arrays_in_absolute_and_in_relative_pixels():
    image = np.arange(80).reshape(8, 10)
    outer, inner = Box(2, 3, 7, 9), Box(4, 5, 6, 8)
    assert inner.shape == (inner.height, inner.width) == (2, 3)
    assert np.array_equal(image[inner.slices], image[outer.slices][inner.within(outer)])
    assert str(inner) == "rows 4:6, columns 5:8"
    assert str(TileKey(1, 2, 3)) == "level 1 row 2 column 3"

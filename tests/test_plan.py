"""Plans against brute force: needs from painted pixels, ranks from longest paths."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileloom.tiling.box import TileKey
from tileloom.tiling.errors import InputError
from tileloom.tiling.grid import Grid, grid_align
from tileloom.tiling.plan import WeavePlan

RELAXED = settings(deadline=None, max_examples=100)


@st.composite
def plans(draw, most_levels=4):
    """Pyramids of 1 to 4 levels, each with its own legal tiles or naive ones, as a job would make them."""
    factor = draw(st.integers(2, 3))
    height, width = draw(st.integers(1, 45)), draw(st.integers(1, 45))
    count = draw(st.integers(1, most_levels))
    levels = []
    for level in range(count):
        align = grid_align(draw(st.integers(1, 2)), factor if level + 1 < count else None)
        tile = draw(st.integers(2, 5))
        guard = draw(st.integers(0, tile - 2))
        stride = draw(st.integers(1, tile - guard - 1))
        if draw(st.integers(0, 3)) == 0:
            stride, guard = tile, 0
        grid = Grid(height, width, tile * align, stride * align, guard * align, align)
        levels.append(grid)
        height, width = grid.rows.length // factor, grid.cols.length // factor
    return WeavePlan(tuple(levels), factor)


def guarded(size, levels=1, tile=16, stride=12, guard=2):
    grids = []
    for _ in range(levels):
        grids.append(Grid(size, size, tile, stride, guard, 2))
        size = grids[-1].rows.length // 2
    return WeavePlan(tuple(grids))


def painted_owners(plan, level):
    """The level's pixels, each painted with the tile that owns it."""
    grid = plan.levels[level]
    owner = np.full(grid.box.shape, -1)
    for tile in plan.tiles(level):
        owner[plan.owns(tile).slices] = tile
    return owner


def needs_by_pixels(plan):
    """For every tile its needs, from neighbours in the grid and from painted coarse pixels."""
    needs = {}
    for level, grid in enumerate(plan.levels):
        coarse = painted_owners(plan, level + 1) if level + 1 < len(plan.levels) else None
        for tile in plan.tiles(level):
            _, row, col = plan.key(tile)
            found = set()
            if not grid.naive:
                if col:
                    found.add(plan.index(TileKey(level, row, col - 1)))
                if row:
                    found.add(plan.index(TileKey(level, row - 1, col)))
            if coarse is not None:
                found |= {int(t) for t in np.unique(coarse[plan.sees(tile).coarsen(plan.factor).slices])}
            needs[tile] = found
    return needs


def longest_before(needs):
    depth = {}
    for tile in sorted(needs):
        depth[tile] = 1 + max((depth[need] for need in needs[tile]), default=-1)
    return depth


@RELAXED
@given(plans())
def test_needs_are_west_north_and_the_coarse_tiles_that_own_a_pixel_of_the_window(plan):
    for tile, needs in needs_by_pixels(plan).items():
        listed = plan.needs(tile)
        assert len(listed) == len(set(listed))
        assert set(listed) == needs
        assert all(need < tile for need in needs)


@RELAXED
@given(plans())
def test_feeds_are_the_inverse_of_needs(plan):
    feeds = {tile: set() for tile in plan}
    for tile in plan:
        for need in plan.needs(tile):
            feeds[need].add(tile)
    for tile in plan:
        listed = plan.feeds(tile)
        assert len(listed) == len(set(listed))
        assert set(listed) == feeds[tile]


@RELAXED
@given(plans())
def test_ranks_depths_and_widths_are_those_of_the_longest_paths(plan):
    depth = longest_before(needs_by_pixels(plan))
    rank = dict.fromkeys(plan, 0)
    for tile in sorted(plan, reverse=True):
        for need in plan.needs(tile):
            rank[need] = max(rank[need], rank[tile] + 1)
    assert {tile: plan.depth(tile) for tile in plan} == depth
    assert {tile: plan.rank(tile) for tile in plan} == rank
    assert plan.critical_path == max(depth.values()) + 1 == max(rank.values()) + 1
    assert plan.width_profile().tolist() == np.bincount(list(depth.values())).tolist()


@RELAXED
@given(plans(), st.floats(0, 1), st.integers(0, 9))
def test_pending_counts_the_needs_that_are_not_done(plan, share, seed):
    done = np.random.default_rng(seed).random(plan.count) < share
    expected = [sum(not done[need] for need in plan.needs(tile)) for tile in plan]
    pending = plan.pending(done)
    assert pending.dtype == np.uint8
    assert pending.tolist() == expected


@RELAXED
@given(plans(most_levels=2))
def test_reads_are_the_owners_of_every_pixel_taken(plan):
    for level, grid in enumerate(plan.levels):
        owner = painted_owners(plan, level)
        for tile in plan.tiles(level):
            taken = [owner[strip.slices] for strip in grid.context(*plan.key(tile)[1:])]
            if level + 1 < len(plan.levels):
                taken.append(painted_owners(plan, level + 1)[plan.sees(tile).coarsen(plan.factor).slices])
            expected = sorted({int(t) for pixels in taken for t in np.unique(pixels)})
            assert list(plan.reads(tile)) == expected


@RELAXED
@given(plans())
def test_all_that_a_tile_reads_comes_before_it(plan):
    before = {}
    for tile in plan:
        before[tile] = set(plan.needs(tile)).union(*(before[need] for need in plan.needs(tile)))
        assert set(plan.reads(tile)) <= before[tile]


@RELAXED
@given(plans())
def test_numbering_is_coarsest_first_then_rows_then_columns(plan):
    keys = [plan.key(tile) for tile in plan]
    assert keys == sorted(keys, key=lambda key: (-key.level, key.row, key.col))
    assert [plan.index(key) for key in keys] == list(range(plan.count))
    for level, grid in enumerate(plan.levels):
        tiles = plan.tiles(level)
        assert len(tiles) == grid.count
        assert {plan.key(tile).level for tile in tiles} == {level}
        first = plan.key(tiles[0])
        assert plan.owns(tiles[0]) == grid.owns(first.row, first.col)


def test_a_plan_by_hand():
    plan = guarded(28, levels=2)
    assert [grid.count for grid in plan.levels] == [4, 1]
    assert plan.count == 5
    assert plan.needs(0) == []
    assert plan.feeds(0) == [1, 2, 3, 4]
    assert sorted(plan.needs(4)) == [0, 2, 3]
    assert plan.critical_path == 4
    assert plan.width_profile().tolist() == [1, 1, 2, 1]


def test_a_tile_that_does_not_exist_has_no_name():
    plan = guarded(28)
    with pytest.raises(IndexError):
        plan.key(-1)


def test_the_digest_names_the_geometry_and_nothing_else():
    same = {guarded(100, levels=2).digest for _ in range(3)}
    others = {
        guarded(101 + 2, levels=2).digest,
        guarded(100, levels=1).digest,
        guarded(100, levels=2, stride=10).digest,
        guarded(100, levels=2, guard=0).digest,
        guarded(100, levels=2, tile=18).digest,
        WeavePlan(guarded(100, levels=2).levels, 3).digest,
    }
    assert len(same) == 1
    assert len(same | others) == 7


def test_a_plan_travels_to_workers():
    plan = guarded(200, levels=3)
    arrived = pickle.loads(pickle.dumps(plan))
    assert arrived == plan
    assert [arrived.needs(tile) for tile in arrived] == [plan.needs(tile) for tile in plan]


def test_more_needs_than_a_byte_counts_are_refused():
    fine = Grid(600, 600, 64, 48, 8, 2)
    with pytest.raises(InputError, match=r"looks through 256 tiles of level 1.*larger than 2"):
        WeavePlan((fine, Grid(300, 300, 64, 2, 0, 2)))


def test_plans_of_millions_of_tiles_cost_no_memory_a_tile():
    plan = guarded(2000 * 12, levels=2)
    assert plan.count > 4_000_000
    assert len(pickle.dumps(plan)) < plan.count / 10

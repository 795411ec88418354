"""Plans whose tiles go on from each other in raster order, against their own needs; and the windows they begin from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline import holes, job, restore, root_of, scene
from tileloom.jobs.compile import compile_job
from tileloom.tiling.access import ImageAccess
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.frontier import Frontier, TileState
from tileloom.tiling.grid import Grid
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.raster import RasterPlan


@st.composite
def plans(draw):
    """One to three levels of anything from one tile to a few dozen."""
    height, width, tile = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.sampled_from([4, 8]))
    grids = []
    for _ in range(draw(st.integers(1, 3))):
        grids.append(Grid(height, width, tile, draw(st.sampled_from([2, tile // 2])), 0, 2))
        height, width = grids[-1].rows.length // 2, grids[-1].cols.length // 2
    return RasterPlan(tuple(grids))


@given(plans())
def test_a_tile_needs_the_one_before_it_besides_what_a_weave_needs(plan):
    weave = WeavePlan(plan.levels)
    for level in range(len(plan.levels)):
        tiles = plan.tiles(level)
        for tile in tiles:
            before = tile - 1 if tile > tiles.start else None
            assert set(plan.needs(tile)) == {*weave.needs(tile), *({before} - {None})}
            assert len(plan.needs(tile)) == len(set(plan.needs(tile)))
            assert plan.follows(tile) == before
            assert weave.follows(tile) is None


@given(plans())
def test_feeds_are_needs_from_the_other_end(plan):
    needs = {tile: plan.needs(tile) for tile in plan}
    for tile in plan:
        assert sorted(plan.feeds(tile)) == [other for other in plan if tile in needs[other]]
        assert len(set(plan.feeds(tile))) == len(plan.feeds(tile))


@given(plans())
def test_rank_and_depth_are_the_longest_chains(plan):
    depth, rank = {}, {}
    for tile in plan:
        depth[tile] = max((depth[need] + 1 for need in plan.needs(tile)), default=0)
    for tile in reversed(list(plan)):
        rank[tile] = max((rank[fed] + 1 for fed in plan.feeds(tile)), default=0)
    assert {tile: plan.depth(tile) for tile in plan} == depth
    assert {tile: plan.rank(tile) for tile in plan} == rank
    assert plan.critical_path == max(depth.values()) + 1
    np.testing.assert_array_equal(plan.width_profile(), np.bincount(list(depth.values())))


@given(plans(), st.data())
def test_pending_counts_open_needs(plan, data):
    done = np.array(data.draw(st.lists(st.booleans(), min_size=plan.count, max_size=plan.count)))
    expected = [sum(not done[need] for need in plan.needs(tile)) for tile in plan]
    assert plan.pending(done).tolist() == expected


@given(plans())
def test_all_that_a_tile_reads_is_done_before_it_may_begin(plan):
    before = {}
    for tile in plan:
        needs = plan.needs(tile)
        before[tile] = set(needs).union(*(before[need] for need in needs))
        assert set(plan.reads(tile)) <= before[tile]
        assert plan.reads(tile) == sorted(set(plan.reads(tile)))


def test_what_is_begun_from_is_read():
    """The window of the last tile of a row is not what the first of the next row sees."""
    plan = RasterPlan((Grid(12, 20, 8, 4),))
    assert plan.reads(4) == [0, 2, 3]
    assert WeavePlan(plan.levels).reads(4) == [0]


def test_it_is_another_plan_than_the_weave_of_its_tiles():
    plan = RasterPlan((Grid(12, 20, 8, 4),))
    assert plan.digest != WeavePlan(plan.levels).digest
    assert plan != WeavePlan(plan.levels)


def test_a_frontier_hands_out_one_tile_at_a_time():
    plan = RasterPlan((Grid(12, 20, 8, 4),))
    frontier = Frontier()
    frontier.add("image", plan, state=np.full(plan.count, TileState.TODO, np.uint8))
    order = []
    while taken := frontier.take(9):
        assert len(taken) == 1
        order += [tile for _, tile in taken]
        frontier.done(taken)
    assert order == list(range(plan.count))


@given(plans(), st.data())
def test_tiles_that_are_done_from_the_start_hide_no_open_context(plan, data):
    """Whatever is born done, a tile begins only after its west and north neighbours and its coarse tiles."""
    weave = WeavePlan(plan.levels)
    born = data.draw(st.sets(st.sampled_from(range(plan.count))))
    frontier = Frontier()
    state = np.full(plan.count, TileState.TODO, np.uint8)
    state[list(born)] = TileState.BORN
    frontier.add("image", plan, state=state)
    done = set(born)
    while taken := frontier.take(9):
        for _, tile in taken:
            assert set(weave.needs(tile)) <= done
        frontier.done(taken)
        done |= {tile for _, tile in taken}
    assert done == set(plan)


# --- what tiles begin from ---


@pytest.fixture
def carried(tmp_path):
    """A finished job of one level, its opened image, and the mask it came from."""
    image, mask = scene(2, 30, 34), holes(30, 34)
    spec = job(tmp_path, image, task="inpaint", mask=mask, range=[-1, 1], levels=1, parity={"carry": True}, stride=8)
    restore(spec)
    plan = compile_job(spec).image
    access = ImageAccess(type(plan)(**{**vars(plan), "root": str(root_of(spec))}), ChunkCache(2**24))
    return access, mask


def test_a_tile_begins_from_the_finished_window_of_the_tile_before_it(carried):
    access, mask = carried
    assert isinstance(access.plan, RasterPlan)
    finished = np.pad(access.render(access.plan.levels[0].image, set()), ((0, 0), (0, 2), (0, 2)), mode="symmetric")
    seen = 0
    for tile in access.plan:
        start = access.inputs(tile).start
        if tile == 0:
            assert start is None
            continue
        before = access.plan.sees(tile - 1).intersect(access.plan.levels[0].image)
        inner = before.within(access.plan.sees(tile - 1))
        np.testing.assert_allclose(start[:, *inner], finished[:, *before.slices], atol=1e-6)
        seen += mask[before.slices].any()
    assert seen > 3


def test_a_tile_after_a_degraded_one_begins_in_noise(carried):
    access, mask = carried
    tile = next(t for t in access.plan if t and mask[access.plan.owns(t - 1).slices].any())
    assert access.inputs(tile).start is not None
    assert access.inputs(tile, degraded=[tile - 1]).start is None


def test_a_change_of_what_a_tile_begins_from_makes_it_stale(carried):
    access, _ = carried
    fresh, lost = access.inputs(1), access.inputs(1, degraded=[0])
    assert fresh.digest(b"") != lost.digest(b"")

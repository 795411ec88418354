"""The simulator: the real frontier under a fake clock, and the picture of what it did."""

from collections import defaultdict
from itertools import pairwise

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileloom.tiling.errors import InputError
from tileloom.tiling.frontier import TileState, oldest_image_first
from tileloom.tiling.grid import Grid
from tileloom.tiling.lockstep import LockstepPlan
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.simulate import Autoscale, Interval, simulate
from tileloom.tiling.weave_picture import weave_picture, write_png

TILE = {"call_seconds": 0.5, "calls_per_tile": 20}
SECONDS = 10.0


def woven(rows, cols, levels=1):
    size, grids = (64 + 48 * (rows - 1), 64 + 48 * (cols - 1)), []
    for _ in range(levels):
        grids.append(Grid(*size, 64, 48, 8, 2))
        size = grids[-1].rows.length // 2, grids[-1].cols.length // 2
    return WeavePlan(tuple(grids))


def by_slot(simulation):
    slots = defaultdict(list)
    for interval in sorted(simulation.intervals):
        slots[interval.worker, interval.slot].append(interval)
    return slots


def check_order(simulation, plans, states):
    """Every tile ends once, on a slot of its own, after its needs."""
    ended = {(i.image, i.tile): i for i in simulation.intervals if not i.lost}
    assert len(ended) + simulation.redone == len(simulation.intervals)
    for (image, tile), interval in ended.items():
        assert states[image][tile] == TileState.TODO
        for need in plans[image].needs(tile):
            assert (image, need) not in ended or ended[image, need].end <= interval.start
    assert len(ended) == sum(int((state == TileState.TODO).sum()) for state in states)
    for intervals in by_slot(simulation).values():
        assert all(one.end <= two.start for one, two in pairwise(intervals))


def todo(plans):
    return [np.zeros(plan.count, np.uint8) for plan in plans]


@pytest.mark.parametrize("levels", [1, 2])
def test_one_slot_takes_as_long_as_all_the_work(levels):
    plans = [woven(4, 3, levels), woven(2, 2)]
    simulation = simulate(plans, workers=1, slots=1, **TILE)
    assert simulation.makespan == simulation.work == SECONDS * sum(plan.count for plan in plans)
    assert simulation.efficiency == simulation.busy == 1
    check_order(simulation, plans, todo(plans))


@pytest.mark.parametrize("slots", [1, 3, 100])
def test_one_worker_waits_for_every_tile_that_it_reads_and_writes(slots):
    plans = [woven(4, 3, 2), woven(2, 2)]
    overlapped = simulate(plans, workers=1, slots=slots, **TILE)
    waiting = simulate(plans, workers=1, slots=slots, tile_seconds=0.75, **TILE)
    assert waiting.makespan == overlapped.makespan + 0.75 * sum(plan.count for plan in plans)
    check_order(waiting, plans, todo(plans))


def test_workers_do_not_wait_for_each_others_tiles():
    plan = WeavePlan((Grid(64, 256, 64, 64),))
    simulation = simulate([plan], workers=2, slots=2, tile_seconds=1, **TILE)
    assert sorted((i.worker, i.slot, i.start, i.end) for i in simulation.intervals) == [
        (worker, slot, 0, SECONDS + 2) for worker in (0, 1) for slot in (0, 1)
    ]
    assert simulation.efficiency == 1


def test_a_tile_taken_later_puts_off_those_in_flight():
    square, first, second = 0, 1, 2
    plans = [woven(2, 2), woven(1, 2), woven(1, 2)]
    simulation = simulate(plans, workers=2, slots=2, tile_seconds=1, **TILE)
    assert {(i.image, i.tile): (i.worker, i.start, i.end) for i in simulation.intervals} == {
        (square, 0): (0, 0, 12),
        (first, 0): (0, 0, 12),
        (second, 0): (1, 0, 11),
        (second, 1): (1, 11, 23),
        (square, 1): (0, 12, 24),
        (square, 2): (0, 12, 24),
        (first, 1): (1, 12, 23),
        (square, 3): (0, 24, 35),
    }


@pytest.mark.parametrize("plan", [woven(5, 7), woven(5, 7, 3), LockstepPlan(3, 4, steps=5, phases=2)])
def test_endless_slots_take_as_long_as_the_critical_path(plan):
    simulation = simulate([plan], workers=1, slots=plan.count, **TILE)
    assert simulation.makespan == simulation.critical_path == SECONDS * plan.critical_path
    assert simulation.efficiency == 1


def test_the_critical_path_of_a_mask_is_exact_not_the_plans_bound():
    plan = woven(6, 6)
    state = np.full(plan.count, TileState.BORN, np.uint8)
    state[[0, 1, 35]] = TileState.TODO
    state[[2, 3]] = TileState.RELAY
    simulation = simulate([plan], workers=4, slots=4, states=[state], **TILE)
    assert simulation.critical_path == simulation.makespan == 2 * SECONDS
    assert simulation.work == 3 * SECONDS
    check_order(simulation, [plan], [state])


def test_nothing_to_do_takes_no_time():
    plan = woven(3, 3)
    simulation = simulate([plan], workers=2, slots=2, states=[np.full(9, TileState.DONE, np.uint8)], **TILE)
    assert (simulation.makespan, simulation.work, simulation.efficiency) == (0, 0, 1)
    assert simulation.intervals == ()


def test_many_images_fill_the_slots_that_one_leaves_empty():
    alone = simulate([woven(8, 8)], workers=4, slots=4, **TILE)
    together = simulate([woven(8, 8)] * 8, workers=4, slots=4, **TILE)
    assert together.busy > 0.9 > alone.busy
    assert together.efficiency == pytest.approx(together.bound / together.makespan)
    assert together.slots == 16


def test_the_policy_decides_which_image_ends_first():
    plans = [woven(4, 4)] * 3
    simulation = simulate(plans, workers=1, slots=1, policy=oldest_image_first, **TILE)
    assert [i.image for i in sorted(simulation.intervals, key=lambda i: i.start)] == [0] * 16 + [1] * 16 + [2] * 16


def test_tiles_of_lost_workers_are_redone_and_nothing_else():
    plans = [woven(8, 8)] * 2
    calm = simulate(plans, workers=4, slots=2, **TILE)
    stormy = simulate(plans, workers=4, slots=2, mtbf=60, seed=3, autoscale=Autoscale(4, 4, 30), **TILE)
    assert calm.redone == 0
    assert stormy.redone > 0
    assert stormy.makespan > calm.makespan
    assert stormy.work == calm.work
    assert stormy.worker_seconds == pytest.approx(4 * stormy.makespan)
    check_order(stormy, plans, todo(plans))


def test_a_lost_worker_comes_back_after_its_start_up():
    plans = [woven(6, 6)]
    simulation = simulate(plans, workers=1, slots=1, mtbf=100, seed=1, autoscale=Autoscale(1, 1, 70), **TILE)
    lost = [i for i in simulation.intervals if i.lost]
    assert lost
    starts = sorted(i.start for i in simulation.intervals)
    for interval in lost:
        assert min(start for start in starts if start > interval.start) >= interval.end + 70
        assert interval.end - interval.start < SECONDS


def test_the_seed_decides_everything():
    def run(seed):
        scale = Autoscale(1, 4, 15)
        return simulate([woven(6, 6, 2)] * 2, workers=2, slots=3, mtbf=90, seed=seed, autoscale=scale, **TILE)

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_autoscaling_stays_in_its_range_and_waits_for_the_start_up():
    plans = [woven(12, 12)] * 2
    simulation = simulate(plans, workers=1, slots=2, autoscale=Autoscale(1, 5, 35), **TILE)
    begun = {worker: min(i.start for i in simulation.intervals if i.worker == worker) for worker in range(5)}
    assert {i.worker for i in simulation.intervals} == set(range(5))
    assert begun[0] == 0
    assert min(begun[worker] for worker in range(1, 5)) >= 35
    assert simulation.slots == 10
    check_order(simulation, plans, todo(plans))


def test_idle_workers_are_parked_so_that_a_narrow_job_holds_few():
    chain = [woven(1, 40)]
    fixed = simulate(chain, workers=5, slots=2, **TILE)
    scaled = simulate(chain, workers=5, slots=2, autoscale=Autoscale(1, 5, 20), **TILE)
    assert scaled.makespan == fixed.makespan == 40 * SECONDS
    assert fixed.worker_seconds == 5 * fixed.makespan
    assert scaled.worker_seconds == scaled.makespan + 4 * 20
    assert scaled.busy > 3 * fixed.busy
    assert scaled.idle == pytest.approx(4 * 20 / scaled.worker_seconds)
    assert fixed.idle == pytest.approx(4 / 5)
    longer = simulate(chain, workers=5, slots=2, autoscale=Autoscale(0, 5, 20, 50), **TILE)
    assert longer.worker_seconds == longer.makespan + 4 * 50
    at_least_two = simulate(chain, workers=5, slots=2, autoscale=Autoscale(2, 5, 20), **TILE)
    assert at_least_two.worker_seconds == 2 * at_least_two.makespan + 3 * 20


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from([None, 15, 200]),
    st.sampled_from([0, 7.5, 60]),
    st.sampled_from([0, 1.25]),
    st.integers(0, 99),
)
def test_no_run_beats_the_bound_or_loses_a_tile(workers, slots, spare, mtbf, startup, tile_seconds, seed):
    plans = [woven(3, 5, 2), woven(4, 2)]
    random = np.random.default_rng(seed)
    states = [
        np.where(random.random(plan.count) < 0.3, TileState.RELAY, TileState.TODO).astype(np.uint8) for plan in plans
    ]
    scale = Autoscale(max(1, workers - spare), workers + spare, startup)
    cluster = {"workers": workers, "slots": slots, "mtbf": mtbf, "seed": seed, "autoscale": scale}
    simulation = simulate(plans, states=states, tile_seconds=tile_seconds, **cluster, **TILE)
    check_order(simulation, plans, states)
    assert 0 < simulation.efficiency <= 1
    assert 0 < simulation.busy <= 1 + 1e-9
    assert -1e-9 <= simulation.idle <= 1 - simulation.busy + 1e-9
    assert scale.min * simulation.makespan <= simulation.worker_seconds + 1e-6
    assert simulation.worker_seconds <= scale.max * simulation.makespan + 1e-6
    assert {i.worker for i in simulation.intervals} <= set(range(scale.max))
    assert {i.slot for i in simulation.intervals} <= set(range(slots))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"workers": 0}, "at least 1"),
        ({"slots": 0}, "at least 1"),
        ({"workers": 5, "autoscale": Autoscale(1, 4)}, "5 workers do not lie in the range 1:4"),
        ({"autoscale": Autoscale(-1, 4)}, "2 workers do not lie in the range -1:4"),
        ({"autoscale": Autoscale(0, 4, 1, -1)}, "the time to park not below"),
        ({"call_seconds": 0.0}, "must be above 0"),
        ({"tile_seconds": -0.1}, "reading and writing, the start-up delay and the time to park not below"),
        ({"mtbf": 1.0}, "hardly ever finish a tile of 10 s; make mtbf at least 2"),
        ({"mtbf": 0.0}, "hardly ever finish"),
    ],
)
def test_clusters_that_cannot_work_are_refused(change, sentence):
    settings = {"workers": 2, "slots": 1, **TILE, **change}
    with pytest.raises(InputError, match=sentence):
        simulate([woven(2, 2)], **settings)


def test_the_picture_shows_each_slot_as_a_band_and_idle_slots_dark():
    plan = woven(2, 2)
    intervals = [Interval(0, 0, 0, 10, 0, 0), Interval(0, 0, 10, 20, 0, 1), Interval(0, 1, 10, 20, 0, 2)]
    picture = weave_picture(intervals, [plan], width=224, height=300)
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (224, 3)
    first, second = picture[14], picture[14 + 24]
    dark = picture[0, 0]
    assert not np.array_equal(first[60], dark)
    assert not np.array_equal(first[160], first[60])
    assert np.array_equal(second[60], dark)
    assert np.array_equal(second[160], first[160])


def test_lost_tiles_are_red_and_images_and_levels_differ():
    plans = [woven(2, 2, 2), woven(2, 2, 2)]
    intervals = [
        Interval(0, 0, 0, 10, 0, 0),
        Interval(1, 0, 0, 10, 0, 4),
        Interval(2, 0, 0, 10, 1, 4),
        Interval(3, 0, 0, 10, 1, 4, lost=True),
    ]
    picture = weave_picture(intervals, plans, width=100).astype(int)
    bands = [tuple(picture[14 + worker * (24 + 3), 50]) for worker in range(4)]
    assert len(set(bands)) == 4
    red, green, blue = bands[3]
    assert red > 3 * max(green, blue)


def test_the_foot_of_the_picture_shows_the_share_of_busy_slots():
    plan = woven(2, 2)
    intervals = [Interval(0, 0, 0, 20, 0, 0), Interval(0, 1, 10, 20, 0, 2)]
    picture = weave_picture(intervals, [plan], width=224)
    foot = (picture[-52:-12] != picture[0, 0]).any(axis=2).sum(axis=0)
    assert foot[60] == 20
    assert foot[160] == 40


def test_pictures_of_very_many_slots_and_of_very_short_tiles_still_hold_them_all():
    plan = woven(30, 50)
    intervals = [Interval(tile, 0, tile, tile + 1, 0, tile) for tile in range(plan.count)]
    picture = weave_picture(intervals, [plan], width=100, height=200)
    assert picture.shape[0] >= plan.count
    assert (picture[12 : 12 + plan.count] != picture[0, 0]).any(axis=(1, 2)).all()


def test_simulations_of_every_kind_of_plan_can_be_drawn():
    plans = [woven(4, 4, 2), LockstepPlan(2, 2, steps=3)]
    simulation = simulate(plans, workers=2, slots=3, mtbf=100, seed=2, **TILE)
    assert weave_picture(simulation.intervals, plans).ndim == 3


def test_an_empty_run_cannot_be_drawn():
    with pytest.raises(InputError, match="nothing to draw"):
        weave_picture([], [])


def test_a_png_is_written_whole_or_not_at_all(tmp_path):
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    target = tmp_path / "weave.png"
    write_png(target, picture)
    assert np.array_equal(imagecodecs.png_decode(target.read_bytes()), picture)
    with pytest.raises(ValueError, match=r".+"):
        write_png(target, picture.astype(np.float64))
    assert np.array_equal(imagecodecs.png_decode(target.read_bytes()), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["weave.png"]

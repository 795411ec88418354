"""Blocks in lock-step under a fake clock: in the order of their plan, on the workers that hold them."""

from collections import defaultdict
from itertools import pairwise

import pytest

from tests.commandline import tileloom, written
from tileloom.tiling.errors import InputError
from tileloom.tiling.exchange import Pattern, joint, runs, windows_of
from tileloom.tiling.grid import Grid
from tileloom.tiling.lockstep import Lattice
from tileloom.tiling.simulate_lockstep import Losses, simulate_lockstep

STEPS = 6


def level(height, width, side=48):
    return Lattice(Grid(height, width, 16, 12), Grid(height, width, side, side, least=16))


LEVEL = level(200, 160)


def simulated(images=((LEVEL,),), pattern=None, **options):
    told = {"steps": STEPS, "every": 2, "workers": 1, "slots": 4, "call_seconds": 1.0, **options}
    return simulate_lockstep([list(levels) for levels in images], pattern or joint(3), **told)


def test_one_worker_with_one_slot_takes_as_long_as_all_the_work():
    found, _ = simulated(slots=1)
    assert found.makespan == found.work == LEVEL.windows.count * STEPS
    assert (found.busy, found.idle, found.efficiency) == (1, 0, 1)


def test_endless_slots_take_a_call_a_step_and_level():
    found, _ = simulated([[LEVEL, level(100, 80)]], slots=10**6, workers=10**3)
    assert found.makespan == found.critical_path == 2 * STEPS


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_run_beats_the_busiest_worker(workers):
    found, _ = simulated(workers=workers)
    busiest = max(-(-windows_of(LEVEL, share) // 4) for share in runs(LEVEL.count, workers))
    assert STEPS * busiest <= found.makespan <= 1.6 * STEPS * busiest
    assert found.bound <= found.makespan


@pytest.mark.parametrize("losses", [None, Losses(60.0, 5.0, seed=3)])
def test_blocks_go_on_only_from_what_their_neighbours_came_to(losses):
    found, plans = simulated([[LEVEL]] * 2, workers=3, losses=losses)
    assert bool(found.redone) == bool(losses)
    first, last = defaultdict(lambda: float("inf")), defaultdict(float)
    for interval in (one for one in found.intervals if not one.lost):
        at, block = plans[interval.image].locate(interval.tile)
        key = interval.image, block, (at - 1) // 2
        first[key], last[key] = min(first[key], interval.end), max(last[key], interval.start)
    for (image, block, step), start in last.items():
        for other in plans[image].around(block) if step else ():
            assert first[image, other, step - 1] <= start
    done = {key for key in last}
    assert len(done) == sum(plan.rows * plan.cols for plan in plans) * STEPS


def test_a_slot_does_one_block_at_a_time():
    found, _ = simulated(workers=3, losses=Losses(60.0, 5.0, seed=3))
    slots = defaultdict(list)
    for interval in sorted(found.intervals):
        slots[interval.worker, interval.slot].append(interval)
    for intervals in slots.values():
        assert all(one.end <= two.start for one, two in pairwise(intervals))


def test_losses_cost_time_and_the_same_seed_costs_the_same():
    whole, _ = simulated(workers=3)
    lost, _ = simulated(workers=3, losses=Losses(60.0, 5.0))
    again, _ = simulated(workers=3, losses=Losses(60.0, 5.0))
    assert lost.makespan == again.makespan > whole.makespan
    assert lost.redone == again.redone > 0 == whole.redone


def test_saving_more_often_loses_less():
    rare, often = (simulated(workers=3, steps=40, every=k, losses=Losses(300.0, seed=1))[0].redone for k in (20, 1))
    assert often < rare


def test_a_pattern_of_one_phase_is_simulated_alike():
    one = Pattern((lambda lattice, source, target: 0,), (3,), asking=0)
    found, plans = simulated(pattern=one, slots=1)
    assert found.makespan == LEVEL.windows.count * STEPS
    assert plans[0].phases == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "at least 1"),
        ({"slots": 0}, "at least 1"),
        ({"call_seconds": 0.0}, "above 0"),
        ({"losses": Losses(0.001)}, "make mtbf at least"),
    ],
)
def test_what_cannot_be_simulated_is_refused(options, says):
    with pytest.raises(InputError, match=says):
        simulated(**options)


def test_nothing_to_weave_takes_no_time():
    found, _ = simulated([[]])
    assert (found.makespan, found.efficiency) == (0, 1)


# --- the command ---


def joint_job(folder, **keys):
    usual = {"input": "blank:300x200", "output": "out.zarr", "task": "generate", "weave": "joint", "lanes": 1}
    return written(folder, **usual | keys)


def test_a_joint_job_is_simulated_and_drawn(tmp_path, capfd):
    words = ("simulate", joint_job(tmp_path), "--workers", 2, "--slots", 4, "--call-seconds", 0.1)
    said = tileloom(capfd, *words, "--picture", tmp_path / "weave.png", "--images", 2)
    assert said.code == 0
    assert "redone: 0 steps of blocks" in said.out
    assert (tmp_path / "weave.png").stat().st_size > 1000
    found = tileloom(capfd, *words, "--json").json
    assert found["makespan"] >= found["bound"] > 0


def test_a_joint_job_does_not_grow(tmp_path, capfd):
    words = ("simulate", joint_job(tmp_path), "--workers", 2, "--slots", 4, "--call-seconds", 0.1)
    said = tileloom(capfd, *words, "--autoscale", "1:4")
    assert said.code == 2
    assert "stay with their workers" in said.errors[0]
    assert tileloom(capfd, *words, "--startup", "30").code == 0

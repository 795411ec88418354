"""What workers did, how long they and their machines were held, and what that costs."""

import pytest

from tileloom.cluster import timesheet, usage
from tileloom.cluster.timesheet import Shift, Timesheet
from tileloom.cluster.usage import Activity, Doing, Stopwatch, Usage

KINDS = {"a": frozenset({"A100", "spot"}), "b": frozenset({"T4", "spot"})}


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, monkeypatch, module, name):
        self.now = 100.0
        monkeypatch.setattr(module, name, lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch, timesheet, "monotonic")


@pytest.fixture
def worked(clock):
    """Two workers on one machine, for thirty seconds and for ten of these; after the ten one on another machine."""
    sheet = Timesheet()
    clock.now = 130.0
    for shift in (Shift("worker 1", "a", 100.0), Shift("worker 2", "a", 100.0, 110.0), Shift("worker 3", "b", 110.0)):
        sheet.begin(shift, KINDS[shift.node])
    return sheet


def test_machines_count_once_and_workers_each(worked):
    assert worked.worker_seconds == 30 + 10 + 20
    assert worked.held == {"a": 30.0, "b": 20.0}
    assert [shift.name for shift in worked.present] == ["worker 1", "worker 3"]


def test_a_machine_that_was_left_and_taken_again_was_not_held_meanwhile(worked):
    worked.shifts[0].ended = 105.0
    worked.begin(Shift("worker 4", "a", 115.0, 120.0), KINDS["a"])
    assert worked.held["a"] == 10.0 + 5.0


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        ({"A100": 3600.0, "T4": 360.0}, 30 + 2),
        ({"T4": 360.0, "spot": 36.0}, 2 + 0.3),
        ({"spot": 36.0, "T4": 360.0}, 0.5),
        ({"A100": 3600.0}, None),
        ({}, None),
    ],
)
def test_the_first_price_that_names_a_machine_counts(worked, prices, cost):
    assert worked.cost(prices) == (None if cost is None else pytest.approx(cost))


def test_what_nobody_told_of_is_waiting(clock):
    shift = Shift("worker 1", "a", clock.now)
    clock.now = 110.0
    shift.told(Usage(loading=1.0, reading=2.0, computing=3.0, writing=0.5, chores=0.5, waiting=1.0), 7.0, 107.0)
    assert (shift.seconds, shift.waiting) == (10.0, 3.0)
    shift.ended = 108.0
    clock.now = 200.0
    assert (shift.seconds, shift.waiting) == (8.0, 1.0)


def test_a_workers_clock_is_known_as_well_as_its_quickest_answer(clock):
    shift = Shift("worker 1", "a", clock.now)
    for given, heard in ((1000.0, 103.0), (1010.0, 111.0), (1020.0, 128.0)):
        shift.told(Usage(), given, heard)
    assert shift.clock == 111.0 - 1010.0


def test_workers_add_up_with_those_that_are_gone(worked):
    worked.shifts[0].usage = Usage(tiles=2, calls=6, offered=8, reading=1.0)
    worked.shifts[1].usage = Usage(tiles=1, calls=3, offered=4, reading=0.5)
    assert worked.usage == Usage(tiles=3, calls=9, offered=12, reading=1.5)
    assert worked.usage.fill == 0.75


def test_every_second_belongs_to_one_activity(monkeypatch):
    clock = Clock(monkeypatch, usage, "perf_counter")
    watch = Stopwatch()
    for seconds, activity in enumerate((*Activity, Activity.WAITING, Activity.READING)):
        clock.now += seconds
        assert watch.turn(activity) == clock.now
    clock.now += 5
    assert watch.usage.busy + watch.usage.waiting == clock.now - 5 - 100
    assert watch.usage.reading == 2
    assert watch.usage.waiting == 6 + 7
    assert watch.doing == Doing(Activity.READING, 5)

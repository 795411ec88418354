"""Demand brings nodes and rest lets them go, by a real autoscaler, and the bytes are those of one process."""

import time

import pytest
import ray

from tests.autoscaler import autoscaled
from tests.test_ray import assert_same, here, on_ray, woven

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
IDLE = 2


@pytest.fixture
def address():
    """A cluster that makes up to two nodes, and ends one that nothing was on for a while."""
    with autoscaled(most=2, idle_seconds=3) as address:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        yield address
        ray.shutdown()


def nodes():
    """Those beside the head."""
    return sum(node["Alive"] for node in ray.nodes()) - 1


def test_nodes_come_with_the_tiles_and_go_with_them(tmp_path, address):
    """The images' fronts are narrow at both ends, and three tiles of either are a chain."""
    expected = woven(tmp_path / "here", here)
    seen, executors = [], []

    def scaled(factory, say, workers):
        executor = on_ray(factory, say, workers=2, cpus=1, least=workers, idle=IDLE)
        executors.append(executor)
        rest(executor)
        assert nodes() == 0
        return executor

    def look(_):
        if not seen or seen[-1] != nodes():
            seen.append(nodes())

    run = woven(tmp_path / "run", scaled, workers=0, pause=0.5, on_reports=look)
    assert 2 in seen
    assert seen[0] < 2
    assert_same(run, expected)
    assert not any("lost" in line for line in run.said)
    [executor] = executors
    sheet = executor.timesheet
    assert {frozenset({"spot.small", "CPU"}) <= kinds for kinds in sheet.kinds.values()} == {True}
    seconds = sum(sheet.held.values())
    assert sheet.worker_seconds >= seconds > 0
    assert sheet.cost({"A100": 9.0, "spot.small": 3600.0}) == pytest.approx(seconds)


def rest(executor):
    """Let a crew that nothing is wanted of come to rest, and its nodes go."""
    crew = executor._crew
    crew.wanted = {}
    while crew.hands:
        list(crew.listen())
    while nodes():
        time.sleep(0.1)

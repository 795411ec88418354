"""What can be seen of workers on Ray: the metrics page of a node, the trace, and what is waited for."""

import json
import logging
import re
import signal
import time
from urllib.request import urlopen

import pytest
import ray

from benchmarks._image import make_image, weave
from tests.stubwork import STEPS, Faults, StubFactory
from tests.test_ray import BANDS, GRIDS, SHAPE, all_present, on_ray
from tileloom.cluster import crew
from tileloom.cluster.tile_actor import TileActor
from tileloom.cluster.usage import Activity
from tileloom.jobs.timeline import Timeline
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.plan import WeavePlan

pytestmark = pytest.mark.slow

TILES = sum(grid.count for grid in GRIDS)
SAYS = r"worker \d+ on node \w{8} was computing for \d s when last asked"


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A Ray of this module's own, whose figures are those of its runs alone."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=8, num_gpus=0, object_store_memory=100_000_000, **quiet)
    yield
    ray.shutdown()


def page():
    """The figures of tileloom that the node shows, by name."""
    [node] = ray.nodes()
    with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r"^ray_tileloom_(\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    assert not any(word in labels for _, labels, _ in found for word in ("tile", "image"))
    return {name: float(value) for name, _, value in found}


@pytest.fixture
def run(tmp_path):
    """Weave both images on Ray with faults; what was seen of it: executor, lines, and the trace's events."""
    (tmp_path / "faults").mkdir()

    def weave_them(*faults, **settings):
        for name in faults:
            Faults(tmp_path / "faults").plan(name)
        images = [make_image(tmp_path / str(at), grid, bands=BANDS, chunk=32) for at, grid in enumerate(GRIDS)]
        said, waits, frontier, trace = [], [], Frontier(), tmp_path / "trace.json"
        with on_ray(StubFactory(SHAPE, tmp_path / "faults", pause=0.02), said.append, **settings) as executor:
            all_present(executor, 2)

            def told(reports):
                timeline.add(reports, frontier, executor.timesheet)
                waits.extend(executor.why())

            with Timeline(trace) as timeline:
                weave(executor, images, frontier, on_reports=told)
            figures = {} if settings else figures_of(executor)
        return executor.timesheet, said, waits, json.loads(trace.read_text())["traceEvents"], figures

    return weave_them


def figures_of(executor):
    """What the page shows once the run's last figures have come there, which is said to take some seconds."""
    until = time.monotonic() + 60
    while (found := page()).get("tiles_done_total") != executor.timesheet.usage.tiles and time.monotonic() < until:
        time.sleep(0.5)
    return found


def test_metrics_the_report_and_the_trace_tell_the_same(run):
    sheet, said, _, events, figures = run("kill-0-1-1", "fail-0-2-1")
    assert len(said) == 1
    usage = sheet.usage
    # The one that was lost may have a successor by then.
    assert figures.pop("workers_up") in (1, 2)
    assert figures == {
        "tiles_done_total": usage.tiles,
        "tiles_failed_total": 1,
        "network_calls_total": usage.calls,
        "workers_lost_total": 1,
        "batch_fill": pytest.approx(usage.fill),
        "backlog": 0,
    }
    assert usage.tiles >= TILES
    assert usage.calls >= TILES * STEPS
    assert list(sheet.lost.values()) == [1]
    for shift in sheet.shifts:
        # What a worker tells by its own clock lies within the time that the driver's knows of.
        assert shift.usage.busy + shift.usage.waiting <= shift.seconds
    assert_trace(events)


def assert_trace(events):
    """Every tile is there once, on a row of its own, and after the tiles that it needed, whoever did those."""
    done = [event for event in events if "args" in event and event["args"].get("outcome") == "done"]
    assert len(done) == TILES
    assert len([event for event in events if "args" in event and event["args"].get("outcome") == "failed"]) == 1
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert len(names) >= 2
    assert all(re.fullmatch(r"worker \d+ on \w{56}", name) for name in names.values())
    rows = {}
    for event in done:
        rows.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for row in rows.values():
        # Times have one digit behind the microsecond.
        assert all(after >= ended - 0.2 for (_, ended), (after, _) in zip(sorted(row), sorted(row)[1:], strict=False))
    # Tiles beyond the smaller image are those of the larger one.
    plan, small = WeavePlan((GRIDS[0],)), GRIDS[1].rows.count
    mine = [event["args"] | event for event in done if max(event["args"]["row"], event["args"]["col"]) >= small]
    at = {event["tile"]: event for event in mine}
    pairs = [(at[need], event) for tile, event in at.items() for need in plan.needs(tile) if need in at]
    assert pairs
    assert all(before["ts"] + before["dur"] - 0.2 <= after["ts"] for before, after in pairs)


def test_a_worker_that_is_silent_is_asked_and_the_watchdog_bites_all_the_same(run, monkeypatch):
    monkeypatch.setattr(crew, "_SILENT", 0.5)
    _, said, waits, _, _ = run("hang-0-1-2", patience=4)
    assert any(re.fullmatch(SAYS, line) for line in waits)
    assert any("a call took more than 4 s" in line for line in said)


def test_a_worker_that_has_no_place_is_named(run):
    _, _, waits, _, _ = run(workers=3, cpus=3)
    lacks = "each needs 3 CPUs and 0 GPUs, the cluster has 8 CPUs and 0 GPUs in all"
    assert f"1 worker waiting for a node: {lacks}" in waits


@pytest.fixture
def actor(tmp_path):
    """The class of actors itself, in this process."""
    (tmp_path / "faults").mkdir()
    handler = signal.getsignal(signal.SIGTERM)
    logger = logging.getLogger("tileloom")
    before = list(logger.handlers)
    actor = TileActor("worker 7", StubFactory(SHAPE, tmp_path / "faults"))
    yield actor
    logger.handlers = before
    signal.signal(signal.SIGTERM, handler)


def test_a_worker_tells_what_it_logged_of_what_it_is_about(actor):
    actor.load({})
    assert actor.doing().said == ""
    logging.getLogger("tileloom.store").warning("waiting for %s (%s)", "bucket", "no answer in time")
    doing = actor.doing()
    assert (doing.activity, doing.said) == (Activity.WAITING, "waiting for bucket (no answer in time)")
    told = actor.do(0, time.time, None)
    assert told.usage.chores > 0
    assert actor.doing().said == ""

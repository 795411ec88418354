"""What the report says of the workers of a run."""

import json
from pathlib import Path

import pytest

from benchmarks._image import make_image
from tests import faults
from tests.pipeline import job, restore, scene
from tests.stubwork import STEPS, Faults, StubFactory
from tileloom.cluster.timesheet import Shift, Timesheet
from tileloom.cluster.usage import Activity, Usage
from tileloom.cluster.worker import Brief, Outcome, Ticket, Worker
from tileloom.jobs.workforce import workforce
from tileloom.tiling.box import TileKey
from tileloom.tiling.grid import Grid

FIRST = Usage(
    tiles=6, failures=1, calls=18, offered=20, loading=1.0, reading=1.5, computing=4.0, writing=0.5, chores=1.0
)


@pytest.fixture
def sheet():
    """Two workers: one of ten seconds, and one that was lost before it told of anything."""
    sheet = Timesheet(
        shifts=[Shift("worker 1", "a" * 56, 100.0, 110.0, FIRST), Shift("worker 2", "b" * 56, 100.0, 105.0)]
    )
    sheet.kinds = {shift.node: frozenset({"T4"}) for shift in sheet.shifts}
    sheet.lost["the actor died"] = 2
    sheet.late = 3
    return sheet


def test_every_second_of_every_worker_is_told(sheet):
    told = workforce(sheet, {"T4": 3600.0}, retries=1).as_json()
    for worker in told["workers"]:
        assert sum(worker[activity] for activity in Activity) == pytest.approx(worker["seconds"])
    first, second = told["workers"]
    assert (first["waiting"], first["computing"], first["tiles"], first["fill"]) == (2.0, 4.0, 6, 0.9)
    assert (second["waiting"], second["seconds"], second["calls"]) == (5.0, 5.0, 0)
    assert told["idle_share"] == round(7 / 15, 4)
    assert (told["worker_seconds"], told["node_seconds"], told["cost"]) == (15.0, 15.0, 15.0)
    assert (told["retries"], told["restarts"], told["late"]) == (1, {"the actor died": 2}, 3)


def test_a_person_reads_it_in_lines(sheet):
    assert list(workforce(sheet, None, retries=1).lines()) == [
        "2 workers on 2 nodes: 15 s on 15 s of machines; 7% loading, 10% reading, 27% computing, 3% writing, "
        "7% chores, 47% waiting; batches 90% full",
        "worker 1 on aaaaaaaa: 10 s, 10% loading, 15% reading, 40% computing, 5% writing, 10% chores, 20% waiting; "
        "6 tiles, 18 network calls, batches 90% full",
        "worker 2 on bbbbbbbb: 5 s, 100% waiting; 0 tiles, 0 network calls, batches 0% full",
        "tries of tiles that failed: 1",
        "2 workers lost and replaced: the actor died",
        "3 reports came too late to count",
    ]


def test_many_workers_have_one_line(sheet):
    sheet.shifts *= 9
    lines = list(workforce(sheet, None, retries=0).lines())
    assert len(lines) == 3
    assert lines[0].startswith("18 workers on 2 nodes: ")


def test_nobody_has_no_shares():
    told = workforce(Timesheet(), None, retries=0)
    assert (told.idle_share, told.workers) == (0.0, [])
    assert list(told.lines()) == []


def test_the_report_of_a_run_accounts_for_its_worker(tmp_path):
    spec = job(tmp_path, scene(1, 20, 24), task="sr:2")
    summary = restore(spec)
    report = json.loads((Path(spec.output) / ".tileloom" / "report.json").read_text())
    [worker] = report["workers"]
    assert sum(worker[activity] for activity in Activity) == pytest.approx(worker["seconds"], abs=1e-3)
    assert (worker["tiles"], worker["calls"]) == (report["done"], report["network_calls"])
    assert min(worker[activity] for activity in ("reading", "computing", "writing", "chores")) > 0
    assert report == json.loads(json.dumps(summary.as_json()))
    assert (report["retries"], report["restarts"], report["late"]) == (0, {}, 0)


def test_failed_tries_are_counted(tmp_path, monkeypatch):
    spec = job(tmp_path, scene(1, 20, 24), task="sr:2", retries=1)
    faults.break_work(monkeypatch, bad={TileKey(0, 1, 1)}, fails=1)
    report = restore(spec).as_json()
    assert (report["retries"], report["failures"], report["workers"][0]["failures"]) == (1, 1, 1)
    assert report["workers"][0]["tiles"] == report["done"]


def test_a_worker_tells_how_its_tiles_went(tmp_path):
    (tmp_path / "faults").mkdir()
    worker = Worker(StubFactory((2, 16, 16), tmp_path / "faults"), name="worker 5")
    worker.open(0, Brief(make_image(tmp_path / "0", Grid(28, 40, 16, 12, 2), bands=2, chunk=16), b""))
    [good] = worker.advance([Ticket(0, 0)])
    Faults(tmp_path / "faults").plan("fail-0-1-0")
    [bad] = worker.advance([Ticket(0, 3)])
    assert {good.worker, bad.worker} == {"worker 5"}
    assert (good.outcome, bad.outcome) == (Outcome.DONE, Outcome.FAILED)
    assert good.reading > 0
    assert good.writing > 0
    assert good.reading + good.writing < good.seconds
    assert bad.began >= good.began + good.seconds
    usage = worker.usage
    assert (usage.tiles, usage.failures, usage.calls) == (1, 1, STEPS + 1)
    assert usage.reading == good.reading + bad.reading
    assert usage.writing == good.writing
    assert worker.doing.activity is Activity.WAITING
    assert usage.busy + usage.waiting == pytest.approx(sum(getattr(usage, one) for one in Activity))

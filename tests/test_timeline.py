"""The trace of a run: what stands in the file, that it is whole at every moment, and that it costs no memory."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.commandline import QUICK, tileloom
from tests.images import noise, write_zarr
from tests.pipeline import job, scene
from tileloom.cluster.timesheet import Shift, Timesheet
from tileloom.cluster.worker import Outcome, Report
from tileloom.jobs import timeline as module
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.timeline import Timeline
from tileloom.tiling.errors import InputError
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.plan import WeavePlan

GRID = Grid(100, 100, 16, 12, 2)


def events(path):
    return json.loads(path.read_bytes())["traceEvents"]


def tiles_of(found):
    return [event for event in found if "args" in event and event["ph"] == "X"]


@pytest.fixture
def frontier():
    frontier = Frontier()
    frontier.add("scene", WeavePlan((GRID,)), state=np.zeros(GRID.count, np.uint8), number=7)
    return frontier


def done(tile, began, seconds, worker="worker 1", **more):
    return Report(7, tile, Outcome.DONE, calls=3, worker=worker, began=began, seconds=seconds, **more)


def test_a_tile_is_an_event_with_its_parts_on_the_drivers_clock(tmp_path, frontier, monkeypatch):
    monkeypatch.setattr(module, "monotonic", lambda: 5000.0)
    path = tmp_path / "trace.json"
    # The worker's clock is 4,000 s behind, and it told of it at once.
    sheet = Timesheet(shifts=[Shift("worker 1", "node", clock=4000.0)])
    with Timeline(path) as timeline:
        timeline.add([done(10, 1002.0, 0.5, reading=0.125, writing=0.25)], frontier, sheet)
    named, tile, *parts = events(path)
    assert named == {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "worker 1 on node"}}
    assert tile == {
        "ph": "X",
        "name": f"scene: {WeavePlan((GRID,)).key(10)}",
        "pid": 1,
        "tid": 0,
        "ts": 2e6,
        "dur": 5e5,
        "args": {"image": "scene", "tile": 10, "outcome": "done", "level": 0, "row": 1, "col": 2},
    }
    assert [(part["name"], part["ts"], part["dur"]) for part in parts] == [
        ("reading", 2e6, 125e3),
        ("computing", 2.125e6, 125e3),
        ("writing", 2.25e6, 25e4),
    ]


def test_tiles_side_by_side_have_rows_and_workers_have_theirs(tmp_path, frontier):
    sheet = Timesheet(shifts=[Shift(f"worker {at}", "node", clock=0.0) for at in (1, 2)])
    path = tmp_path / "trace.json"
    with Timeline(path) as timeline:
        timeline.add([done(0, 1.0, 1.0), done(1, 1.5, 1.0), done(2, 1.0, 1.0, "worker 2")], frontier, sheet)
        timeline.add([done(3, 2.0, 2.0), done(4, 2.5, 2.0)], frontier, sheet)
    rows = {}
    for event in tiles_of(events(path)):
        rows.setdefault((event["pid"], event["tid"]), []).append(event["args"]["tile"])
    assert rows == {(1, 0): [0, 3], (1, 1): [1, 4], (2, 0): [2]}


def test_a_tile_of_a_worker_that_died_of_it_is_there_too(tmp_path, frontier):
    sheet = Timesheet(shifts=[Shift("worker 1", "node")])
    with Timeline(tmp_path / "trace.json") as timeline:
        timeline.add([Report(7, 0, Outcome.FAILED, reason="died", worker="worker 1")], frontier, sheet)
    [tile] = tiles_of(events(tmp_path / "trace.json"))
    assert (tile["dur"], tile["args"]["outcome"]) == (0, "failed")


def test_the_file_is_whole_after_every_write(tmp_path, frontier):
    path, sheet = tmp_path / "trace.json", Timesheet(shifts=[Shift("worker 1", "node", clock=0.0)])
    with Timeline(path) as timeline:
        assert events(path) == []
        timeline.add([], frontier, sheet)
        for tile in range(GRID.count):
            timeline.add([done(tile, tile, 1.0)], frontier, sheet)
            assert len(tiles_of(events(path))) == tile + 1


@pytest.mark.parametrize("place", ["missing/trace.json", "."])
def test_a_file_that_cannot_be_is_refused_before_anything_else(tmp_path, capfd, place):
    write_zarr(tmp_path / "input.zarr", noise(1, 20, 24), chunk=(32, 32), names=("c", "y", "x"))
    words = ("restore", tmp_path / "input.zarr", tmp_path / "out.zarr", "--task", "sr:2", *QUICK)
    said = tileloom(capfd, *words, "--timeline", tmp_path / place)
    assert said.code == 2
    assert said.errors == [
        f"error: --timeline: {tmp_path / place} cannot be written: name a file in a folder that exists"
    ]
    assert not (tmp_path / "out.zarr").exists()


def test_a_file_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refused)
    with pytest.raises(InputError, match=r"--timeline: .*trace.json cannot be written: Permission denied"):
        Timeline(tmp_path / "trace.json")


class Full:
    """A file on a disk that fills up."""

    def __init__(self, after):
        self.after = after

    def seek(self, *_):
        pass

    def write(self, data):
        self.after -= 1
        if self.after < 0:
            raise OSError(28, "No space left on device")

    def close(self):
        pass


class Noting(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def test_a_disk_that_is_full_ends_the_trace_and_not_the_run(tmp_path):
    watcher = Noting()
    with Timeline(tmp_path / "trace.json") as timeline:
        timeline._file.close()
        timeline._file = Full(after=1)
        summary = run_job(job(tmp_path, scene(1, 20, 24), task="sr:2"), watcher, timeline=timeline)
    assert summary.whole
    assert watcher.said == ["the timeline breaks off here: No space left on device"]


def test_a_run_that_is_killed_leaves_a_trace_of_what_was_done(tmp_path):
    """Killed by itself, in the middle, with SIGKILL: nothing runs after that."""
    path = write_zarr(tmp_path / "input.zarr", noise(1, 60, 60), chunk=(32, 32), names=("c", "y", "x"))
    code = (
        "import os, signal, sys\n"
        "from tileloom.jobs import lookout\n"
        "from tileloom.jobs.cli import main\n"
        "real, seen = lookout.Lookout.look, []\n"
        "def look(self, reports, **more):\n"
        "    seen.extend(reports)\n"
        "    told = real(self, reports, **more)\n"
        "    if len(seen) > 9:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return told\n"
        "lookout.Lookout.look = look\n"
        "main(sys.argv[1:])\n"
    )
    trace = tmp_path / "trace.json"
    words = ["restore", path, tmp_path / "out.zarr", "--task", "sr:2", "--timeline", trace, *QUICK]
    killed = subprocess.run([sys.executable, "-c", code, *map(str, words)], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    found = tiles_of(events(trace))
    assert len(found) >= 10
    assert {event["args"]["outcome"] for event in found} == {"done"}

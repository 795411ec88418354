"""How fast a run goes and how that is shown: on a terminal, in a log, as JSON."""

import io
import json

import click
import pytest
from rich.console import Console

from tileloom.cluster.timesheet import Shift, Timesheet
from tileloom.cluster.usage import Usage
from tileloom.jobs import pace, progress
from tileloom.jobs.logs import log_json
from tileloom.jobs.pace import Pace, Pulse, duration
from tileloom.jobs.progress import JsonLines, Terminal, watching

PULSE = Pulse(tiles=30, left=90, calls=120, tiles_per_second=1.5, calls_per_second=6.0, fill=0.75, workers=3, nodes=2)
TEXT = "1.5 tiles/s, 6 calls/s, batches 75% full, 3 workers on 2 nodes"


@pytest.fixture
def clock(monkeypatch):
    """The time as the watchers see it; it stands until it is set."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress, "monotonic", lambda: Clock.now)
    return Clock


def sheet(*workers):
    """A timesheet of (node, calls, offered, ended) workers."""
    shifts = [
        Shift(f"worker {at}", node, 0.0, ended, Usage(calls=calls, offered=offered))
        for at, (node, calls, offered, ended) in enumerate(workers)
    ]
    return Timesheet(shifts=shifts)


def test_the_pace_is_that_of_late_and_the_rest_that_of_the_ledger():
    pace = Pace()
    first = pace.pulse(0.0, sheet(("a", 0, 0, None)), tiles=0, left=100)
    assert (first.tiles_per_second, first.seconds_left) == (0.0, None)
    pulse = pace.pulse(10.0, sheet(("a", 40, 50, None), ("a", 10, 10, 5.0), ("b", 0, 20, None)), tiles=20, left=80)
    assert (pulse.tiles_per_second, pulse.calls_per_second, pulse.seconds_left) == (2.0, 5.0, 40.0)
    assert (pulse.fill, pulse.workers, pulse.nodes) == (50 / 80, 2, 2)


def test_what_was_long_ago_is_no_pace():
    pace = Pace()
    pace.pulse(0.0, Timesheet(), tiles=0, left=1000)
    for second in range(1, 200):
        pulse = pace.pulse(float(second), Timesheet(), tiles=10 * min(second, 50), left=100)
    assert pulse.tiles_per_second == 0.0
    assert pulse.seconds_left is None


def test_a_pulse_is_read_as_it_was_written():
    assert Pulse.read(json.loads(json.dumps(PULSE.as_json()))) == PULSE
    assert PULSE.as_json()["seconds_left"] == 60.0
    assert str(PULSE) == TEXT


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (90060, "25 h 1 min")]
)
def test_times_are_told_in_two_units(seconds, text):
    assert duration(seconds) == text


def test_things_are_counted():
    assert [pace.counted(count, "node") for count in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]


def test_a_log_has_a_line_now_and_then(clock):
    log = io.StringIO()
    with Terminal(Console(file=log)) as watcher:
        watcher.begin("restore", 120, unit="tiles")
        watcher.advance(10, PULSE)
        clock.now += 10
        watcher.advance(20, PULSE)
        watcher.advance(1)
        clock.now += 10
        watcher.say(f"worker 1 was lost and is replaced: {'long ' * 40}")
        watcher.begin("publish", 4, unit="shards")
        clock.now += 10
        watcher.advance(1)
    assert log.getvalue().splitlines() == [
        "restore: 120 tiles",
        f"restore: 30 of 120 tiles, {TEXT}, 1 min 0 s left",
        f"worker 1 was lost and is replaced: {'long ' * 40}",
        "publish: 4 shards",
        "publish: 1 of 4 shards, 0.1 shards/s, 30 s left",
    ]


@pytest.mark.parametrize(("width", "text"), [(200, f"1 min 0 s left, {TEXT}"), (60, "1 min 0 s left")])
def test_a_terminal_has_a_bar_that_fits(clock, width, text):
    screen = io.StringIO()
    with Terminal(Console(file=screen, force_terminal=True, width=width, color_system=None)) as watcher:
        watcher.begin("restore", 120, unit="tiles")
        watcher.advance(30, PULSE)
    assert text in screen.getvalue()
    assert "30/120" in screen.getvalue()


def test_programs_get_json(clock, capfd):
    watcher = JsonLines()
    watcher.begin("restore", 31, unit="tiles")
    watcher.advance(10, PULSE)
    clock.now += 10
    watcher.advance(20, PULSE)
    watcher.say("worker 1 was lost")
    watcher.advance(1)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert all(line.pop("time").endswith("+00:00") for line in lines)
    assert lines[0] == {"level": "info", "event": "phase", "phase": "restore", "total": 31, "unit": "tiles"}
    at = {"level": "info", "event": "progress", "phase": "restore", "total": 31, "unit": "tiles", **PULSE.as_json()}
    assert lines[1] == {**at, "count": 30}
    assert lines[2] == {"level": "warning", "event": "message", "message": "worker 1 was lost"}
    assert lines[3] == {**at, "count": 31}
    assert len(lines) == 4


@pytest.mark.parametrize(("words", "kind"), [([], Terminal), (["--log-json"], JsonLines)])
def test_a_command_is_watched_as_it_asks(words, kind):
    seen = []

    @click.command()
    @log_json
    def command():
        with watching() as watcher:
            seen.append(type(watcher))

    command.main(words, standalone_mode=False)
    assert seen == [kind]

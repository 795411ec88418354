"""What a running job says of itself, and what `status --why` makes of it when it runs, was killed, or is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from socket import gethostname
from threading import Event
from types import SimpleNamespace

import pytest
import yaml

from tests import faults
from tests.commandline import QUICK, tileloom
from tests.images import noise, write_zarr
from tests.pipeline import job, restore, scene
from tileloom.cluster.timesheet import Timesheet
from tileloom.jobs import lookout, now, why
from tileloom.jobs.lookout import Lookout
from tileloom.jobs.now import Now, read_now, write_now
from tileloom.jobs.pace import Pulse
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.tiling.errors import InputError, StoreError
from tileloom.tiling.place import place
from tileloom.tiling.process import ended, this_process

PULSE = Pulse(tiles=3, left=9, calls=12, tiles_per_second=0.5, calls_per_second=2, fill=1, workers=1, nodes=1)


def sign(**facts):
    told = {"process": this_process(), "time": now.time(), "phase": "restore, 12 tiles", "pulse": PULSE}
    return Now(**{**told, "waits": ["4 tiles ready"], "said": ["worker 1 was lost"], **facts})


def dead():
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {**this_process(), "pid": process.pid}


@pytest.fixture
def spec(tmp_path):
    return job(tmp_path, scene(1, 20, 24), task="sr:2")


@pytest.fixture
def every_look(monkeypatch):
    """Signs and looks come without pause."""
    for name in ("EVERY_SECONDS", "_LOOK"):
        monkeypatch.setattr(lookout, name, -1.0)


def test_a_sign_of_life_is_read_as_it_was_written(tmp_path):
    for one in (sign(), sign(pulse=None)):
        write_now(tmp_path, one)
        assert read_now(tmp_path) == one
    now.forget_now(tmp_path)
    assert read_now(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "{}", '{"pulse": null}', '{"pulse": {"tiles": 1}}', "[]"])
def test_a_damaged_sign_is_named(tmp_path, text):
    file = tmp_path / ".tileloom" / "now.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(InputError, match=r"now\.json is damaged: remove it"):
        read_now(tmp_path)


def test_who_is_alive():
    assert sign().alive
    assert sign(time=now.time() - 3600).alive
    assert not sign(process=dead()).alive
    # Its number has gone to another one since.
    assert not sign(process={**this_process(), "started": "1"}).alive
    elsewhere = {**dead(), "host": ["elsewhere", ""]}
    assert sign(process=elsewhere).alive
    assert not sign(process=elsewhere, time=now.time() - 16).alive
    # A container of the same name, whose processes have other numbers.
    container = {**this_process(), "host": [this_process()["host"][0], "pid:[1]"]}
    assert sign(process=container).alive
    assert not sign(process=container, time=now.time() - 16).alive


def test_a_machine_of_the_same_name_is_another_one(tmp_path, monkeypatch):
    boot = tmp_path / "sys" / "kernel" / "random" / "boot_id"
    boot.parent.mkdir(parents=True)
    monkeypatch.setattr("tileloom.tiling.process._PROC", tmp_path)
    signs = {}
    for name in ("one", "other"):
        boot.write_text(f"{name}\n")
        signs[name] = this_process() | {"started": "1"}
    assert ended(signs["other"])
    assert ended(signs["one"]) is None
    boot.unlink()
    assert this_process()["host"] == [gethostname(), "", ""]


def test_a_run_is_signed_while_one_task_takes_long(tmp_path, monkeypatch):
    """Nothing tells the lookout of anything meanwhile."""
    monkeypatch.setattr(lookout, "_BEAT", 0.01)
    with Lookout(Silent(), place(tmp_path)):
        first = read_now(tmp_path)
        while read_now(tmp_path).time == first.time:
            assert read_now(tmp_path).age < 60
    assert read_now(tmp_path) is None


def test_how_old_waits_and_pace_are_is_said_however_fresh_the_sign_is(tmp_path):
    """The sign goes on while the run is at something long, and looks at nothing."""
    old = sign(looked=now.time() - 720)
    assert list(why.Why(old, []).lines())[1:4] == ["looked: 12 min 0 s ago", f"pace: {PULSE}", "waits: 4 tiles ready"]
    assert not any(line.startswith("looked") for line in why.Why(sign(), []).lines())


def test_a_sign_tells_when_the_run_last_looked(tmp_path, monkeypatch):
    class Waiting:
        timesheet = Timesheet()
        left = 5

        def why(self):
            return [f"line {len(asked)}"]

    asked = []
    monkeypatch.setattr(lookout, "_BEAT", 0.01)
    with Lookout(Silent(), place(tmp_path)) as watcher:
        assert read_now(tmp_path).looked is None
        watcher.work_begins(Waiting(), Waiting())
        watcher.look([])
        while (first := read_now(tmp_path)).looked is None:
            pass
        while (later := read_now(tmp_path)).time == first.time:
            pass
    assert first.time >= first.looked == later.looked


@pytest.fixture
def slow(monkeypatch):
    """The second sign and those after it wait for ``go_on``; ``begun`` is set once the second is being written."""
    begun, go_on, written = Event(), Event(), []

    def write(output, sign):
        if written:
            begun.set()
            assert go_on.wait(10)
        written.append(sign)
        write_now(output, sign)

    monkeypatch.setattr(lookout, "write_now", write)
    monkeypatch.setattr(lookout, "_BEAT", 0.01)
    yield SimpleNamespace(begun=begun, go_on=go_on, written=written)
    go_on.set()


def test_nothing_waits_for_a_sign_that_is_slow(tmp_path, slow):
    with Lookout(Silent(), place(tmp_path)) as watcher:
        assert slow.begun.wait(60)
        watcher.say("something")
        assert len(slow.written) == 1
        slow.go_on.set()


def test_a_slow_sign_does_not_come_after_the_end_of_the_run(tmp_path, slow, monkeypatch):
    monkeypatch.setattr(lookout, "_PARTING", 0.0)
    with Lookout(Silent(), place(tmp_path)) as watcher:
        assert slow.begun.wait(60)
    slow.go_on.set()
    watcher._beats.join()
    watcher.say("too late")
    assert len(slow.written) == 2
    assert read_now(tmp_path) is None


def test_why_of_a_run_that_goes_on(spec, capfd, every_look):
    seen = {}

    def ask(reports):
        if reports and not seen:
            seen["text"] = tileloom(capfd, "status", spec.output, "--why")
            seen["json"] = tileloom(capfd, "status", spec.output, "--why", "--json").json

    summary = run_job(spec, Silent(), on_reports=ask)
    said = seen["text"]
    assert said.code == 0
    running = f"running: process {os.getpid()} on {gethostname()}, last heard of 0 s ago: restore, "
    assert running in said.out
    assert "\npace: 0 tiles/s" in said.out
    assert "waiting for level 0 row 0 column 1" in said.out
    assert seen["json"]["why"]["running"]
    assert seen["json"]["why"]["now"]["pulse"]["tiles"] >= 1
    total = sum(summary.bill.solve)
    assert seen["json"]["why"]["now"]["pulse"]["left"] == total - seen["json"]["why"]["now"]["pulse"]["tiles"]
    after = tileloom(capfd, "status", spec.output, "--why")
    assert after.out.endswith("nobody runs it\nnext: nothing is left to do\n")


def test_a_resumed_run_knows_from_the_ledger_what_is_left(spec, every_look):
    faults.run(spec, stop=("restore", 4))
    left = []

    class Watcher(Silent):
        def advance(self, count, pulse=None):
            if pulse:
                left.append(pulse.left + pulse.tiles)

    summary = run_job(spec, Watcher())
    assert set(left) == {summary.report.done} == {sum(summary.bill.solve) - 4}


def test_what_would_be_next_where_nobody_runs(spec, capfd):
    faults.run(spec, stop=("restore", 4))
    said = tileloom(capfd, "status", spec.output, "--why")
    lines = said.out.splitlines()
    at = lines.index("nobody runs it")
    assert lines[at + 1].startswith("next: ")
    assert "waiting for a worker" in lines[at + 1]
    assert lines[-1].startswith("next: first level 0 row ")
    assert not tileloom(capfd, "status", spec.output, "--why", "--json").json["why"]["running"]


@pytest.mark.parametrize(("stop", "next_"), [(("survey", 1), "surveying"), (("publish", 0), "publishing")])
def test_a_phase_without_tiles_is_named(spec, capfd, stop, next_):
    faults.run(spec, stop=stop)
    assert tileloom(capfd, "status", spec.output, "--why").out.endswith(f"nobody runs it\nnext: {next_}\n")


def test_a_run_that_was_killed_is_not_taken_for_one_that_goes_on(spec, capfd):
    faults.run(spec, stop=("restore", 4))
    process = dead()
    write_now(Path(spec.output), sign(process=process, time=now.time() - 720))
    said = tileloom(capfd, "status", spec.output, "--why")
    told = f"process {process['pid']} on {gethostname()}, last heard of 12 min 0 s ago"
    assert f"nobody runs it; the last run did not end by itself: {told}\nnext: " in said.out
    restore(spec)
    assert read_now(Path(spec.output)) is None


def test_a_run_that_waits_for_its_first_worker_is_seen_before_it_has_begun(tmp_path, capfd):
    output = tmp_path / "out.zarr"
    with Lookout(Silent(), output) as watcher:
        watcher.say("waiting for a worker: each needs 64 CPUs")
        said = tileloom(capfd, "status", output, "--why")
    assert said.code == 0
    assert said.out.splitlines()[1:] == ["said: waiting for a worker: each needs 64 CPUs"]
    assert said.out.startswith("running: ")
    assert tileloom(capfd, "status", output, "--why").errors == [
        f"error: {output} holds no result of tileloom: check the path"
    ]


def test_a_store_that_is_away_ends_no_run_for_a_sign_of_life(tmp_path, monkeypatch):
    tried = []

    def away(output, sign):
        tried.append(sign)
        raise StoreError("away")

    monkeypatch.setattr(lookout, "write_now", away)
    with Lookout(Silent(), tmp_path) as watcher:
        watcher.say("something")
    assert [one.said for one in tried] == [[], ["something"]]


def test_an_archive_waits_for_many_things_and_names_some(tmp_path, every_look):
    class Waiting:
        timesheet = Timesheet()
        left = 5

        def why(self):
            return [f"line {at}" for at in range(15)]

    with Lookout(Silent(), tmp_path) as watcher:
        watcher.work_begins(Waiting(), Waiting())
        watcher.look([])
        told = read_now(tmp_path).waits
    assert told == [*(f"line {at % 15}" for at in range(20)), "and 10 more"]


@pytest.fixture
def archive(tmp_path):
    """The job file of an archive of two images."""
    for name in ("a", "b"):
        write_zarr(tmp_path / f"{name}.zarr", noise(1, 20, 24), chunk=(32, 32), names=("c", "y", "x"))
    (tmp_path / "images.csv").write_text("id,input\na,a.zarr\nb,b.zarr\n")
    keys = {"task": "sr:2", "tile": 16, "steps": 2, "lanes": 1, "model": {"name": "gaussian", "length": 4.0}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"manifest": "images.csv", "output": "out", **keys}))
    return tmp_path / "job.yaml"


def test_why_of_an_archive(archive, capfd, every_look, monkeypatch):
    seen = []
    real = Lookout.look

    def ask(self, reports, **more):
        pulse = real(self, reports, **more)
        if reports and not seen:
            seen.append(tileloom(capfd, "status", archive.parent / "out", "--why"))
            seen.append(tileloom(capfd, "status", archive.parent / "out" / "a.zarr", "--why"))
        return pulse

    monkeypatch.setattr(Lookout, "look", ask)
    assert tileloom(capfd, "run", archive).code == 0
    for said in seen:
        assert said.code == 0
        # While a run goes on, whatever is printed goes to stderr.
        assert any(line.endswith("archive, 2 images") for line in said.errors)
        assert any(line.startswith("waits: a: ") for line in said.errors)
    assert len(seen) == 2
    done = tileloom(capfd, "status", archive.parent / "out", "--why")
    assert done.out.endswith("nobody runs it\nnext: nothing is left to do\n")


def test_the_images_that_would_be_next_are_named(archive, capfd, monkeypatch):
    def stop(self, reports, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lookout, "look", stop)
        assert tileloom(capfd, "run", archive).code == 130
    said = tileloom(capfd, "status", archive.parent / "out", "--why")
    assert said.out.endswith("nobody runs it\nnext: 2 images are left, first a, b\n")


def test_an_archive_guesses_from_the_images_it_has_seen_what_the_others_have(archive, every_look, monkeypatch):
    guesses = []
    real = Lookout.look

    def note(self, reports, *, to_come=0):
        guesses.append(to_come)
        return real(self, reports, to_come=to_come)

    monkeypatch.setattr(Lookout, "look", note)
    assert faults.command("run", archive) == 0
    report = json.loads((archive.parent / "out" / ".tileloom" / "report.json").read_text())
    assert set(guesses) <= {0, report["tiles"] // 2}
    assert guesses[-1] == 0


def test_errors_are_json_where_a_program_reads_along(tmp_path, capfd):
    words = ("restore", tmp_path / "missing.tif", tmp_path / "out.zarr", "--task", "sr:2", *QUICK)
    plain = tileloom(capfd, *words)
    said = tileloom(capfd, *words, "--log-json")
    assert said.code == plain.code == 2
    [line] = map(json.loads, said.errors)
    assert (line["level"], line["event"]) == ("error", "end")
    assert plain.errors == [f"error: {line['message']}"]


def test_all_that_a_run_says_is_json_where_a_program_reads_along(spec, capfd):
    said = tileloom(capfd, "run", faults.job_file(spec), "--log-json")
    lines = [json.loads(line) for line in said.errors]
    assert [(line["event"], line["phase"]) for line in lines if line["event"] == "phase"] == [
        ("phase", "survey"),
        ("phase", "restore"),
        ("phase", "publish"),
    ]
    last = next(line for line in reversed(lines) if line.get("phase") == "restore")
    assert (last["event"], last["count"], last["left"], last["workers"]) == ("progress", last["total"], 0, 1)
    assert why.why(Path(spec.output)).next == ["nothing is left to do"]

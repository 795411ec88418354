"""What restore, run, resume and retry do and say; the run itself has its own tests."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests import faults
from tests.commandline import QUICK, tileloom
from tests.images import noise, write_zarr
from tests.pipeline import job, result, scene
from tileloom.jobs import commands_run, run
from tileloom.jobs.cli import Terminated
from tileloom.jobs.options import job_of
from tileloom.tiling.box import TileKey
from tileloom.tiling.errors import CorruptChunk, InputError, LedgerTaken, TileFailed, TileloomError

BAD = TileKey(0, 1, 1)


def small_job(folder, **options):
    """A job on the folder's image, which is made if it is not there yet."""
    image = folder / "input.zarr"
    given = str(image) if image.exists() else scene(1, 20, 24)
    return job(folder, given, **{"task": "sr:2", "range": [-1, 1], **options})


# --- options become the job ---


def test_options_become_the_keys_of_a_job():
    options = {
        "input": "in.zarr",
        "output": "out.zarr",
        "task": ("inpaint", "sr:2,sr:2"),
        "mask": "007",
        "travel__length": 3,
        "publish__shard": 1024,
        "range": (0, 10.5),
        "tile": "auto",
        "max_memory": "2GB",
        "keep_scratch": False,
        "seed": None,
        "model_option": ("length=8", "covariance=exponential"),
    }
    spec = job_of(options)
    assert spec.task == ("inpaint", "sr:2,sr:2")
    assert spec.measurement.scale == 4
    assert spec.mask == os.path.abspath("007")
    assert (spec.travel.length, spec.travel.repeat) == (3, 1)
    assert (spec.publish.chunk, spec.publish.shard) == (512, 1024)
    assert spec.range == (0, 10.5)
    assert spec.max_memory == 2 * 10**9
    assert spec.keep_scratch is False
    assert spec.seed == 0
    assert spec.model == {"name": "gaussian", "length": 8, "covariance": "exponential"}


def test_a_model_is_named_beside_its_options():
    given = {"input": "a", "output": "b", "task": ("sr:2",), "model": "other", "model_option": ("x=1e-3", "y=no")}
    assert job_of(given).model == {"name": "other", "x": 1e-3, "y": "no"}
    for wrong in ("x", "=1", "x=", "name=terra"):
        with pytest.raises(InputError, match="--model-option must be KEY=VALUE"):
            job_of({**given, "model_option": (wrong,)})


# --- what is done and said ---


def test_restore_and_the_same_job_in_a_file_give_the_same_bytes(tmp_path, capfd):
    spec = small_job(tmp_path, output="file.zarr", seed=5)
    said = tileloom(capfd, "run", faults.job_file(spec), "--json")
    assert said.code == 0
    options = ["--tile", 16, "--steps", 3, "--lanes", 1, "--model-option", "length=4.0", "--range", -1, 1]
    options += ["--publish-chunk", 32, "--publish-shard", 64, "--seed", 5]
    again = tileloom(capfd, "restore", spec.input, tmp_path / "line.zarr", "--task", "sr:2", *options, "--json")
    assert again.code == 0
    differ = {"output", "seconds", "workers", "worker_seconds", "node_seconds", "idle_share"}
    first, second = ({key: told.json[key] for key in told.json if key not in differ} for told in (said, again))
    assert first == second
    for level in (0, 1):
        other = spec.model_copy(update={"output": str(tmp_path / "line.zarr")})
        np.testing.assert_array_equal(result(other, level), result(spec, level))


def test_a_summary_for_people(tmp_path, capfd):
    spec = small_job(tmp_path)
    said = tileloom(capfd, "run", faults.job_file(spec))
    told = tileloom(capfd, "retry", spec.output, "--json").json
    assert (said.code, said.errors) == (0, [])
    first, workers, last = said.out.splitlines()
    assert first.startswith(f"{told['inherited']} tiles restored, 0 taken over, 0 degraded; ")
    assert f" {told['inherited'] * 3} network calls, " in first
    assert re.match(
        r"1 worker on 1 node: \d+ s on \d+ s of machines; .*\d+% computing, .*; batches \d+% full$", workers
    )
    assert last == f"result: {spec.output}"
    assert (told["done"], told["network_calls"]) == (0, 0)


def test_what_libraries_print_does_not_get_into_the_result(tmp_path, capfd, monkeypatch):
    real = run.run_job

    def noisy(*words, **options):
        print("somebody's notice")
        return real(*words, **options)

    monkeypatch.setattr(run, "run_job", noisy)
    small_job(tmp_path)
    words = ("restore", tmp_path / "input.zarr", tmp_path / "out.zarr", "--task", "sr:2", "--range", -1, 1, *QUICK)
    ran = tileloom(capfd, *words, "--json")
    assert ran.json["done"] > 0
    assert "somebody's notice" in ran.errors


def test_progress_goes_to_stderr_and_json_alone_to_stdout(tmp_path, capfd):
    spec = small_job(tmp_path)
    capfd.readouterr()
    assert faults.command("run", faults.job_file(spec), "--json") == 0
    captured = capfd.readouterr()
    assert [line.split(":")[0] for line in captured.err.splitlines()] == ["survey", "restore", "publish"]
    assert captured.out.startswith("{")
    assert captured.out.endswith("}\n")


@pytest.mark.parametrize("target", ["output", "file"])
def test_resume_goes_on_from_the_output_or_the_file(tmp_path, capfd, target):
    spec = small_job(tmp_path)
    faults.run(spec, stop=("restore", 4))
    path = spec.output if target == "output" else faults.job_file(spec)
    told = tileloom(capfd, "resume", path, "--json")
    assert told.code == 0
    assert told.json["done"] == sum(told.json["bill"]["solve"]) - 4
    fresh = small_job(tmp_path, output="fresh.zarr")
    assert tileloom(capfd, "run", faults.job_file(fresh)).code == 0
    np.testing.assert_array_equal(result(spec), result(fresh))


def test_resume_redoes_what_a_changed_job_makes_stale(tmp_path, capfd):
    assert tileloom(capfd, "run", faults.job_file(small_job(tmp_path))).code == 0
    changed = small_job(tmp_path, steps=2)
    refused = tileloom(capfd, "resume", faults.job_file(changed))
    assert refused.code == 2
    assert "steps: 3 -> 2" in refused.errors[0]
    told = tileloom(capfd, "resume", faults.job_file(changed), "--redo", "stale", "--json")
    assert told.code == 0
    assert told.json["done"] == sum(told.json["bill"]["solve"])


@pytest.mark.parametrize("words", [("retry", "OUTPUT"), ("run", "JOB", "--redo", "failed")], ids=" ".join)
def test_degraded_tiles_are_listed_and_a_retry_mends_them(tmp_path, capfd, monkeypatch, words):
    spec = small_job(tmp_path, retries=1)
    names = {"OUTPUT": spec.output, "JOB": faults.job_file(spec)}
    with monkeypatch.context() as broken:
        faults.break_work(broken, bad={BAD})
        said = tileloom(capfd, "run", faults.job_file(spec))
    assert said.code == 1
    assert said.errors == []
    assert f"degraded: {BAD} (" in said.out
    assert f"run them again with: tileloom retry {spec.output}" in said.out
    told = tileloom(capfd, *(names.get(word, word) for word in words), "--json")
    assert told.code == 0
    assert told.json["degraded"] == []
    assert told.json["done"] >= 1
    assert tileloom(capfd, "status", spec.output).code == 0


def test_a_stopped_image_says_so_and_how_to_go_on(tmp_path, capfd, monkeypatch):
    faults.break_work(monkeypatch, bad={BAD})
    spec = small_job(tmp_path, retries=0, on_error="stop")
    said = tileloom(capfd, "run", faults.job_file(spec))
    assert said.code == 1
    assert len(said.errors) == 1
    assert str(BAD) in said.errors[0]
    assert said.errors[0].count("tileloom resume") == 1


def test_retry_mends_what_verify_found(tmp_path, capfd):
    spec = small_job(tmp_path)
    assert tileloom(capfd, "run", faults.job_file(spec)).code == 0
    before = result(spec)
    faults.flip(faults.chunk_of(spec, BAD))
    faults.remove(next((Path(spec.output) / "0").glob("c/0/*/*")))
    assert tileloom(capfd, "verify", spec.output).code == 1
    assert tileloom(capfd, "retry", spec.output).code == 0
    assert tileloom(capfd, "verify", spec.output).code == 0
    np.testing.assert_array_equal(result(spec), before)


# --- how it ends early ---


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (KeyboardInterrupt(), "everything finished is kept, go on with: tileloom resume {output}"),
        (Terminated(), "everything finished is kept, go on with: tileloom resume {output}"),
        (TileloomError("the disk is full"), "go on with `tileloom resume {output}`"),
        (ZeroDivisionError(), "go on with `tileloom resume {output}`"),
        (CorruptChunk("in.zarr: chunk c/0/0/0 is damaged"), "go on with `tileloom resume {output}`"),
        (CorruptChunk("{output}/0: chunk c/0/0/0 is damaged"), "mend it with `tileloom retry {output}`"),
        (TileFailed("run `tileloom resume x`"), None),
        (LedgerTaken("another run took over"), None),
        (InputError("in.zarr does not exist"), None),
    ],
)
def test_whatever_ends_a_run_early_says_how_to_go_on(tmp_path, error, note):
    spec = small_job(tmp_path)
    faults.run(spec, stop=("survey", 0))
    raised = type(error)(*(text.format(output=spec.output) for text in error.args))
    with pytest.raises(type(error)) as caught, commands_run._resumable(spec):
        raise raised
    assert caught.value is raised
    assert getattr(raised, "__notes__", None) == (note and [note.format(output=spec.output)])


def test_nothing_is_said_of_going_on_where_nothing_was_begun(tmp_path):
    for error in (KeyboardInterrupt(), TileloomError("no torch")):
        with pytest.raises(type(error)) as caught, commands_run._resumable(small_job(tmp_path)):
            raise error
        assert not hasattr(caught.value, "__notes__")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_the_run_goes_on_to_the_same_bytes(tmp_path, capfd, number, code):
    write_zarr(tmp_path / "in.zarr", noise(1, 48, 48))
    words = ["--task", "sr:4", "--tile", "32", "--lanes", "1", "--steps"]
    child = subprocess.Popen(
        [sys.executable, "-m", "tileloom.jobs.cli", "restore", "in.zarr", "out.zarr", *words, "30"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list((tmp_path / "out.zarr").glob(".tileloom/*/ledger/00000003.json")):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.01)
    child.send_signal(number)
    out, errors = child.communicate(timeout=60)
    assert (child.returncode, out) == (code, "")
    last = errors.splitlines()[-1]
    assert last == f"stopped; everything finished is kept, go on with: tileloom resume {tmp_path / 'out.zarr'}"
    told = tileloom(capfd, "resume", tmp_path / "out.zarr", "--json")
    assert told.code == 0
    assert 0 < told.json["done"] <= sum(told.json["bill"]["solve"]) - 3
    fresh = tileloom(capfd, "restore", tmp_path / "in.zarr", tmp_path / "fresh.zarr", *words, "30")
    assert fresh.code == 0
    pixels = [zarr.open_array(tmp_path / name / "0", mode="r")[...] for name in ("out.zarr", "fresh.zarr")]
    np.testing.assert_array_equal(*pixels)

"""Everything in a bucket: the same bytes as on disk, through kills, outages and other runs, and no secret anywhere."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import yaml

from tests.commandline import QUICK, files_in, tileloom, written
from tests.house import ROOT
from tests.objects import SECRET, assert_same_bytes, stored, upload
from tests.objects import bucket as bucket
from tests.objects import server as server
from tests.pipeline import assert_same_bytes as assert_same_disk
from tests.pipeline import beside, holes, job, measure, restore, scene
from tests.victim import Victims
from tileloom import open as open_result
from tileloom.jobs.archive import Register
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.state import only_run
from tileloom.tiling import lock, patience
from tileloom.tiling.canvas import Canvas
from tileloom.tiling.errors import LedgerTaken
from tileloom.tiling.place import place


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A job of two levels, its input and its result on disk."""
    folder = tmp_path_factory.mktemp("whole")
    mask = holes(40, 44, share=0.6, seed=2)
    y = measure(scene(3, 40, 44, seed=1), "inpaint", mask=mask).astype(np.float32)
    spec = job(folder, y, task="inpaint", mask=mask, range=[-1, 1], stride=8, guard=4, levels=2, batch=2)
    restore(spec)
    return spec


@pytest.fixture
def spec(whole, bucket):
    """The same job with its output in a bucket."""
    return whole.model_copy(update={"output": f"{bucket}/results/out.zarr"})


@pytest.fixture
def quick_beats(monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.5)


def refused(said, *texts):
    assert said.code == 2, said
    assert len(said.errors) == 1, said.errors
    assert all(text in said.errors[0] for text in ("error: ", *texts)), said.errors


# --- the same as on disk ---


def test_a_bucket_gets_the_bytes_that_a_disk_gets(spec, whole):
    assert restore(spec).report.done > 20
    assert_same_bytes(spec.output, whole)
    assert restore(spec).calls == 0
    np.testing.assert_array_equal(open_result(spec.output), open_result(whole.output))


def test_from_the_command_line_with_everything_in_the_bucket(whole, bucket, tmp_path, capfd):
    mask, image = upload(whole.mask, f"{bucket}/in/mask 1.zarr"), upload(whole.input, f"{bucket}/in/scène.zarr")
    keys = whole.model_dump(mode="json", exclude_none=True, exclude={"cluster"})
    keys |= {"input": image, "mask": mask, "output": f"{bucket}/out.zarr", "keep_scratch": False}
    file = written(tmp_path, **keys)
    assert tileloom(capfd, "plan", file).code == 0
    ran = tileloom(capfd, "run", file)
    assert (ran.code, ran.errors) == (0, [])
    assert ran.out.endswith(f"result: {bucket}/out.zarr\n")
    assert tileloom(capfd, "status", f"{bucket}/out.zarr", "--json").json["phase"] == "done"
    assert tileloom(capfd, "verify", f"{bucket}/out.zarr").code == 0
    assert tileloom(capfd, "resume", f"{bucket}/out.zarr").code == 0
    assert not [name for name in stored(f"{bucket}/out.zarr") if "canvas" in name or "lock" in name]
    np.testing.assert_array_equal(open_result(f"{bucket}/out.zarr"), open_result(whole.output))
    assert not list(tmp_path.glob("*zarr*"))


def test_a_changed_job_is_redone_in_the_bucket(spec, whole, tmp_path, capfd):
    restore(spec)
    keys = spec.model_dump(mode="json", exclude_none=True, exclude={"cluster"}) | {"dtype": "uint8"}
    file = written(tmp_path, **keys)
    refused(tileloom(capfd, "run", file), "was begun by another job (dtype")
    redone = tileloom(capfd, "run", file, "--redo", "stale", "--json")
    assert (redone.code, redone.json["done"]) == (0, 0)
    assert redone.json["inherited"] > 20
    assert open_result(spec.output).dtype == np.uint8
    assert len({name.split("/")[1] for name in stored(spec.output) if "/ledger/" in name}) == 1


def test_a_damaged_object_is_found_and_mended(spec, whole, capfd):
    restore(spec)
    canvas = place(spec.output) / ".tileloom"
    name = next(name for name in stored(str(canvas)) if "canvas-0/c/" in name)
    (canvas / name).write(b"damaged")
    assert tileloom(capfd, "verify", spec.output).code == 1
    assert tileloom(capfd, "retry", spec.output).code == 0
    assert tileloom(capfd, "verify", spec.output).code == 0


def test_a_changed_input_is_noticed_by_what_the_store_says_of_it(whole, bucket, capfd):
    image = upload(whole.input, f"{bucket}/in.zarr")
    options = ["restore", image, f"{bucket}/out.zarr", "--task", "sr:2", "--range", "-1", "1", *QUICK]
    assert tileloom(capfd, *options).code == 0
    upload(whole.input, f"{bucket}/in.zarr")
    assert tileloom(capfd, *options).code == 0
    chunk = next(name for name in stored(image) if name.startswith("c/"))
    data = (place(image) / "c/0/1/1").read()
    (place(image) / chunk).write(data)
    refused(tileloom(capfd, *options), "was begun by another job (input")


@pytest.fixture
def archive(whole, bucket, tmp_path):
    """The job file of two images, whose results go to a bucket."""
    for name in ("one", "two"):
        shutil.copytree(whole.input, tmp_path / "images" / f"{name}.zarr")
    keys = whole.model_dump(mode="json", exclude_none=True, exclude={"cluster", "input", "mask", "id", "levels"})
    keys |= {"output": f"{bucket}/out", "manifest": "images", "task": "sr:2"}
    return written(tmp_path, **keys)


@pytest.mark.slow
def test_an_archive_in_a_bucket(archive, bucket, tmp_path, capfd):
    ran = tileloom(capfd, "run", archive)
    assert (ran.code, ran.errors) == (0, [])
    told = tileloom(capfd, "status", f"{bucket}/out", "--json").json
    assert (told["images"], told["done"]) == (2, 2)
    again = tileloom(capfd, "resume", f"{bucket}/out", "--json")
    assert (again.code, again.json["network_calls"]) == (0, 0)
    assert not [name for name in stored(f"{bucket}/out") if "lock" in name]
    on_disk = written(tmp_path, "disk.yaml", **yaml.safe_load(archive.read_text()) | {"output": "out"})
    assert tileloom(capfd, "run", on_disk).code == 0
    for name in ("one.zarr", "two.zarr"):
        assert tileloom(capfd, "verify", f"{bucket}/out/{name}").code == 0
        np.testing.assert_array_equal(open_result(f"{bucket}/out/{name}"), open_result(tmp_path / "out" / name))


@pytest.mark.slow
def test_an_archive_that_is_taken_over_is_fenced_where_its_images_are_recorded(
    archive, bucket, quick_beats, monkeypatch, capfd
):
    monkeypatch.setattr(lock, "_beat", lambda *_: None)
    add, added = Register.add, []

    def taken(self, record):
        if added:
            with only_run(f"{bucket}/out"):
                pass
        added.append(record.id)
        add(self, record)

    monkeypatch.setattr(Register, "add", taken)
    said = tileloom(capfd, "run", archive)
    assert said.code == 1
    assert f"error: another run took over {bucket}/out/.tileloom" in said.errors[-1]
    assert len(added) == 2
    seen = tileloom(capfd, "status", f"{bucket}/out", "--json")
    assert (seen.code, seen.json["done"]) == (0, 1)


# --- kills ---

POINTS = [
    ("job saved", "after", 1),
    ("survey saved", "before", 1),
    ("object written", "before", 4),
    ("object written", "after", 4),
    ("object written", "after", 9),
    ("chunk", "after", 6),
    ("pyramid laid out", "after", 1),
    ("shard", "after", 1),
]


@pytest.fixture(scope="module")
def victims(server):
    process = Victims()
    yield process
    process.close()


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS, ids=lambda point: "-".join(map(str, point)).replace(" ", "_"))
def test_a_killed_driver_is_taken_over_at_once(point, spec, whole, victims, tmp_path, monkeypatch):
    killed = victims.run(spec, tmp_path, point=point)
    assert killed.status == -signal.SIGKILL
    assert ".tileloom/report.json" not in stored(spec.output)
    # Whoever waited for a sign of life of the dead would wait too long for any test.
    monkeypatch.setattr(lock, "HEARTBEAT", 1e6)
    restore(spec)
    assert_same_bytes(spec.output, whole)


# --- a store that is away ---


def strike(count, action):
    """Tell of reports, and do something once so many tiles are settled."""
    seen = []

    def told(reports):
        before = len(seen)
        seen.extend(reports)
        if before < count <= len(seen):
            action()

    return told


@pytest.mark.slow
def test_a_store_that_comes_back_in_time_is_waited_for(spec, whole, server, caplog):
    def away():
        server.stop()
        threading.Timer(3, server.start).start()

    with caplog.at_level(logging.WARNING, "tileloom.store"):
        run_job(spec, Silent(), on_reports=strike(5, away))
    assert_same_bytes(spec.output, whole)
    assert any(line.startswith("waiting for s3://") for line in caplog.messages)


@pytest.mark.parametrize("calls", [1, 7])
def test_a_store_that_stays_away_ends_the_run_which_goes_on_when_it_is_back(
    calls, spec, whole, server, quick_beats, capfd, tmp_path, monkeypatch
):
    file = written(tmp_path, **spec.model_dump(mode="json", exclude_none=True, exclude={"cluster"}))
    monkeypatch.setattr(patience, "PATIENCE", 0.5)
    with monkeypatch.context() as patch:
        write, written_tiles = Canvas.write, []

        def last(self, row, col, pixels):
            written_tiles.append((row, col))
            if len(written_tiles) == calls:
                server.stop()
            return write(self, row, col, pixels)

        patch.setattr(Canvas, "write", last)
        said = tileloom(capfd, "run", file)
    assert said.code == 1
    assert len(said.errors) == 1
    assert said.errors[0].startswith(f"error: {spec.output}/")
    assert "cannot be read or written (no connection" in said.errors[0]
    assert said.errors[0].endswith(f"go on with `tileloom resume {spec.output}`")
    server.start()
    assert tileloom(capfd, "verify", spec.output).code == 0
    assert tileloom(capfd, "resume", spec.output).code == 0
    assert_same_bytes(spec.output, whole)


@pytest.mark.slow
def test_workers_on_ray_write_to_the_bucket_and_wait_for_it(spec, whole, server):
    cluster = spec.cluster.model_copy(update={"workers": 2, "cpus": 1.0})

    def away():
        server.stop()
        threading.Timer(2, server.start).start()

    moved = spec.model_copy(update={"cluster": cluster})
    assert run_job(moved, Silent(), on_reports=strike(5, away)).report.done > 20
    assert_same_bytes(spec.output, whole)


# --- two runs ---


def test_a_second_run_is_refused_while_the_first_one_lives(spec, whole, quick_beats, capfd):
    refusals = []

    def meanwhile():
        refusals.append(tileloom(capfd, "resume", spec.output))

    run_job(spec, Silent(), on_reports=strike(3, meanwhile))
    assert refusals[0].code == 1
    assert f"error: another run is working on {spec.output}: wait for it" in refusals[0].errors[-1]
    assert_same_bytes(spec.output, whole)
    assert not [name for name in stored(spec.output) if "lock" in name]


PAUSED = """
import json, os, signal, sys
from tileloom.jobs.archive import Register
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.state import only_run
from tileloom.jobs.spec import JobSpec
from tileloom.tiling import lock
lock.HEARTBEAT = 0.5
settled = []
def pause(reports):
    before = len(settled)
    settled.extend(reports)
    if before < 5 <= len(settled):
        os.kill(os.getpid(), signal.SIGSTOP)
run_job(JobSpec.model_validate_json(sys.argv[1]), Silent(), on_reports=pause)
"""


@pytest.mark.slow
def test_a_driver_that_was_paused_and_taken_over_stops_at_its_next_write(spec, whole, quick_beats):
    paused = subprocess.Popen(
        [sys.executable, "-c", PAUSED, spec.model_dump_json()], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    with paused:
        _, status = os.waitpid(paused.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        restore(spec)
        before = stored(spec.output)
        paused.send_signal(signal.SIGCONT)
        told = paused.stderr.read()
    assert paused.returncode == 1
    assert "LedgerTaken: another run took over" in told
    assert_same_bytes(spec.output, whole)
    assert before.keys() == {name for name in stored(spec.output) if "/lock-" not in name}


def test_whoever_takes_over_fences_the_ledger_before_anything_else(spec, quick_beats, monkeypatch):
    monkeypatch.setattr(lock, "_beat", lambda *_: None)

    def taken():
        with only_run(spec.output):
            pass

    with pytest.raises(LedgerTaken, match="took over"):
        run_job(spec, Silent(), on_reports=strike(1, taken))
    assert len([name for name in stored(spec.output) if "/ledger/" in name]) == 2


# --- refusals before any work ---


def test_a_bucket_that_is_not_there(server, whole, capfd):
    options = ["--task", "sr:2", *QUICK]
    for words in (["s3://no-such-bucket/in.zarr", "out.zarr"], [whole.input, "s3://no-such-bucket/out.zarr"]):
        refused(tileloom(capfd, "restore", *words, *options), "s3://no-such-bucket", "bucket does not exist")
    for command in ("status", "verify", "retry", "resume"):
        refused(tileloom(capfd, command, "s3://no-such-bucket/out.zarr"), "bucket does not exist")


def test_credentials_that_are_not_known(server, bucket, whole, capfd):
    with server.strict():
        said = tileloom(capfd, "restore", whole.input, f"{bucket}/out.zarr", "--task", "sr:2", *QUICK)
    refused(said, f"{bucket}/out.zarr cannot be read or written (403 Forbidden: ", "credentials in the environment")
    assert stored(bucket) == {}


def test_a_server_that_does_not_answer(server, bucket, whole, capfd):
    server.stop()
    said = tileloom(capfd, "restore", whole.input, f"{bucket}/out.zarr", "--task", "sr:2", *QUICK)
    refused(said, f"{bucket}/out.zarr cannot be read or written (no connection)", "endpoint")


def test_what_is_no_zarr_in_a_bucket(bucket, capfd):
    (place(bucket) / "scene.tif").write(b"II*\0")
    for name, text in (("scene.tif", "only Zarr is read from object stores"), ("none.zarr", "does not exist")):
        refused(tileloom(capfd, "restore", f"{bucket}/{name}", "out.zarr", "--task", "sr:2"), f"{bucket}/{name}", text)


def test_an_output_that_is_taken_or_inside_of_zarr(bucket, whole, capfd):
    (place(bucket) / "thesis" / "chapter").write(b"mine")
    upload(whole.input, f"{bucket}/in.zarr")
    for name, text in (("thesis", "is no tileloom result"), ("in.zarr/deep/out", "which is Zarr already")):
        refused(tileloom(capfd, "restore", whole.input, f"{bucket}/{name}", "--task", "sr:2", *QUICK), text)
    assert len(stored(f"{bucket}/thesis")) == 1


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3://bucket//out", "s3://bucket/../out", "s3://me:secret@bucket/out", "s3://bucket/out?sig=secret"],
)
def test_an_address_that_cannot_be_one(address, whole, capfd):
    said = tileloom(capfd, "restore", whole.input, address, "--task", "sr:2", *QUICK)
    refused(said, "must be s3://BUCKET/PREFIX and nothing else")
    assert "secret" not in said.errors[0]


# --- secrets ---


def test_no_secret_is_written_or_said(spec, server, bucket, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [spec.output, "--json"]
    file = written(tmp_path, **spec.model_dump(mode="json", exclude_none=True, exclude={"cluster"}))
    said = [tileloom(capfd, "--debug", "run", file), tileloom(capfd, "status", *words)]
    with server.strict():
        said.append(tileloom(capfd, "--debug", "resume", spec.output))
    server.stop()
    said.append(tileloom(capfd, "--debug", "resume", spec.output))
    server.start()
    assert [one.code for one in said] == [0, 0, 2, 2]
    told = "".join(one.out + "".join(one.errors) for one in said)
    kept = b"".join([*stored(bucket).values(), *(data for data in files_in(tmp_path).values() if data)])
    assert spec.output in told
    assert SECRET not in told
    assert SECRET.encode() not in kept


# --- a disk ---


def full_disk(monkeypatch, *, writes, failures):
    """Fail so many writes of a file after the first ones, as a full disk does; tells how many did."""
    seen, failed = [], []

    def full(call):
        def write(source, target, **options):
            seen.append(target)
            if len(seen) > writes and len(failed) < failures:
                failed.append(target)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(source, target, **options)

        return write

    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, full(getattr(os, name)))
    return failed


@pytest.mark.parametrize("writes", [3, 9, 30])
def test_a_full_disk_is_waited_for(writes, whole, tmp_path, monkeypatch):
    failed = full_disk(monkeypatch, writes=writes, failures=3)
    restore(beside(whole, tmp_path))
    assert len(failed) == 3
    assert_same_disk(beside(whole, tmp_path), whole)


@pytest.mark.parametrize("writes", [9, 30])
def test_a_disk_that_stays_full_ends_the_run_which_goes_on_with_more_room(writes, whole, tmp_path, capfd, monkeypatch):
    spec = beside(whole, tmp_path)
    file = written(tmp_path, **spec.model_dump(mode="json", exclude_none=True, exclude={"cluster"}))
    monkeypatch.setattr(patience, "PATIENCE", 0.3)
    with monkeypatch.context() as patch:
        full_disk(patch, writes=writes, failures=10**6)
        said = tileloom(capfd, "run", file)
    assert said.code == 1
    assert "No space left on device" in said.errors[0]
    assert said.errors[0].endswith(f"go on with `tileloom resume {spec.output}`")
    assert tileloom(capfd, "verify", spec.output).code == 0
    assert tileloom(capfd, "resume", spec.output).code == 0
    assert_same_disk(spec, whole)


CUT_SHORT = """
import resource, sys
from tileloom.jobs.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(["run", sys.argv[1]]))
"""


def test_a_file_that_the_system_cuts_short_is_not_there(whole, tmp_path, capfd):
    """A limit of the system's own, in the middle of a chunk: an error that no waiting mends."""
    spec = beside(whole, tmp_path)
    file = written(tmp_path, **spec.model_dump(mode="json", exclude_none=True, exclude={"cluster"}))
    run = subprocess.run([sys.executable, "-c", CUT_SHORT, file], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "File too large" in last
    assert last.endswith(f"go on with `tileloom resume {spec.output}`")
    assert not [name for name in files_in(spec.output) if "inputs-1/y/c/0/0/0" in name or "partial" in name]
    assert tileloom(capfd, "resume", spec.output).code == 0
    assert_same_disk(spec, whole)

"""Archives whose runs are killed, stopped, doubled or cannot write; what is wrong is said before anything begins."""

import gc
import json
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests import faults
from tests.archives import archive, snapshot, write_image
from tests.commandline import files_in, tileloom
from tests.images import write_zarr
from tests.pipeline import assert_same_bytes, root_of
from tests.victim import Victims
from tileloom.cluster.agenda import Agenda
from tileloom.jobs.archive import load
from tileloom.jobs.run_archive import run_archive
from tileloom.jobs.state import only_run
from tileloom.tiling.errors import InputError, LedgerTaken, StoreAway
from tileloom.tiling.ledger import Journal, Ledger


def committed(place, image):
    """Tiles of an image that stand in its ledger, if it has one."""
    began = any(path.is_dir() for path in (place.result(image) / ".tileloom").glob("*"))
    return len(list(Ledger(root_of(place.spec(image)) / "ledger").entries())) if began else 0


def ended(place):
    """The images that the archive knows to have ended."""
    return {one["images"][0]["id"] for one in Journal(place.output / ".tileloom" / "journal").segments()}


# --- killed ---


@pytest.fixture(scope="module")
def victims():
    process = Victims()
    yield process
    process.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = archive(tmp_path_factory.mktemp("whole"))
    return place, place.run()


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        ("job saved", "before", 1),
        ("job saved", "after", 2),
        ("survey saved", "after", 2),
        ("commit", "before", 7),
        ("commit", "after", 9),
        ("shard", "after", 2),
        ("segment linked", "before", 14),
        ("segment linked", "after", 20),
        ("image ended", "before", 2),
        ("image ended", "after", 2),
    ],
    ids=lambda point: " ".join(map(str, point)),
)
def test_a_killed_run_goes_on_and_redoes_nothing_that_was_finished(tmp_path, victims, whole, point):
    other, summary = whole
    place = archive(other.folder, name=tmp_path.name)
    killed = victims.run(place.archive.job, tmp_path, manifest=place.archive.manifest, point=point)
    assert killed.status == -signal.SIGKILL
    finished = sum(committed(place, image) for image in "abc")
    before = {image: snapshot(place, image) for image in ended(place)}
    again = place.run()
    assert again.whole
    assert again.tiles == summary.tiles - finished
    for image in "abc":
        assert_same_bytes(place.spec(image), other.spec(image))
    assert before == {image: snapshot(place, image) for image in before}
    assert not list(place.output.rglob("*.partial"))


# --- stopped ---


def test_a_first_run_that_is_stopped_keeps_all_that_was_finished(tmp_path, capfd, monkeypatch, whole):
    place = archive(whole[0].folder, name=tmp_path.name)
    settle, calls = Agenda.settle, []

    def stopped(self, reports):
        late = settle(self, reports)
        calls.append(reports)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return late

    with monkeypatch.context() as patch:
        patch.setattr(Agenda, "settle", stopped)
        said = tileloom(capfd, "run", place.job)
    assert said.code == 130
    assert said.errors == [
        f"stopped; everything finished is kept, go on with: tileloom resume {place.output}",
    ]
    finished = sum(committed(place, image) for image in "abc")
    assert finished > 0
    looked = tileloom(capfd, "status", place.output, "--json").json
    assert (looked["images"], looked["done"] + looked["begun"] > 0) == (3, True)
    again = tileloom(capfd, "resume", place.output, "--json")
    assert again.code == 0
    assert again.json["tiles"] == whole[1].tiles - finished
    for image in "abc":
        assert_same_bytes(place.spec(image), whole[0].spec(image))


@pytest.mark.slow
def test_a_signal_stops_an_archive_and_says_how_to_go_on(tmp_path, capfd):
    place = archive(tmp_path, rows=[f"b{at}" for at in range(12)], steps=8)
    words = [sys.executable, "-m", "tileloom.jobs.cli", "run", place.job]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(place.output.glob(".tileloom/journal/00000001.json")):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    out, errors = child.communicate(timeout=60)
    assert (child.returncode, out) == (143, "")
    assert errors.splitlines()[-1] == (
        f"stopped; everything finished is kept, go on with: tileloom resume {place.output}"
    )
    done = ended(place)
    before = {image: snapshot(place, image) for image in done}
    assert 2 <= len(done) < 12
    assert tileloom(capfd, "resume", place.output).code == 0
    assert before == {image: snapshot(place, image) for image in done}


def test_an_output_that_cannot_be_written_stops_the_archive_and_not_one_image_after_the_other(
    tmp_path, capfd, monkeypatch
):
    rows = [f"{letter}{at}" for at in range(4) for letter in "ac"]
    place = archive(tmp_path, rows=rows)

    def full(self, *arguments, **options):
        raise StoreAway("cannot write here: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tileloom.tiling.canvas.Canvas.write", full)
        said = tileloom(capfd, "run", place.job)
    assert said.code == 1
    assert sum("stopped: cannot write here: No space left" in line for line in said.errors) == 3
    assert said.errors[-1] == (
        "error: 3 images one after the other could not be gone on with, the last: cannot write here: No space left on "
        f"device; go on with `tileloom resume {place.output}`"
    )
    assert ended(place) == set()
    again = tileloom(capfd, "resume", place.output, "--json")
    assert (again.code, again.json["done"], again.json["stopped"]) == (0, 8, [])


def test_one_image_that_cannot_be_written_is_left_for_the_next_run(tmp_path, capfd):
    place = archive(tmp_path)
    place.output.mkdir()
    (place.output / "b.zarr").symlink_to(tmp_path / "gone" / "b.zarr")
    with only_run(place.output):
        pass
    said = tileloom(capfd, "run", place.job, "--json")
    assert said.code == 2
    faults.remove(place.output / "b.zarr")
    assert place.run().whole


# --- two runs ---


def test_a_second_run_of_an_archive_is_refused(tmp_path, capfd):
    place = archive(tmp_path)
    place.run()
    before = files_in(place.output)
    with only_run(place.output):
        for words in (("run", place.job), ("resume", place.output), ("retry", place.output)):
            said = tileloom(capfd, *words)
            assert said.code == 1
            assert said.errors[0].startswith(f"error: another run is working on {place.output}: wait for it")
    assert files_in(place.output) == before


def test_a_run_that_was_taken_over_stops_and_leaves_what_the_other_does(tmp_path):
    place = archive(tmp_path)

    def take_over(reports):
        journal = Journal(place.output / ".tileloom" / "journal")
        if not list(journal.segments()):
            journal.append({"images": []})

    with pytest.raises(LedgerTaken, match=r"another run took over .*; this one stops"):
        place.run(on_reports=take_over)
    assert [one["images"] for one in Journal(place.output / ".tileloom" / "journal").segments()] == [[]]


def test_an_image_that_another_run_works_on_is_left_to_it(tmp_path, capfd):
    place = archive(tmp_path)
    place.run()
    place.rows("a", {"id": "b", "input": "b.zarr", "noise": 0.1}, "c")
    with only_run(place.result("b")):
        said = tileloom(capfd, "run", place.job)
    assert said.code == 1
    assert f"stopped: b: another run is working on {place.result('b')}: wait for it" in said.out
    assert f"go on with these by: tileloom resume {place.output}" in said.out


# --- damaged ---


def test_a_damaged_journal_costs_no_image(tmp_path, capfd):
    place = archive(tmp_path)
    place.run()
    pixels = {image: snapshot(place, image) for image in "abc"}
    faults.flip(place.output / ".tileloom" / "journal" / "00000001.json")
    looked = tileloom(capfd, "status", place.output, "--json").json
    assert (looked["done"], looked["begun"]) == (2, 1)
    again = tileloom(capfd, "run", place.job, "--json")
    assert (again.code, again.json["done"], again.json["network_calls"]) == (0, 3, 0)
    for image in "abc":
        changed = {name for name, found in snapshot(place, image).items() if pixels[image][name] != found}
        assert {Path(name).name for name in changed} <= {"report.json", "job.json"}


def test_a_damaged_archive_file_is_named(tmp_path, capfd):
    place = archive(tmp_path)
    place.run()
    file = place.output / ".tileloom" / "archive.json"
    file.write_text("{}")
    for words in (("run", place.job), ("status", place.output), ("verify", place.output), ("retry", place.output)):
        said = tileloom(capfd, *words)
        assert said.code == 2
        assert said.errors == [f"error: {file} is damaged: run the job's own file again, into another output"]


def test_verify_names_the_image_that_is_damaged_and_how_to_mend_it(tmp_path, capfd):
    place = archive(tmp_path)
    place.run()
    said = tileloom(capfd, "verify", place.output)
    assert said.code == 0
    assert f"{place.output}: 3 images, 15 tiles and " in said.out
    assert "nothing is damaged" in said.out
    before = {image: snapshot(place, image) for image in "ac"}
    faults.flip(place.result("b") / "0" / "c" / "0" / "0" / "0")
    faults.remove(next((place.result("b") / ".tileloom").glob("*/canvas-0/c/0/1/1")))
    told = tileloom(capfd, "verify", place.output, "--json")
    assert told.code == 1
    assert (told.json["images"], list(told.json["damage"]), len(told.json["damage"]["b"])) == (3, ["b"], 2)
    said = tileloom(capfd, "verify", place.output)
    assert "image b is damaged\n" in said.out
    assert f"mend it with: tileloom retry {place.result('b')}" in said.out
    assert tileloom(capfd, "retry", place.result("b")).code == 0
    assert tileloom(capfd, "verify", place.output).code == 0
    assert before == {image: snapshot(place, image) for image in "ac"}


def test_an_image_that_is_gone_is_named_and_made_anew(tmp_path, capfd, whole):
    place = archive(whole[0].folder, name=tmp_path.name)
    place.run()
    place.result("b").rename(tmp_path / "lost")
    said = tileloom(capfd, "verify", place.output)
    assert said.code == 1
    assert f"{place.result('b')} holds no result of tileloom" in said.out
    assert f"tileloom resume {place.output} --redo stale" in said.out
    again = tileloom(capfd, "resume", place.output, "--redo", "stale", "--json")
    assert (again.code, again.json["tiles"]) == (0, int(whole[0].report()["b"]["tiles"]))
    assert_same_bytes(place.spec("b"), whole[0].spec("b"))


# --- refused ---


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": "x", "input": "gone.zarr"}, "out.csv, row 2: input {folder}/gone.zarr does not exist: mend the path"),
        ({"id": "x", "input": "a.zarr", "reference": "r.tif"}, "row 2: reference {folder}/r.tif does not exist"),
        ({"id": "x", "input": "a.zarr", "task": "inpaint", "mask": "m.tif"}, "row 2: mask {folder}/m.tif does not"),
        ({"id": "x", "input": "a.zarr", "task": "inpaint"}, "row 2: mask: the task has inpaint, which needs the image"),
        ({"id": "x", "input": "a.zarr", "task": "sharpen"}, "row 2: task: "),
        ({"id": "x", "input": "a.zarr", "noise": "2"}, "row 2: noise must be a number from 0 to 1, not 2.0"),
        ({"id": "x", "input": "a.zarr", "noise": "nan"}, "row 2: noise must be a number from 0 to 1, not nan"),
        ({"id": "a", "input": "c.zarr"}, "row 2: row 1 has the id a already"),
        ({"id": "../x", "input": "c.zarr"}, "row 2: the id '../x' cannot name a folder"),
        ({"id": "x", "input": "out/x.zarr"}, "row 2: input {folder}/out/x.zarr lies in the archive's own output"),
    ],
)
def test_a_wrong_row_is_refused_before_anything_is_written(tmp_path, capfd, row, says):
    place = archive(tmp_path, rows=["a"])
    place.rows("a", row)
    said = tileloom(capfd, "run", place.job)
    assert said.code == 2
    assert says.format(folder=tmp_path) in said.errors[0]
    assert len(said.errors) == 1
    assert not place.output.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("manifest: 5\noutput: out\ntask: sr:2\n", "job.yaml: manifest must be the path of a list of images, not 5"),
        ("manifest: list.csv\ninput: a.tif\noutput: out\ntask: sr:2\n", "job.yaml: input is given by each row"),
        ("manifest: list.csv\nid: a\noutput: out\ntask: sr:2\n", "job.yaml: id is given by each row of the manifest"),
        ("manifest: list.csv\noutput: out\n", "job.yaml: task is missing"),
        ("manifest: gone.csv\noutput: out\ntask: sr:2\n", "gone.csv cannot be read: No such file or directory"),
        ("manifest: job.yaml\noutput: out\ntask: sr:2\n", "job.yaml is no manifest: give a .csv or .jsonl file"),
        ("manifest: s3://b/a.csv\noutput: out\ntask: sr:2\n", "s3://b/a.csv: a manifest is read from a disk: copy it"),
        ("manifest: .\noutput: out\ntask: sr:2\n", "names no image"),
    ],
)
def test_a_wrong_archive_is_refused(tmp_path, capfd, text, says):
    (tmp_path / "job.yaml").write_text(text)
    for verb in ("run", "plan"):
        said = tileloom(capfd, verb, tmp_path / "job.yaml")
        assert said.code == 2
        assert says in said.errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("manifest", "output"),
    [("scans", "scans"), ("scans", "scans/out.zarr"), ("scans/*", "scans/out"), ("**/*.zarr", "new")],
)
def test_an_output_among_the_images_is_refused(tmp_path, manifest, output):
    (tmp_path / "scans").mkdir()
    write_image(tmp_path / "scans", "a")
    (tmp_path / "job.yaml").write_text(f'manifest: "{manifest}"\noutput: {output}\ntask: sr:2\n')
    before = files_in(tmp_path)
    with pytest.raises(InputError, match=r"would be among the images that .* names: choose an output beside them"):
        run_archive(load(tmp_path / "job.yaml"), faults.Silent())
    assert files_in(tmp_path) == before


def test_a_folder_beside_the_images_of_a_folder_is_no_image(tmp_path, capfd):
    (tmp_path / "scans").mkdir()
    for image in "ac":
        write_image(tmp_path / "scans", image)
    place = archive(tmp_path, rows=[])
    place.write_job(manifest="scans", output="scans/restored")
    for images in (2, 2, 3):
        said = tileloom(capfd, "run", place.job, "--json")
        assert (said.code, said.json["images"], said.json["done"]) == (0, images, images)
        if said.json["network_calls"] == 0:
            write_image(tmp_path / "scans", "d")


def test_an_archive_and_an_image_do_not_share_an_output(tmp_path, capfd):
    place = archive(tmp_path, rows=["a"])
    place.run()
    said = tileloom(capfd, "restore", tmp_path / "a.zarr", place.output, "--task", "sr:2")
    assert said.code == 2
    assert "holds an archive" in said.errors[0]
    single = place.spec("a").model_copy(update={"output": str(tmp_path / "single.zarr")})
    with pytest.raises(faults.Stopped):
        faults.run_job(single, faults.StopAfter("survey", 0))
    place.write_job(output="single.zarr")
    said = tileloom(capfd, "run", place.job)
    assert said.code == 2
    assert f"{tmp_path}/single.zarr exists and is no archive of tileloom" in said.errors[0]


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path, capfd):
    place = archive(tmp_path, output="out.csv/results")
    said = tileloom(capfd, "run", place.job)
    assert said.code == 2
    assert f"cannot be written: {place.list} is no folder that this user may write to" in said.errors[0]


def test_a_folder_that_is_no_archive_is_not_written_into(tmp_path):
    place = archive(tmp_path)
    place.output.mkdir()
    (place.output / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is no archive of tileloom"):
        place.run()
    assert [path.name for path in place.output.iterdir()] == ["thesis.txt"]


def test_an_archive_where_no_image_can_be_opened_is_refused(tmp_path, capfd):
    (tmp_path / "a.png").write_text("no image")
    place = archive(tmp_path, rows=[])
    place.rows({"id": "a", "input": "a.png"})
    said = tileloom(capfd, "run", place.job)
    assert said.code == 2
    assert "a.png: is of no kind that can be read" in said.errors[0]
    assert not place.output.exists()


def test_a_job_that_cannot_have_its_memory_is_refused_at_once(tmp_path, capfd):
    place = archive(tmp_path, max_memory="1MB")
    said = tileloom(capfd, "run", place.job)
    assert said.code == 2
    assert "of memory and max_memory allows 1.00 MB" in said.errors[0]
    assert not place.output.exists()


def test_simulate_says_what_to_do_with_an_archive(tmp_path, capfd):
    place = archive(tmp_path, rows=["a"])
    place.run()
    words = ("--workers", 1, "--slots", 1, "--call-seconds", 1)
    for target in (place.job, place.output):
        said = tileloom(capfd, "simulate", target, *words)
        assert said.code == 2
        assert f"{target} is an archive: simulate a job of one of its images, with --images" in said.errors[0]
    assert tileloom(capfd, "simulate", place.result("a"), *words).code == 0


# --- foreseen ---


def test_a_plan_adds_up_what_all_images_cost(tmp_path, capfd, whole):
    place, summary = whole
    found = tileloom(capfd, "plan", place.job, "--json")
    assert found.code == 0
    assert (found.json["images"], found.json["tiles"]) == (3, summary.tiles)
    assert (found.json["calls"], found.json["problems"]) == (summary.calls, [])
    said = tileloom(capfd, "plan", place.job)
    assert f"{place.list}: 3 images, {summary.tiles} tiles" in said.out
    assert not (tmp_path / "out").exists()


def test_the_reports_figures_are_those_of_the_images(whole):
    place, summary = whole
    told = json.loads((place.output / ".tileloom" / "report.json").read_text())
    assert told == summary.as_json()
    rows = place.report().values()
    assert told["tiles"] == sum(int(row["tiles"]) for row in rows)
    assert told["network_calls"] == sum(int(row["calls"]) for row in rows)
    assert 0 < told["batch_fill"] <= 1
    assert (told["images"], told["done"], told["degraded"], told["failed"], told["stopped"]) == (3, 3, [], [], [])
    assert {row["ended"] for row in rows} == {"done"}
    assert {row["rmse"] for row in rows} == {""}


# --- what it costs ---


def test_the_driver_keeps_next_to_nothing_of_an_image_that_has_ended(tmp_path):
    """What the driver's own code holds after 20 images of an archive, and after 80."""
    write_zarr(tmp_path / "one.zarr", np.zeros((1, 8, 8), np.float32))
    place, held = archive(tmp_path, rows=[]), {}
    place.rows(*({"id": f"image{at}", "input": "one.zarr"} for at in range(90)))
    own = [tracemalloc.Filter(True, f"*/{files}") for files in ("jobs/*", "agenda.py", "frontier.py", "ledger.py")]

    def heard(reports):
        count = max((report.image for report in reports), default=0)
        count -= count % 20
        if count not in held:
            gc.collect()
            traces = tracemalloc.take_snapshot().filter_traces(own).traces
            held[count] = sum(trace.size for trace in traces)

    tracemalloc.start()
    try:
        assert place.run(on_reports=heard).whole
    finally:
        tracemalloc.stop()
    assert held[20] > 0
    assert held[80] - held[20] < 60 * 200

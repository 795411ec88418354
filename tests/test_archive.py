"""Archives: each image is what it would be alone, and what becomes of one is nothing to the others."""

from itertools import pairwise

import numpy as np
import pytest
import yaml

from tests import faults
from tests.archives import SIZES, archive, snapshot, write_image
from tests.commandline import files_in, tileloom
from tests.images import noise, write_tiff, write_zarr
from tests.pipeline import assert_same_bytes, beside, holes, measure, restore, result, scene, stored_bytes
from tileloom.jobs.archive import load
from tileloom.jobs.run import Redo
from tileloom.tiling.box import TileKey


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An archive that ran undisturbed, not to be changed."""
    place = archive(tmp_path_factory.mktemp("whole"))
    return place, place.run()


def assert_same_images(place, other, images="abc"):
    for image in images:
        assert_same_bytes(place.spec(image), other.spec(image))


# --- bytes ---


def test_each_image_is_what_it_would_be_alone(whole, tmp_path):
    place, summary = whole
    assert (summary.images, summary.done, summary.whole) == (3, 3, True)
    calls = 0
    for image in SIZES:
        alone = beside(place.spec(image), tmp_path)
        calls += restore(alone).calls
        assert_same_bytes(place.spec(image), alone)
    assert (summary.calls, summary.tiles) == (calls, calls // 3)
    assert result(place.spec("a")).shape == (1, 20, 24)


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        (["c", "b", "a"], {}),
        ([{"id": "a", "input": "a.zarr"}, {"id": "b", "input": "b.zarr", "priority": 1}, "c"], {"priority": "oldest"}),
        ([{"id": "c", "input": "c.zarr", "priority": -3}, "b", "d", "a"], {"lanes": 3}),
    ],
)
def test_no_order_of_images_changes_a_byte(whole, rows, keys):
    first, _ = whole
    place = archive(first.folder, name=f"other{len(rows)}{len(keys)}{rows[0] == 'c'}", rows=rows, **keys)
    assert place.run().whole
    assert_same_images(place, first)


def test_images_interleave(tmp_path):
    place, order = archive(tmp_path, rows=["b1", "b2", "b3"], batch=4), []
    place.run(on_reports=lambda reports: order.extend(report.image for report in reports))
    changes = sum(one != other for one, other in pairwise(order))
    assert changes > len(order) / 4


def test_images_of_high_priority_come_first(tmp_path):
    rows = [{"id": image, "input": f"{image}.zarr", "priority": at} for at, image in enumerate("abcd")]
    place, begun = archive(tmp_path, rows=rows, batch=1), []
    place.run(on_reports=lambda reports: begun.extend(report.image for report in reports))
    # Images are numbered in the order in which they are begun.
    assert begun == sorted(begun)
    assert list(place.report()) == ["d", "c", "b", "a"]


def test_a_row_may_have_a_task_a_mask_and_noise_of_its_own(tmp_path):
    write_zarr(tmp_path / "mask.zarr", holes(20, 24)[None].astype(np.uint8))
    rows = ["a", {"id": "b", "input": "b.zarr", "task": "sr:4", "noise": 0.1}]
    rows += [{"id": "hole", "input": "hole.zarr", "task": "inpaint,sr:2", "mask": "mask.zarr"}]
    write_zarr(tmp_path / "hole.zarr", measure(scene(1, 20, 24), "sr:2").astype(np.float32))
    place = archive(tmp_path, rows=rows)
    assert place.run().whole
    assert result(place.spec("b")).shape == (1, 64, 80)
    for image in ("a", "b", "hole"):
        alone = beside(place.spec(image), tmp_path / "alone")
        restore(alone)
        assert_same_bytes(place.spec(image), alone)


def test_an_archive_of_one_image_is_that_image(tmp_path):
    place = archive(tmp_path, rows=["a"])
    assert place.run().whole
    alone = beside(place.spec("a"), tmp_path / "alone")
    restore(alone)
    assert_same_bytes(place.spec("a"), alone)


# --- broken images ---


SAID = {
    "damaged": "damaged.tif",
    "cut": "cut.tif",
    "text": "text.png: is of no kind that can be read",
    "bands": "put it into an archive of its own kind",
    "nan": "holds nan in band 0",
    "mask": "is 4x4 pixels, this task needs one of 14x18",
    "truth": "has 4x4 pixels and 1 bands, and the result 14x18 pixels",
}


def broken_archive(folder):
    """Three whole images, and seven broken ones between them."""
    faults.flip(write_tiff(folder / "damaged.tif", noise(1, 64, 64), tile=(16, 16), compression="zlib"))
    write_tiff(folder / "cut.tif", noise(1, 64, 64))
    (folder / "cut.tif").write_bytes((folder / "cut.tif").read_bytes()[:300])
    (folder / "text.png").write_text("no image")
    write_image(folder, "bands", bands=2)
    write_zarr(folder / "nan.zarr", np.full((1, 8, 8), np.nan, np.float32))
    write_zarr(folder / "small.zarr", np.zeros((1, 4, 4), np.uint8))
    place = archive(folder)
    place.rows(
        {"id": "damaged", "input": "damaged.tif"},
        "a",
        {"id": "cut", "input": "cut.tif"},
        "bands",
        {"id": "text", "input": "text.png"},
        "b",
        {"id": "nan", "input": "nan.zarr"},
        {"id": "mask", "input": "c.zarr", "task": "inpaint,sr:2", "mask": "small.zarr"},
        {"id": "truth", "input": "c.zarr", "reference": "small.zarr"},
        "c",
    )
    return place


def test_broken_images_are_named_and_stop_nobody(tmp_path, capfd, whole):
    place = broken_archive(tmp_path)
    said = tileloom(capfd, "run", place.job)
    assert said.code == 1
    assert "10 images: 3 done, 0 degraded, 7 failed" in said.out
    assert f"run these again with: tileloom retry {place.output}" in said.out
    assert {image for image, row in place.report().items() if row["ended"] == "failed"} == set(SAID)
    assert {image for image, row in place.report().items() if row["ended"] == "done"} == set("abc")
    for image, reason in SAID.items():
        assert reason in place.report()[image]["reason"]
        assert f"failed: {image}\n" in said.out
        assert sum(line.startswith(f"image {image} failed: ") for line in said.errors) == 1
    # Nothing is left of what was refused before its first tile.
    left = {path.name for path in place.output.iterdir()} - {"report.csv", ".tileloom", "damaged.zarr"}
    assert left == {"a.zarr", "b.zarr", "c.zarr"}
    for image in "abc":
        ours, theirs = (stored_bytes(at.spec(image)) for at in (place, whole[0]))
        assert ours["0/c/0/0/0"] == theirs["0/c/0/0/0"]


def test_what_failed_is_told_and_not_tried_again_until_that_is_asked_for(tmp_path, capfd):
    place = broken_archive(tmp_path)
    planned = tileloom(capfd, "plan", place.job)
    assert planned.code == 1
    for image in SAID.keys() - {"damaged", "nan"}:
        assert f"cannot be run: {image}: " in planned.out
    place.run()
    looked = tileloom(capfd, "status", place.output)
    assert looked.code == 1
    assert "10 images, 3 done, 7 degraded or failed, 0 to do" in looked.out
    before = [snapshot(place, image) for image in "abc"]
    again = tileloom(capfd, "run", place.job, "--json")
    assert (again.code, again.json["network_calls"], sorted(again.json["failed"])) == (1, 0, sorted(SAID))
    assert before == [snapshot(place, image) for image in "abc"]


def test_a_retry_runs_only_what_failed_once_that_is_mended(tmp_path, capfd):
    place = archive(tmp_path, rows=["a", "b"])
    good = noise(1, 40, 40)
    write_tiff(tmp_path / "c.tif", good, tile=(16, 16), compression="zlib")
    faults.flip(tmp_path / "c.tif")
    place.rows("a", {"id": "c", "input": "c.tif"}, "b")
    assert tileloom(capfd, "run", place.job).code == 1
    before = [snapshot(place, image) for image in "ab"]
    # Some of the image was done before the damage was found.
    write_tiff(tmp_path / "c.tif", good, tile=(16, 16), compression="zlib")
    again = tileloom(capfd, "retry", place.output, "--json")
    assert (again.code, again.json["done"], again.json["failed"]) == (0, 3, [])
    assert before == [snapshot(place, image) for image in "ab"]
    alone = beside(place.spec("c"), tmp_path / "alone")
    summary = restore(alone)
    assert 0 < again.json["network_calls"] <= summary.calls
    np.testing.assert_array_equal(result(place.spec("c")), result(alone))
    assert tileloom(capfd, "verify", place.output).code == 0


def test_degraded_tiles_are_named_and_a_retry_restores_them(tmp_path, capfd, monkeypatch, whole):
    place, bad = archive(tmp_path), TileKey(0, 1, 1)
    with monkeypatch.context() as broken:
        faults.break_work(broken, bad={bad})
        said = tileloom(capfd, "run", place.job)
    assert said.code == 1
    assert f"image b degraded: {bad} (" in "\n".join(said.errors)
    named = [row["id"] for row in place.report().values() if row["ended"] == "degraded"]
    assert sorted(named) == ["a", "b"]
    looked = tileloom(capfd, "status", place.output, "--json")
    assert looked.code == 1
    assert sorted(record["id"] for record in looked.json["ended_badly"]) == ["a", "b"]
    again = tileloom(capfd, "retry", place.output, "--json")
    assert (again.code, again.json["done"]) == (0, 3)
    assert 2 <= again.json["tiles"] < whole[1].tiles
    for image in "abc":
        np.testing.assert_array_equal(result(place.spec(image)), result(whole[0].spec(image)))


def test_an_image_that_may_not_degrade_stops_alone(tmp_path, capfd, monkeypatch):
    place = archive(tmp_path, rows=["a", "c"], on_error="stop", retries=0)
    with monkeypatch.context() as broken:
        faults.break_work(broken, bad={TileKey(0, 1, 1)})
        said = tileloom(capfd, "run", place.job)
    assert said.code == 1
    assert "failed: a\n" in said.out
    assert "1 done" in said.out
    assert "level 0 row 1 column 1 failed 1 times" in said.errors[0]
    assert tileloom(capfd, "retry", place.job).code == 0


# --- reference ---


def test_a_reference_tells_how_near_a_result_is(tmp_path, capfd):
    truth = scene(2, 20, 24)
    y = measure(truth, "sr:2").astype(np.float32)
    write_zarr(tmp_path / "a.zarr", y)
    truth[:, 3, 4] = -7
    truth[0, 5, 5] = np.nan
    write_zarr(tmp_path / "truth.zarr", truth, attributes={"nodata": -7})
    place = archive(tmp_path, rows=[{"id": "a", "input": "a.zarr", "reference": "truth.zarr"}])
    assert place.run().whole
    there = np.ones((20, 24), bool)
    there[3, 4] = there[5, 5] = False
    error = (result(place.spec("a")).astype(np.float64) - truth)[:, there]
    assert float(place.report()["a"]["rmse"]) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-12)


# --- what is done stays done ---


def test_rows_are_added_and_what_is_finished_is_not_touched(tmp_path, capfd):
    place = archive(tmp_path, rows=["a", "b"])
    assert place.run().whole
    before = [snapshot(place, image) for image in "ab"]
    for image in "cd":
        write_image(tmp_path, image)
    place.rows("c", "b", "d", "a")
    added = tileloom(capfd, "run", place.job, "--json").json
    assert (added["images"], added["done"]) == (4, 4)
    rows = place.report()
    assert added["network_calls"] == sum(int(rows[image]["calls"]) for image in "cd") > 0
    assert before == [snapshot(place, image) for image in "ab"]
    assert tileloom(capfd, "resume", place.output, "--json").json["network_calls"] == 0


def test_a_run_with_nothing_to_do_starts_no_worker(tmp_path, monkeypatch):
    place = archive(tmp_path, rows=["a"])
    place.run()
    monkeypatch.setattr("tileloom.jobs.run_archive.executor_of", None)
    summary = place.run()
    assert (summary.whole, summary.tiles, summary.calls, summary.fill) == (True, 0, 0, 0.0)


def test_a_changed_row_is_refused_alone_and_redone_when_asked(tmp_path, capfd):
    place = archive(tmp_path)
    place.run()
    before = [snapshot(place, image) for image in "ac"]
    place.rows("a", {"id": "b", "input": "b.zarr", "noise": 0.1}, "c")
    said = tileloom(capfd, "run", place.job)
    assert said.code == 1
    assert "image b failed: " in said.errors[0]
    assert "was begun by another job (levels: 1 -> 2; task: sr:2 -> sr:2, denoise:0.1): add --redo" in said.errors[0]
    redone = tileloom(capfd, "run", place.job, "--redo", "stale", "--json").json
    assert (redone["done"], redone["tiles"]) == (3, int(place.report()["b"]["tiles"]))
    assert [drop_reports(found) for found in before] == [drop_reports(snapshot(place, image)) for image in "ac"]
    fresh = archive(tmp_path, name="fresh", rows=[{"id": "b", "input": "b.zarr", "noise": 0.1}])
    fresh.run()
    np.testing.assert_array_equal(result(place.spec("b")), result(fresh.spec("b")))


def drop_reports(found):
    """A snapshot without what an image that is looked at again is told anew."""
    return {name: data for name, (data, _) in found.items() if not name.endswith("/report.json")}


def test_a_changed_job_is_refused_before_anything_and_redone_when_asked(tmp_path, capfd):
    place = archive(tmp_path, rows=["a", "c"])
    place.run()
    before = files_in(place.output)
    place.write_job(steps=2)
    said = tileloom(capfd, "run", place.job)
    assert said.code == 2
    assert said.errors == [
        f"error: {place.output} was begun by another job (steps: 3 -> 2): add --redo stale to redo what this changes, "
        "or choose another output"
    ]
    assert files_in(place.output) == before
    redone = tileloom(capfd, "run", place.job, "--redo", "stale", "--json")
    assert (redone.code, redone.json["done"]) == (0, 2)
    fresh = archive(tmp_path, name="fresh", rows=["a", "c"], steps=2)
    fresh.run()
    for image in "ac":
        np.testing.assert_array_equal(result(place.spec(image)), result(fresh.spec(image)))


def test_other_weights_are_another_job(tmp_path, capfd):
    place = archive(tmp_path, rows=["a"])
    place.run()
    place.write_job(model={"name": "gaussian", "length": 5.0})
    said = tileloom(capfd, "run", place.job)
    assert said.code == 2
    assert "(model.length: 4.0 -> 5.0)" in said.errors[0]


def test_a_redo_that_is_interrupted_goes_on_to_its_end(tmp_path):
    """Images that the redo had not reached must not pass for finished."""
    place = archive(tmp_path, batch=1)
    place.run()
    place.write_job(batch=1, steps=2)

    def stop(reports):
        if any(path.exists() for path in place.output.glob("*.zarr/.tileloom/*-1/ledger/00000002.json")):
            raise faults.Stopped

    with pytest.raises(faults.Stopped):
        place.run(redo=Redo.STALE, on_reports=stop)
    summary = place.run()
    assert summary.whole
    assert summary.tiles > 0
    fresh = archive(tmp_path, name="fresh", batch=1, steps=2)
    fresh.run()
    for image in "abc":
        np.testing.assert_array_equal(result(place.spec(image)), result(fresh.spec(image)))
    assert place.run().tiles == 0


def test_a_submitted_archive_is_the_same_archive(tmp_path):
    """Its text is what a cluster's driver runs; rows that are added belong to the same submission."""
    place = archive(tmp_path, rows=["a"], cluster={"workers": 2})
    (tmp_path / "sent").mkdir()
    sent = tmp_path / "sent" / "job.yaml"
    sent.write_text(yaml.safe_dump(place.archive.text()))
    assert load(sent) == place.archive
    before = place.archive.digest
    place.rows("a", "c")
    assert place.archive.digest == before
    place.write_job(cluster={"workers": 3})
    assert place.archive.digest == before
    place.write_job(steps=2)
    assert place.archive.digest != before


def test_calls_are_those_of_all_runs(tmp_path, capfd):
    place = archive(tmp_path, rows=["a"])
    calls = place.run().calls
    assert place.run(redo=Redo.STALE).calls == 0
    assert int(place.report()["a"]["calls"]) == calls
    assert tileloom(capfd, "status", place.output, "--json").json["calls"] == calls


def test_a_job_file_and_its_output_name_the_same_archive(tmp_path, capfd):
    place = archive(tmp_path, rows=["a", "c"])
    said = tileloom(capfd, "resume", place.job)
    assert said.code == 2
    assert f"{place.output} was not begun yet: start it with `tileloom run {place.job}`" in said.errors[0]
    assert tileloom(capfd, "run", place.job).code == 0
    told = [tileloom(capfd, "status", target, "--json").json for target in (place.job, place.output)]
    assert told[0] == told[1]
    facts = ("images", "done", "begun", "ended_badly")
    assert [told[0][name] for name in facts] == [2, 2, 0, []]
    assert told[0]["tiles"] * 3 == told[0]["calls"] > 0
    for verb in ("resume", "retry"):
        for target in (place.job, place.output):
            again = tileloom(capfd, verb, target, "--json")
            assert (again.code, again.json["network_calls"]) == (0, 0)
    looked = tileloom(capfd, "status", place.result("a"))
    assert looked.code == 0
    assert "a.zarr: done" in looked.out

"""An image is drawn from nothing: a size stands in for the input, and everything else of a job works as ever."""

import dataclasses
import json

import numpy as np
import pytest
import zarr

from tests.commandline import QUICK, tileloom, written
from tests.pipeline import job, restore, result, root_of
from tileloom.jobs.bill import coarser_bytes
from tileloom.jobs.compile import compile_job
from tileloom.jobs.forecast import survey_image
from tileloom.jobs.progress import Silent
from tileloom.jobs.spec import from_options
from tileloom.tiling import access, source
from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.errors import InputError
from tileloom.tiling.inputs import KEEPS, OWNS
from tileloom.tiling.source import open_source


def drawn(folder, size="40x28", **options):
    """A quick job of a blank image, not run yet."""
    return job(folder, f"blank:{size}", **{"task": "generate", "bands": 2, "levels": 1, **options})


def generated(folder, size="40x28", **options):
    spec = drawn(folder, size, **options)
    restore(spec)
    return result(spec)


# --- what comes out ---


@pytest.mark.parametrize("weave", ["msr", "joint", "naive"])
@pytest.mark.parametrize("size", ["1x1", "1x40", "33x17"])
def test_an_image_of_any_size_is_drawn(tmp_path, size, weave):
    width, height = map(int, size.split("x"))
    image = generated(tmp_path, size, weave=weave)
    assert (image.shape, image.dtype) == ((2, height, width), np.uint8)
    assert image.size < 10 or image.std() > 5


@pytest.mark.parametrize("weave", ["msr", "joint"])
def test_coarse_levels_settle_the_far_reaches_of_a_blank_image(tmp_path, weave):
    spec = drawn(tmp_path, "60x44", weave=weave, levels=2, dtype="float32", range=[-1, 1], keep_scratch=True)
    restore(spec)
    fine = result(spec)
    compiled = compile_job(spec)
    image = access.ImageAccess(dataclasses.replace(compiled.image, root=str(root_of(spec))), ChunkCache(2**20))
    coarse = image.canvas(1).read(Box(0, 0, 22, 30))
    means = fine.reshape(2, 22, 2, 30, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(means, coarse, atol=1e-5)


def test_a_levels_inputs_are_never_written(tmp_path):
    spec = drawn(tmp_path, "60x44", levels=2)
    compiled = compile_job(spec)
    assert len(compiled.image.lifts) == 1
    assert coarser_bytes(compiled.image) == 0
    restore(spec)
    assert not list(root_of(spec).glob("inputs-*"))


@pytest.mark.parametrize(
    ("dtype", "span", "low", "high"),
    [("uint8", None, 0, 255), ("uint16", None, 0, 65535), ("uint16", [0, 1000], 0, 1000), ("float32", [5, 6], 5, 6)],
)
def test_values_are_of_the_type_and_range_asked_for(tmp_path, dtype, span, low, high):
    model = {"name": "gaussian", "length": 4.0, "std": 0.1}
    image = generated(tmp_path, dtype=dtype, range=span, model=model, steps=30)
    assert image.dtype == dtype
    image = image.astype(np.float64)
    # The model's middle lies in the middle of the range, and its deviation of a tenth at a twentieth of it.
    assert abs(image.mean() - (low + high) / 2) < 0.1 * (high - low)
    assert 0.02 < image.std() / (high - low) < 0.08


def test_seed_and_id_decide_the_image(tmp_path):
    images = {}
    for name, options in {"a": {}, "b": {}, "seed": {"seed": 1}, "id": {"id": "other"}}.items():
        images[name] = generated(tmp_path, output=f"{name}.zarr", **options)
    assert np.array_equal(images["a"], images["b"])
    assert not np.array_equal(images["a"], images["seed"])
    assert not np.array_equal(images["a"], images["id"])


def test_bands_are_those_asked_for_or_else_three(tmp_path):
    assert generated(tmp_path, bands=5, output="five.zarr").shape[0] == 5
    assert generated(tmp_path, bands=None, output="none.zarr").shape[0] == 3


def test_a_result_says_that_it_was_generated(tmp_path):
    spec = drawn(tmp_path)
    restore(spec)
    own = zarr.open_group(spec.output, mode="r").attrs["tileloom"]
    assert own["synthetic"] is True
    told = own["provenance"]
    assert (told["generated"], told["source"], told["job"]["task"]) == (True, "blank:40x28", "generate")


# --- a blank image is an image ---


def test_a_blank_image_has_a_size_and_nothing_else(tmp_path):
    blank = open_source("blank:70x50")
    assert (blank.height, blank.width, blank.nodata, blank.metadata) == (50, 70, None, {})
    assert not blank.read(Box(3, 4, 9, 30)).any()
    assert blank.read(Box(3, 4, 9, 30)).shape == (1, 6, 26)
    assert blank.digest() == open_source("blank:70x50").digest() != open_source("blank:50x70").digest()


@pytest.mark.parametrize("size", ["", "10", "0x4", "4x0", "4x4x3", "-1x4", "axb"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(InputError, match="blank:WIDTHxHEIGHT"):
        open_source(f"blank:{size}")


def test_a_huge_image_is_planned_without_reading_it(tmp_path, monkeypatch):
    compiled = compile_job(drawn(tmp_path, "100000x80000", tile=512))
    monkeypatch.setattr(source.BlankSource, "read", None)
    bits = survey_image(compiled, Silent())
    assert np.all(bits == OWNS | KEEPS)
    assert len(bits) == compiled.image.plan.count > 30000


def test_more_tiles_than_can_be_counted_are_refused_at_once(tmp_path):
    with pytest.raises(InputError, match=r"cut into .* tiles, and at most .* can be: choose a larger tile"):
        compile_job(drawn(tmp_path, "99999999x99999999"))


# --- refusals ---


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"task": "sr:2"}, "--task: of a blank image nothing is known, so its task is generate and no other"),
        ({"input": "a.tif"}, "--input: task generate starts from no image: write a size, such as blank:1024x512"),
        ({"mask": "m.tif"}, "--mask: the task has no inpaint"),
        ({"task": "generate, sr:2"}, "--task: generate starts from nothing, so nothing was done to it: drop sr"),
        ({"task": "generate, generate"}, "drop generate"),
        ({"task": "generate:3"}, "write generate"),
        ({"noise": 0.1}, "--task: generate starts from nothing, which has no noise: leave noise out"),
    ],
)
def test_what_a_blank_image_cannot_have_is_refused(keys, says):
    with pytest.raises(InputError) as refused:
        from_options({"input": "blank:8x8", "output": "out.zarr", "task": "generate"} | keys)
    assert says in str(refused.value)


# --- the command ---


def test_the_command_draws_and_says_where(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = tileloom(capfd, "generate", "40x28", "out.zarr", "--bands", "1", *QUICK)
    assert (said.code, said.errors) == (0, [])
    assert said.out.splitlines()[-1] == f"result: {tmp_path}/out.zarr"
    assert zarr.open_array("out.zarr/0", mode="r").shape == (1, 28, 40)
    for look in (["status", "out.zarr"], ["verify", "out.zarr"], ["resume", "out.zarr"]):
        assert tileloom(capfd, *look).code == 0, look
    plan = tileloom(capfd, "generate", "40x28", "out.zarr", "--bands", "1", *QUICK, "--dry-run").out
    assert "blank:40x28: nothing is given\n" in plan
    assert "task generate;" in plan


@pytest.mark.parametrize("words", [["40"], ["40x"], ["0x8"], ["40x30x3"], ["scene.tif"]])
def test_a_size_that_is_none_is_refused(tmp_path, capfd, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    said = tileloom(capfd, "generate", *words, "out.zarr")
    assert said.code == 2
    assert len(said.errors) == 1
    assert "WIDTHxHEIGHT" in said.errors[0] or "width and height" in said.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--task", "--mask", "--noise", "--nodata"])
def test_options_of_a_given_image_are_refused(capfd, option):
    said = tileloom(capfd, "generate", "40x30", "out.zarr", option, "1")
    assert said.code == 2
    assert option in said.errors[0]


# --- job files and archives ---


def test_a_job_file_generates(tmp_path, capfd):
    keys = {"input": "blank:40x28", "output": "out.zarr", "task": "generate", "tile": 16, "steps": 2, "lanes": 1}
    said = tileloom(capfd, "run", written(tmp_path, **keys))
    assert (said.code, said.errors) == (0, [])
    assert zarr.open_array(tmp_path / "out.zarr/0", mode="r").shape == (3, 28, 40)
    found = tileloom(capfd, "plan", written(tmp_path, **keys), "--json").json
    assert (found["task"], found["input_size"]) == ("generate", [3, 28, 40])


def test_an_archive_generates_a_row_at_a_time(tmp_path, capfd):
    rows = ["id,input", "small,blank:20x18", "large,blank:40x28"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    keys = {"manifest": "list.csv", "output": "drawn", "task": "generate", "bands": 1, "tile": 16, "steps": 2}
    said = tileloom(capfd, "run", written(tmp_path, **keys, lanes=1))
    assert (said.code, said.errors) == (0, [])
    shapes = {name: zarr.open_array(tmp_path / f"drawn/{name}.zarr/0", mode="r").shape for name in ("small", "large")}
    assert shapes == {"small": (1, 18, 20), "large": (1, 28, 40)}
    assert tileloom(capfd, "verify", tmp_path / "drawn").code == 0
    assert json.loads(tileloom(capfd, "status", tmp_path / "drawn", "--json").out)["done"] == 2


def test_rows_without_an_id_are_refused_by_the_name_they_would_have(tmp_path, capfd):
    (tmp_path / "list.csv").write_text("input\nblank:20x18\n")
    keys = {"manifest": "list.csv", "output": "drawn", "task": "generate"}
    said = tileloom(capfd, "run", written(tmp_path, **keys))
    assert said.code == 2
    assert "the id 'blank:20x18' cannot name a folder" in said.errors[0]


# --- the field is the model's ---


@pytest.mark.slow
@pytest.mark.parametrize("weave", ["msr", "joint"])
def test_a_drawn_field_has_the_models_own_spread_and_correlation(tmp_path, weave):
    model = {"name": "gaussian", "length": 6.0, "std": 0.4}
    spec = drawn(
        tmp_path, "200x200", weave=weave, bands=1, dtype="float32", range=[-1, 1], tile=32, steps=50, model=model
    )
    restore(spec)
    (image,) = result(spec).astype(np.float64)
    assert image.std() == pytest.approx(model["std"], rel=0.15)
    near = np.mean(image[:, 6:] * image[:, :-6]) / image.var()
    assert near == pytest.approx((1 + 3**0.5) * np.exp(-(3**0.5)), abs=0.12)

"""A changed job is refused by name, and a redo does again what the change made stale and nothing else."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests import faults, pipeline
from tileloom.cluster.worker import Outcome
from tileloom.jobs.compile import compile_job
from tileloom.jobs.run import Redo
from tileloom.jobs.spec import JobSpec
from tileloom.models.engine import Engine
from tileloom.tiling.box import Box
from tileloom.tiling.errors import InputError, JobChanged

HEIGHT, WIDTH = 64, 96
BASE = {
    **{"task": "inpaint", "range": [-1, 1], "seed": 3, "steps": 2, "batch": 2},
    **{"tile": 16, "stride": 10, "guard": 2, "levels": 3},
}
HOLES = [Box(6, 8, 34, 34), Box(40, 66, 60, 90)]
SLOWER = pytest.mark.parametrize(
    "place", ["finished", pytest.param("interrupted", marks=pytest.mark.slow)], indirect=True
)
PHASES = [("survey", 1), ("restore", 1), ("restore", 9), ("restore", 25), ("publish", 0), ("publish", 2)]


def image():
    return pipeline.scene(2, HEIGHT, WIDTH)


def mask(holes=HOLES):
    found = np.zeros((HEIGHT, WIDTH), bool)
    for hole in holes:
        found[hole.slices] = True
    return found


@dataclass
class Place:
    """A folder with an input, a mask and a job on them."""

    folder: Path
    image: np.ndarray
    mask: np.ndarray

    @property
    def options(self):
        return {**BASE, "output": "out.zarr"}

    def job(self, **changes):
        options = {**self.options, **changes}
        return pipeline.job(
            self.folder, str(self.folder / "input.zarr"), mask=str(self.folder / "mask.zarr"), **options
        )

    def write(self):
        pipeline.job(self.folder, self.image, mask=self.mask, **self.options)
        return self

    def change(self, name, box, value):
        """Give other values to the stored pixels of a box, of the input or of the mask."""
        zarr.open_array(str(self.folder / f"{name}.zarr"), mode="r+")[:, *box.slices] = value
        getattr(self, name if name == "mask" else "image")[..., *box.slices] = value

    def copy(self, folder):
        """Everything once more, the input, the mask and what was made of them."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Place(folder, self.image.copy(), self.mask.copy())

    def fresh(self, folder, **changes):
        """The job as it is now, run to its end where nothing was before."""
        folder.mkdir()
        for name in ("input.zarr", "mask.zarr"):
            shutil.copytree(self.folder / name, folder / name)
        place = Place(folder, self.image, self.mask)
        spec = place.job(**changes)
        pipeline.restore(spec)
        return place, spec

    def facts(self, spec, root=None):
        """(what is known, canvases) for :func:`faults.stale`."""
        pixels = faults.canvases(spec, root)
        return faults.knowledge(self.image, self.mask, len(pixels)), pixels


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("finished"), image(), mask()).write()
    pipeline.restore(place.job())
    return place


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("interrupted"), image(), mask()).write()
    faults.run(place.job(), stop=("restore", 20))
    return place


@pytest.fixture(params=["finished", "interrupted"])
def place(request, tmp_path):
    """A job that was run to its end, or stopped in its middle."""
    return request.getfixturevalue(request.param).copy(tmp_path / "place")


def plan_of(spec):
    return compile_job(spec).image.plan


def assert_equal_results(spec, other):
    for level in range(compile_job(spec).image.result.levels):
        np.testing.assert_array_equal(pipeline.result(spec, level), pipeline.result(other, level))


def assert_equal_canvases(spec, other):
    for pixels, expected in zip(faults.canvases(spec), faults.canvases(other), strict=True):
        np.testing.assert_array_equal(pixels, expected)


def test_the_jobs_of_this_file_have_all_kinds_of_tiles(finished):
    spec = finished.job()
    plan, pixels = plan_of(spec), faults.canvases(spec)
    solved = [t for t in plan if not np.isnan(pixels[plan.key(t).level][:, *plan.owns(t).slices]).all()]
    assert {plan.key(t).level for t in solved} == {0, 1, 2}
    assert 20 < len(solved) < plan.count - 15


CHANGES = {
    "tile": {"tile": 20},
    "stride": {"stride": 12},
    "guard": {"guard": 4},
    "seed": {"seed": 4},
    "steps": {"steps": 3},
    "model.length": {"model": {"name": "gaussian", "length": 5.0}},
    "task": {"task": "inpaint, denoise:0.1"},
    "range": {"range": [-1, 2]},
    "dtype": {"dtype": "uint8"},
    "batch": {"batch": 1},
    "levels": {"levels": 2},
    "travel.repeat": {"travel": {"length": 1, "repeat": 2}},
}
STORED = {"input": ("input", Box(40, 40, 41, 41), 0.5), "mask": ("mask", Box(50, 50, 51, 51), 1)}


def assert_refused(spec, name, capsys):
    before = faults.snapshot(spec.output)
    with pytest.raises(JobChanged, match=rf"[(; ]{name}: .* -> .*add --redo stale"):
        pipeline.restore(spec)
    with pytest.raises(JobChanged, match=name):
        pipeline.restore(spec, redo=Redo.FAILED)
    for verb in ("run", "resume"):
        assert faults.command(verb, faults.job_file(spec)) == 2
        assert f"{name}: " in capsys.readouterr().err
    assert faults.snapshot(spec.output) == before


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_is_refused_by_name(place, name, capsys):
    assert_refused(place.job(**CHANGES[name]), name, capsys)


@pytest.mark.parametrize("name", STORED)
def test_changed_pixels_are_refused_by_name(place, name, capsys):
    place.change(*STORED[name])
    assert_refused(place.job(), name, capsys)


def test_another_numeric_class_is_refused_by_name(place, monkeypatch, capsys):
    real = Engine.numeric_class.fget
    monkeypatch.setattr(Engine, "numeric_class", property(lambda self: {**real(self), "device": "an abacus"}))
    assert_refused(place.job(), "numeric class.device", capsys)


def test_how_a_job_runs_and_where_its_files_lie_is_no_change(place, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    (place.folder / "input.zarr").rename(moved / "renamed.zarr")
    options = {"retries": 7, "on_error": "stop", "lanes": 2, "priority": "oldest", "batch": "auto"}
    spec = place.job(**options).model_copy(update={"input": str(moved / "renamed.zarr")})
    pipeline.restore(spec)


@SLOWER
@pytest.mark.parametrize(
    ("what", "box", "value"),
    [
        pytest.param("input", Box(32, 64, 64, 96), 0.25, id="one chunk of the input"),
        pytest.param("input", Box(38, 88, 40, 90), -0.9, id="a corner beside the second hole"),
        pytest.param("input", Box(20, 20, 21, 21), 0.1, id="a lost pixel"),
        pytest.param("mask", Box(4, 70, 12, 80), 1, id="a new hole"),
        pytest.param("mask", Box(40, 66, 60, 90), 0, id="a hole that is gone"),
        pytest.param("mask", Box(48, 72, 54, 78), 0, id="an island in a hole"),
    ],
)
def test_a_redo_does_the_stale_closure_and_no_more(place, tmp_path, what, box, value):
    before = place.facts(place.job())
    place.change(what, box, value)
    spec = place.job()
    other, fresh = place.fresh(tmp_path / "fresh")
    outcomes = faults.run(spec, redo=Redo.STALE)
    expected = faults.stale(plan_of(spec), before, other.facts(fresh))
    assert faults.redone(outcomes) == expected
    assert {plan_of(spec).key(tile) for tile in plan_of(spec)} > set(outcomes) > expected
    assert faults.those(outcomes, Outcome.INHERITED) == set(outcomes) - expected
    assert_equal_results(spec, fresh)
    assert_equal_canvases(spec, fresh)
    assert faults.run(spec) == {}


def test_staleness_stops_where_bytes_come_out_equal(finished, tmp_path, monkeypatch):
    faults.break_work(monkeypatch, grain=0.5)
    place = Place(tmp_path / "place", image(), mask())
    place.folder.mkdir()
    pipeline.restore(place.write().job())
    before = place.facts(place.job())
    place.change("input", Box(3, 20, 5, 22), place.image[:, 3:5, 20:22] + np.float32(0.01))
    spec, plan = place.job(), plan_of(place.job())
    other, fresh = place.fresh(tmp_path / "fresh")
    after = other.facts(fresh)
    outcomes = faults.run(spec, redo=Redo.STALE)
    assert faults.redone(outcomes) == faults.stale(plan, before, after)
    assert_equal_results(spec, fresh)
    unmoved = [
        key
        for key in faults.redone(outcomes)
        if np.array_equal(*(pixels[key.level][:, *plan.owns(plan.index(key)).slices] for _, pixels in (before, after)))
    ]
    spared = [
        key
        for key in faults.those(outcomes, Outcome.INHERITED)
        if set(plan.reads(plan.index(key))) & {plan.index(other) for other in faults.redone(outcomes)}
    ]
    assert unmoved, "no redone tile came out as it was: nothing was shown"
    assert spared, "every tile that reads a redone one was redone: nothing was shown"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("seed", "stride") else pytest.mark.slow)
        for name in CHANGES
        if name != "dtype"
    ],
)
def test_a_changed_setting_redoes_everything(finished, tmp_path, name):
    place = finished.copy(tmp_path / "place")
    spec = place.job(**CHANGES[name])
    _, fresh = place.fresh(tmp_path / "fresh", **CHANGES[name])
    outcomes = faults.run(spec, redo=Redo.STALE)
    assert set(outcomes.values()) == {Outcome.DONE}
    assert_equal_results(spec, fresh)
    assert_equal_canvases(spec, fresh)


@pytest.mark.parametrize("change", [{"dtype": "uint8"}, {"publish": {"chunk": 16, "shard": 16}}])
def test_what_counts_at_publishing_alone_is_published_anew_without_running_a_tile(finished, tmp_path, change):
    place = finished.copy(tmp_path / "place")
    spec = place.job(**change)
    with pytest.raises(InputError, match=next(iter(change))):
        faults.run(spec)
    _, fresh = place.fresh(tmp_path / "fresh", **change)
    assert faults.redone(faults.run(spec, redo=Redo.STALE)) == set()
    assert_equal_results(spec, fresh)


def test_an_image_that_grew_keeps_what_holds(finished, tmp_path):
    place = finished.copy(tmp_path / "place")
    wider = np.zeros((2, HEIGHT, WIDTH + 32), np.float32), np.zeros((HEIGHT, WIDTH + 32), bool)
    wider[0][..., :WIDTH], wider[1][..., :WIDTH] = place.image, place.mask
    for name in ("input.zarr", "mask.zarr"):
        shutil.rmtree(place.folder / name)
    place = Place(place.folder, *wider).write()
    spec = place.job()
    _, fresh = place.fresh(tmp_path / "fresh")
    outcomes = faults.run(spec, redo=Redo.STALE)
    assert faults.those(outcomes, Outcome.INHERITED)
    assert_equal_results(spec, fresh)


@SLOWER
@pytest.mark.parametrize(("phase", "count"), PHASES)
def test_an_interrupted_redo_goes_on_and_still_inherits(place, tmp_path, phase, count):
    old = Path(faults.state_of(place.job()).root)
    before, kept = place.facts(place.job()), faults.snapshot(old)
    place.change("input", Box(32, 64, 64, 96), 0.25)
    spec = place.job()
    other, fresh = place.fresh(tmp_path / "fresh")
    first = faults.run(spec, redo=Redo.STALE, stop=(phase, count))
    assert faults.snapshot(old) == kept, "the earlier generation was touched"
    second = faults.run(spec)
    assert not set(first) & set(second), "a finished tile was done again"
    assert faults.redone(first) | faults.redone(second) == faults.stale(plan_of(spec), before, other.facts(fresh))
    assert_equal_results(spec, fresh)
    assert not old.exists()
    assert faults.state_of(spec).inherits == ()


def test_a_redo_interrupted_again_and_again_loses_nothing(finished, tmp_path):
    place = finished.copy(tmp_path / "place")
    before = place.facts(place.job())
    place.change("mask", Box(4, 70, 12, 80), 1)
    spec = place.job()
    other, fresh = place.fresh(tmp_path / "fresh")
    seen = faults.run(spec, redo=Redo.STALE, stop=("restore", 5))
    for _ in range(4):
        seen |= faults.run(spec, redo=Redo.STALE, stop=("restore", 5))
    seen |= faults.run(spec)
    assert faults.redone(seen) == faults.stale(plan_of(spec), before, other.facts(fresh))
    assert_equal_results(spec, fresh)


def test_a_change_of_mind_finds_the_first_job_whole(finished, tmp_path):
    place = finished.copy(tmp_path / "place")
    spec, other = place.job(), place.job(seed=9)
    faults.run(other, redo=Redo.STALE, stop=("restore", 15))
    with pytest.raises(JobChanged, match="seed: 9 -> 3"):
        pipeline.restore(spec)
    outcomes = faults.run(spec, redo=Redo.STALE)
    assert set(outcomes.values()) == {Outcome.INHERITED}
    assert_equal_results(spec, finished.job())


def test_a_second_change_builds_on_both_earlier_generations(finished, tmp_path):
    """What the first, interrupted redo finished is taken from there, the rest from the generation before.

    Two pixels of one block are exchanged: no coarser level notices.
    """
    place = finished.copy(tmp_path / "place")
    before = place.facts(place.job())
    near_first, near_second = Box(4, 20, 5, 22), Box(38, 76, 39, 78)
    for box in (near_first, near_second):
        place.change("input", box, place.image[:, *box.slices][..., ::-1].copy())
    first = faults.run(place.job(), redo=Redo.STALE, stop=("restore", 21))
    place.change("input", near_second, place.image[:, *near_second.slices][..., ::-1].copy())
    spec = place.job()
    other, fresh = place.fresh(tmp_path / "fresh")
    second = faults.run(spec, redo=Redo.STALE)
    taken_over = faults.those(second, Outcome.INHERITED)
    assert taken_over & faults.redone(first), "nothing was taken from the newer generation"
    assert taken_over - set(first), "nothing was taken from the older generation"
    expected = faults.stale(plan_of(spec), before, other.facts(fresh))
    assert faults.redone(second) == expected - faults.redone(first) > set()
    assert_equal_results(spec, fresh)


def test_a_refused_redo_leaves_the_job_as_it_was(place):
    spec = place.job()
    before = faults.snapshot(spec.output)
    kept = place.image[:, 3, 3].copy()
    place.change("input", Box(3, 3, 4, 4), np.nan)
    with pytest.raises(InputError, match="nan in band 0 at row 3, column 3"):
        pipeline.restore(spec, redo=Redo.STALE)
    now = faults.snapshot(spec.output)
    assert {name: data for name, (data, _) in now.items()} == {name: data for name, (data, _) in before.items()}
    place.change("input", Box(3, 3, 4, 4), kept[:, None, None])
    pipeline.restore(spec)


def test_without_its_working_arrays_a_changed_job_is_done_anew(tmp_path):
    place = Place(tmp_path / "place", image(), mask())
    place.folder.mkdir()
    spec = place.write().job(keep_scratch=False)
    pipeline.restore(spec)
    assert not list(Path(faults.state_of(spec).root).glob("canvas-*"))
    place.change("input", Box(32, 64, 64, 96), 0.25)
    _, fresh = place.fresh(tmp_path / "fresh")
    assert set(faults.run(spec, redo=Redo.STALE).values()) == {Outcome.DONE}
    assert_equal_results(spec, fresh)


def test_resume_redoes_what_is_stale_from_the_command_line(finished, tmp_path, capsys):
    place = finished.copy(tmp_path / "place")
    place.change("input", Box(32, 64, 64, 96), 0.25)
    _, fresh = place.fresh(tmp_path / "fresh")
    file = faults.job_file(place.job())
    assert faults.command("resume", file) == 2
    assert faults.command("resume", file, "--redo", "stale") == 0
    assert " taken over" in capsys.readouterr().out
    assert faults.command("resume", file) == 0
    assert_equal_results(place.job(), fresh)
    assert isinstance(faults.state_of(place.job()).job(), JobSpec)

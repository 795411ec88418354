"""A tile that cannot be restored is given up after its tries, flagged and filled in; nobody builds on it."""

import json

import numpy as np
import pytest

from tests import faults, pipeline
from tileloom.cluster import worker
from tileloom.cluster.worker import Outcome
from tileloom.jobs.compile import compile_job
from tileloom.jobs.look import Phase, job_status
from tileloom.jobs.run import Redo
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.errors import CorruptChunk, OutOfMemory, StoreError, TileFailed, TileloomError

HEIGHT, WIDTH = 48, 64
HOLE = Box(2, 2, 46, 60)
BASE = {
    **{"task": "inpaint", "range": [-1, 1], "steps": 2, "batch": 3, "retries": 1},
    **{"tile": 16, "stride": 10, "guard": 2, "levels": 2},
}
MIDDLE, COARSE, LAST = TileKey(0, 1, 2), TileKey(1, 0, 1), TileKey(0, 4, 5)
REASONS = {
    **dict.fromkeys(["begin", "step", "finish"], "RuntimeError: struck by lightning"),
    **{"named": "struck by lightning", "nan": "not finite"},
}
HOWS = list(REASONS)


class OutOfMemoryError(RuntimeError):
    """Named as torch names the lack of a GPU's memory."""


LACKS = [
    MemoryError("no room"),
    OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
]


def mask():
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[HOLE.slices] = True
    return found


def job(folder, **changes):
    """The job in a folder, to be begun or gone on with."""
    begun = (folder / "input.zarr").exists()
    folder.mkdir(exist_ok=True)
    contents = [folder / "input.zarr", folder / "mask.zarr"] if begun else [pipeline.scene(2, HEIGHT, WIDTH), mask()]
    return pipeline.job(folder, contents[0], mask=contents[1], **{**BASE, **changes})


def facts(spec):
    pixels = faults.canvases(spec)
    return faults.knowledge(pipeline.scene(2, HEIGHT, WIDTH), mask(), len(pixels)), pixels


def plan_of(spec):
    return compile_job(spec).image.plan


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The job without a fault, and what each of its tiles was given."""
    spec = job(tmp_path_factory.mktemp("clean"))
    with pytest.MonkeyPatch.context() as patch:
        works = faults.break_work(patch)
        pipeline.restore(spec)
    return spec, works[0].given


def degraded(folder, bad, *, how="begin", redo=Redo.NOTHING, **changes):
    """(job, its summary, the faulty work) of a run in which some tiles fail every try."""
    spec = job(folder, **changes)
    with pytest.MonkeyPatch.context() as patch:
        works = faults.break_work(patch, bad={bad} if isinstance(bad, TileKey) else bad, how=how)
        summary = pipeline.restore(spec, redo=redo)
    return spec, summary, works[0]


def assert_equal(spec, other):
    for level in range(compile_job(spec).image.result.levels):
        np.testing.assert_array_equal(pipeline.result(spec, level), pipeline.result(other, level))
    for pixels, expected in zip(faults.canvases(spec), faults.canvases(other), strict=True):
        np.testing.assert_array_equal(pixels, expected)


def taken(mask, window, *, less=None):
    """What a tile takes within its window, less a box of lost pixels in absolute pixels of the same level."""
    left = np.zeros(window.shape, bool) if mask is None else mask.copy()
    inside = less.intersect(window) if less else Box(0, 0, 0, 0)
    if not inside.empty:
        left[inside.within(window)] = False
    return left


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("how", HOWS)
def test_tries_are_capped(tmp_path, how, retries):
    spec, summary, work = degraded(tmp_path / "a", MIDDLE, how=how, retries=retries)
    assert work.tries[MIDDLE] == summary.report.failures == retries + 1
    assert {tries for key, tries in work.tries.items() if key != MIDDLE} == {1}
    assert summary.report.degraded == 1
    assert summary.report.done == len(work.tries) - 1
    (tile,) = summary.degraded
    assert (tile.key, tile.box) == (MIDDLE, str(plan_of(spec).owns(plan_of(spec).index(MIDDLE))))
    assert REASONS[how] in tile.reason
    # What stands beside it names the tile already.
    assert how == "nan" or tile.reason == REASONS[how]


def out_of_memory(spec, short, lack):
    """The error that ends a run whose work lacks memory; nothing may be given up for it."""
    outcomes = {}
    with pytest.MonkeyPatch.context() as patch:
        faults.break_work(patch, short=short, lack=lack)
        with pytest.raises(TileloomError) as caught:
            faults.run(spec, into=outcomes)
    assert type(caught.value) is OutOfMemory
    assert faults.those(outcomes, Outcome.FAILED) == set()
    assert job_status(faults.state_of(spec)).degraded == ()
    return str(caught.value)


@pytest.mark.parametrize("lack", LACKS, ids=["memory", "gpu", "cpu"])
@pytest.mark.parametrize("where", ["begin", "step", "finish"])
def test_out_of_memory_is_no_fault_of_a_tile(tmp_path, clean, where, lack):
    spec = job(tmp_path / "a", retries=0)
    said = out_of_memory(spec, {where: 19}, lack)
    assert said.startswith("out of memory with batches of 3x2x16x16 and ")
    assert said.endswith(" in flight: lower batch or lanes, or choose a smaller tile")
    pipeline.restore(spec)
    assert_equal(spec, clean[0])


@pytest.mark.parametrize("lack", LACKS, ids=["memory", "gpu", "cpu"])
@pytest.mark.parametrize("where", ["begin", "step", "finish"])
def test_memory_that_lacks_once_changes_nothing(tmp_path, clean, where, lack):
    spec = job(tmp_path / "a", retries=0)
    with pytest.MonkeyPatch.context() as patch:
        faults.break_work(patch, short={where: 1}, lack=lack)
        summary = pipeline.restore(spec)
    assert (summary.report.failures, summary.degraded) == (0, [])
    assert_equal(spec, clean[0])


def test_where_memory_lacks_the_cache_is_emptied_and_the_same_call_made_again(tmp_path, monkeypatch):
    opened, steps = [], []

    class Watched(ChunkCache):
        def __init__(self, max_bytes):
            opened.append(len(steps))
            super().__init__(max_bytes)

    def step(work, states):
        steps.append([state.key for state in states])
        return real_step(work, states)

    real_step = faults.Faulty.step
    monkeypatch.setattr(worker, "ChunkCache", Watched)
    monkeypatch.setattr(faults.Faulty, "step", step)
    faults.break_work(monkeypatch, short={"step": 1}, lack=LACKS[0])
    pipeline.restore(job(tmp_path / "a"))
    assert opened == [0, 1]
    assert steps[0] == steps[1]


def test_out_of_memory_ends_the_command_with_1(tmp_path, capsys, clean):
    spec = job(tmp_path / "a")
    with pytest.MonkeyPatch.context() as patch:
        faults.break_work(patch, short={"step": 19}, lack=LACKS[0])
        assert faults.command("run", faults.job_file(spec)) == 1
    assert "out of memory with batches of 3x2x16x16 and 1 tile in flight" in capsys.readouterr().err
    assert faults.command("resume", spec.output) == 0
    assert_equal(spec, clean[0])


@pytest.mark.parametrize("where", ["begin", "step", "finish"])
@pytest.mark.parametrize("error", [StoreError("disk full"), CorruptChunk("damaged"), OSError("disk full")])
def test_a_store_that_fails_is_no_fault_of_a_tile(tmp_path, clean, where, error):
    spec, outcomes = job(tmp_path / "a", retries=0), {}
    with pytest.MonkeyPatch.context() as patch:
        faults.break_work(patch, short={where: 1}, lack=error)
        with pytest.raises(type(error), match=str(error)):
            faults.run(spec, into=outcomes)
    assert faults.those(outcomes, Outcome.FAILED) == set()
    pipeline.restore(spec)
    assert_equal(spec, clean[0])


@pytest.mark.parametrize("bad", [MIDDLE, COARSE])
def test_nobody_takes_a_pixel_of_it(tmp_path, clean, bad):
    _, given = clean
    spec, _, work = degraded(tmp_path / "a", bad)
    plan = plan_of(spec)
    lost = plan.owns(plan.index(bad))
    readers = 0
    for key, inputs in work.given.items():
        less = lost if key.level == bad.level else None
        context = taken(given[key].context_mask, inputs.box, less=less)
        np.testing.assert_array_equal(taken(inputs.context_mask, inputs.box), context, str(key))
        below, less = inputs.box.coarsen(2), lost if key.level + 1 == bad.level else None
        coarse = taken(given[key].coarse_mask, below, less=less)
        np.testing.assert_array_equal(taken(inputs.coarse_mask, below), coarse, str(key))
        readers += context.sum() + coarse.sum() < sum(
            np.sum(mask) for mask in (given[key].context_mask, given[key].coarse_mask) if mask is not None
        )
    # West, north and those that see it only through what these keep; for a coarse tile all that look through it.
    assert readers >= 3
    assert readers <= len([tile for tile in plan if plan.index(bad) in plan.reads(tile)])


@pytest.mark.parametrize("how", HOWS)
def test_the_others_in_its_batch_are_not_harmed(tmp_path, clean, how):
    spec, summary, _ = degraded(tmp_path / "a", LAST, how=how, batch=3)
    plan = plan_of(spec)
    assert [tile.key for tile in summary.degraded] == [LAST]
    fine, expected = faults.canvas(spec, 0), faults.canvas(clean[0], 0)
    lost = plan.owns(plan.index(LAST))
    assert np.isnan(fine[:, *lost.slices]).all(), "a degraded tile was written"
    fine[:, *lost.slices] = expected[:, *lost.slices]
    np.testing.assert_array_equal(fine, expected)


@pytest.mark.parametrize("bad", [MIDDLE, LAST])
def test_published_pixels_are_filled_from_the_coarser_level(tmp_path, bad):
    spec, _, _ = degraded(tmp_path / "a", bad)
    plan = plan_of(spec)
    lost = plan.owns(plan.index(bad))
    fill = faults.canvas(spec, 1).repeat(2, axis=1).repeat(2, axis=2)
    expected = np.where(mask(), fill[:, :HEIGHT, :WIDTH], pipeline.scene(2, HEIGHT, WIDTH))
    found = pipeline.result(spec)
    np.testing.assert_allclose(found[:, *lost.slices], expected[:, *lost.slices], atol=1e-6)
    np.testing.assert_array_equal(found[:, ~mask()], pipeline.scene(2, HEIGHT, WIDTH)[:, ~mask()])


def test_where_the_coarser_tile_is_lost_too_the_measurement_fills(tmp_path):
    everything = {TileKey(1, row, col) for row in range(2) for col in range(3)} | {MIDDLE}
    spec, summary, _ = degraded(tmp_path / "a", everything)
    lost = plan_of(spec).owns(plan_of(spec).index(MIDDLE))
    assert len(summary.degraded) > 1
    # Nothing was measured inside the hole: the middle of the data range.
    assert (pipeline.result(spec)[:, *lost.intersect(HOLE).slices] == 0).all()
    assert np.isfinite(pipeline.result(spec)).all()


def test_without_a_coarser_level_the_measurement_fills(tmp_path):
    y = pipeline.scene(2, 12, 16)
    options = {"task": "sr:4", "range": [-1, 1], "steps": 2, "levels": 1, "stride": 8, "guard": 4, "tile": 16}
    spec = pipeline.job(tmp_path, y, **options)
    with pytest.MonkeyPatch.context() as patch:
        faults.break_work(patch, bad={TileKey(0, 1, 1)})
        pipeline.restore(spec)
    plan = plan_of(spec)
    lost = plan.owns(plan.index(TileKey(0, 1, 1)))
    expected = y.repeat(4, axis=1).repeat(4, axis=2)[:, *lost.slices]
    np.testing.assert_allclose(pipeline.result(spec)[:, *lost.slices], expected, atol=1e-6)


@pytest.mark.parametrize("bad", [MIDDLE, COARSE, LAST])
@pytest.mark.parametrize("how", ["begin", *(pytest.param(how, marks=pytest.mark.slow) for how in HOWS[1:])])
def test_retry_runs_it_again_and_what_it_made_stale(tmp_path, clean, bad, how):
    spec, _, _ = degraded(tmp_path / "a", bad, how=how)
    expected = faults.stale(plan_of(spec), facts(spec), facts(clean[0]))
    outcomes = faults.run(spec, redo=Redo.FAILED)
    assert faults.redone(outcomes) == expected
    assert bad in expected
    assert faults.those(outcomes, Outcome.INHERITED) == set(clean[1]) - expected
    assert_equal(spec, clean[0])
    assert job_status(faults.state_of(spec)).degraded == ()


def test_a_retry_in_vain_keeps_all_else_and_the_next_one_mends(tmp_path, clean):
    _, before, _ = degraded(tmp_path / "a", MIDDLE)
    spec, summary, work = degraded(tmp_path / "a", MIDDLE, redo=Redo.FAILED)
    assert set(work.tries) == {MIDDLE}
    assert summary.degraded == before.degraded
    assert summary.report.done == 0
    pipeline.restore(spec, redo=Redo.FAILED)
    assert_equal(spec, clean[0])


def test_an_interrupted_retry_goes_on(tmp_path, clean):
    spec, _, _ = degraded(tmp_path / "a", MIDDLE)
    expected = faults.stale(plan_of(spec), facts(spec), facts(clean[0]))
    first = faults.run(spec, redo=Redo.FAILED, stop=("restore", 8))
    second = faults.run(spec)
    assert faults.redone(first) | faults.redone(second) == expected
    assert_equal(spec, clean[0])


def test_a_run_interrupted_after_it_gave_up_a_tile_remembers(tmp_path):
    whole, summary, _ = degraded(tmp_path / "whole", MIDDLE)
    spec = job(tmp_path / "a")
    with pytest.MonkeyPatch.context() as patch:
        works = faults.break_work(patch, bad={MIDDLE})
        first = faults.run(spec, stop=("restore", 20))
        assert first[MIDDLE] is Outcome.FAILED
    second = pipeline.restore(spec)
    assert works[0].tries[MIDDLE] == 2
    assert second.degraded == summary.degraded
    assert second.report.failures == 0
    assert_equal(spec, whole)


def test_a_run_that_goes_on_does_not_try_again_what_was_given_up(tmp_path):
    spec, summary, _ = degraded(tmp_path / "a", MIDDLE)
    again = pipeline.restore(spec)
    assert (again.report.done, again.degraded) == (0, summary.degraded)


def test_failures_below_the_cap_leave_no_trace(tmp_path, clean, monkeypatch):
    spec = job(tmp_path / "a")
    works = faults.break_work(monkeypatch, bad={MIDDLE, COARSE}, fails=1)
    summary = pipeline.restore(spec)
    assert (summary.report.failures, summary.degraded) == (2, [])
    assert works[0].tries[MIDDLE] == 2
    assert_equal(spec, clean[0])


def test_the_command_line_lists_it_and_ends_with_1(tmp_path, capsys, clean):
    spec = job(tmp_path / "a")
    file = faults.job_file(spec)
    with pytest.MonkeyPatch.context() as patch:
        faults.break_work(patch, bad={MIDDLE})
        assert faults.command("run", file) == 1
    plan = plan_of(spec)
    words = [str(MIDDLE), str(plan.owns(plan.index(MIDDLE))), "struck by lightning"]
    text = capsys.readouterr().out
    assert all(word in text for word in words)
    assert f"tileloom retry {spec.output}" in text
    for verb in ("status", "run"):
        assert faults.command(verb, spec.output if verb == "status" else file) == 1
        text = capsys.readouterr().out
        assert all(word in text for word in words)
    assert faults.command("status", spec.output, "--json") == 1
    (listed,) = json.loads(capsys.readouterr().out)["degraded"]
    assert (listed["level"], listed["row"], listed["col"], listed["box"]) == (*MIDDLE, words[1])
    assert words[2] in listed["reason"]
    assert faults.command("verify", spec.output) == 0
    assert faults.command("retry", spec.output) == 0
    assert faults.command("status", spec.output) == 0
    assert_equal(spec, clean[0])


@pytest.mark.parametrize("how", HOWS)
def test_an_image_can_stop_instead(tmp_path, clean, how):
    spec = job(tmp_path / "a", on_error="stop")
    first = {}
    with pytest.MonkeyPatch.context() as patch:
        works = faults.break_work(patch, bad={MIDDLE}, how=how)
        message = rf"level 0 row 1 column 2 failed 2 times.*{REASONS[how]}.*tileloom resume {spec.output}"
        with pytest.raises(TileFailed, match=message):
            faults.run(spec, into=first)
    assert works[0].tries[MIDDLE] == 2
    status = job_status(faults.state_of(spec))
    assert (status.phase, status.degraded, status.shards_published) == (Phase.RESTORING, (), 0)
    second = faults.run(spec)
    assert faults.redone(first) & faults.redone(second) == set()
    assert faults.redone(first) | faults.redone(second) == set(clean[1])
    assert_equal(spec, clean[0])


def test_a_stopped_image_can_go_on_without_the_tile(tmp_path):
    whole, _, _ = degraded(tmp_path / "whole", MIDDLE)
    with pytest.raises(TileFailed):
        degraded(tmp_path / "a", MIDDLE, on_error="stop")
    spec, summary, _ = degraded(tmp_path / "a", MIDDLE, on_error="degrade")
    assert [tile.key for tile in summary.degraded] == [MIDDLE]
    assert_equal(spec, whole)


def test_a_stopped_image_ends_the_command_with_1(tmp_path, capsys):
    spec = job(tmp_path / "a", on_error="stop")
    with pytest.MonkeyPatch.context() as patch:
        faults.break_work(patch, bad={MIDDLE})
        assert faults.command("run", faults.job_file(spec)) == 1
    said = capsys.readouterr().err
    assert "level 0 row 1 column 2" in said
    assert "struck by lightning" in said
    assert f"tileloom resume {spec.output}" in said
    assert faults.command("resume", spec.output) == 0

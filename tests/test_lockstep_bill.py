"""What a plan says of joint weaving: held against what a run does, and beside what mask-shift weaving would cost."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from tests.commandline import tileloom, written
from tests.nets import SEMANTIC, weights
from tests.pipeline import holes, job, restore, root_of, scene
from tileloom.jobs.compare import JOINT, MSR, compared
from tileloom.jobs.compile import compile_job
from tileloom.jobs.forecast import forecast, simulate_job, survey_image
from tileloom.jobs.lockstep_bill import pattern_of
from tileloom.jobs.progress import Silent
from tileloom.jobs.spec import ClusterSpec, LockstepSpec
from tileloom.tiling.access import ImageAccess
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.exchange import traffic

MANY = ClusterSpec(workers=4, cpus=1.0)


def joint_job(folder, height=90, width=120, **options):
    usual = {"task": "generate", "bands": 2, "weave": "joint", "levels": 1, "lanes": 1, "batch": 2}
    return job(folder, f"blank:{width}x{height}", **usual | options)


def looked_at(spec):
    compiled = compile_job(spec)
    bits = survey_image(compiled, Silent())
    return compiled, bits


def billed(spec):
    compiled, bits = looked_at(spec)
    return forecast(compiled, bits).bill


# --- the bill ---


@pytest.mark.parametrize("levels", [1, 2])
def test_the_calls_are_those_of_the_run(tmp_path, levels):
    spec = joint_job(tmp_path, levels=levels)
    bill = billed(spec)
    report = restore(spec)
    assert bill.calls == report.calls == sum(bill.lockstep.windows) * 3
    assert bill.solve == bill.lockstep.blocks
    assert bill.critical_path == levels


def test_every_window_of_a_level_runs_however_little_is_missing(tmp_path):
    mask = np.zeros((90, 120), bool)
    mask[4:9, 5:12] = True
    spec = job(tmp_path, scene(1, 90, 120), task="inpaint", mask=mask, range=[-1, 1], weave="joint", levels=1, lanes=1)
    bill = billed(spec)
    assert bill.calls == restore(spec).calls == bill.lockstep.windows[0] * 3


def test_a_level_with_nothing_to_restore_does_not_run(tmp_path):
    mask = np.zeros((90, 120), bool)
    spec = job(tmp_path, scene(1, 90, 120), task="inpaint", mask=mask, range=[-1, 1], weave="joint", levels=1, lanes=1)
    bill = billed(spec)
    assert (bill.calls, bill.solve) == (restore(spec).calls, (0,)) == (0, (0,))


def test_a_step_trades_what_crosses_between_the_jobs_workers(tmp_path):
    spec = joint_job(tmp_path).model_copy(update={"cluster": MANY})
    compiled, bits = looked_at(spec)
    (told,) = forecast(compiled, bits).bill.lockstep.exchanges
    expected = traffic(compiled.image.lattices[0], pattern_of(compiled), 4)
    assert told.phase_bytes == expected.phases
    assert told.total_bytes == 3 * expected.step > 0
    kept = [
        billed(spec.model_copy(update={"lockstep": LockstepSpec(every=every)})).lockstep.kept_bytes for every in (1, 10)
    ]
    assert kept == [2 * expected.most_sent, 3 * expected.most_sent]
    alone = billed(joint_job(tmp_path)).lockstep
    assert (alone.exchanges[0].total_bytes, alone.kept_bytes) == (0, 0)


def test_what_a_worker_holds_is_in_memory_up_to_its_limit_and_then_in_files(tmp_path):
    usual = billed(joint_job(tmp_path))
    told = usual.lockstep
    assert (told.memory_bytes, told.file_bytes) == (told.state_bytes, 0)
    little = billed(joint_job(tmp_path).model_copy(update={"lockstep": LockstepSpec(memory=1000)}))
    assert (little.lockstep.memory_bytes, little.lockstep.file_bytes) == (1000, told.state_bytes - 1000)
    assert usual.memory_bytes - little.memory_bytes == told.state_bytes - 1000


@pytest.mark.parametrize("task", ["inpaint", "cloudy:2", "inpaint, sr:2", "colorize"])
def test_a_blocks_state_is_that_of_its_arrays(tmp_path, task):
    bands, scale = (1 if task == "colorize" else 2), (2 if "2" in task else 1)
    mask = {"mask": holes(90, 120) if task in ("inpaint", "inpaint, sr:2") else holes(45, 60)}
    image = scene(bands, 90 // scale, 120 // scale)
    spec = job(
        tmp_path, image, task=task, range=[-1, 1], weave="joint", levels=1, **(mask if task != "colorize" else {})
    )
    compiled = compile_job(spec)
    lattice, image = compiled.image.lattices[0], compiled.image
    access = ImageAccess(replace(image, root=str(tmp_path / "root")), ChunkCache(2**20))
    held = 0
    for block in range(lattice.count):
        inputs = access.block(image.plan.tiles(0).start + block)
        known = (inputs.y, inputs.measured, inputs.visible)
        windows = len(lattice.begun(block)) * lattice.windows.tile**2
        held += sum(array.nbytes for array in known if array is not None)
        held += 4 * image.bands * (inputs.box.area + windows)
    pattern = pattern_of(compiled)
    halos = max(
        sum(handed(lattice, n, b) for b in range(lattice.count) for n in lattice.around[b]) for handed in pattern.handed
    )
    found = forecast(compiled, survey_image(compiled, Silent())).bill.lockstep.state_bytes
    assert held <= found <= held + 4 * image.bands * 2 * halos


@pytest.mark.parametrize("edges", [False, True])
def test_a_blocks_state_has_the_labels_that_its_windows_see(tmp_path, edges):
    tifffile.imwrite(tmp_path / "labels.tif", np.zeros((90, 120), "uint8"))
    model = {"name": weights(tmp_path, replace(SEMANTIC, edges=edges)), "edges": edges}
    plain = billed(joint_job(tmp_path, bands=3)).lockstep
    spec = joint_job(tmp_path, bands=3, model=model, labels=str(tmp_path / "labels.tif"))
    image = compile_job(spec).image
    access = ImageAccess(replace(image, root=str(tmp_path / "root")), ChunkCache(2**20))
    shown = [access.block(tile).labels for tile in image.plan.tiles(0)]
    held = sum(array.nbytes for window in shown for _, array in window.arrays())
    assert billed(spec).lockstep.state_bytes - plain.state_bytes == held > 0


def test_saved_steps_lie_beside_the_result(tmp_path):
    spec = joint_job(tmp_path, steps=8)
    never = billed(spec)
    often = billed(spec.model_copy(update={"lockstep": LockstepSpec(every=2)}))
    assert never.lockstep.saved_bytes == 0
    level = 4 * 2 * 90 * 120
    assert level * 3 <= often.lockstep.saved_bytes == often.scratch_bytes - never.scratch_bytes < level * 4


def test_no_more_is_saved_than_a_plan_says(tmp_path, monkeypatch):
    spec = joint_job(tmp_path, steps=9).model_copy(update={"lockstep": LockstepSpec(every=1)})
    most = []
    write = ImageAccess.saved

    def counted(access, level, step):
        canvas = write(access, level, step)
        most.append(len(list(root_of(spec).glob("saved-*"))))
        return canvas

    monkeypatch.setattr(ImageAccess, "saved", counted)
    restore(spec)
    assert 2 <= max(most) <= 3


# --- msr beside joint ---


def test_both_weaves_are_told_the_same_of_the_same_job(tmp_path):
    one, two = joint_job(tmp_path, weave=MSR), joint_job(tmp_path, weave=JOINT)
    assert compared(*looked_at(one)) == compared(*looked_at(two))


def test_one_worker_has_nothing_to_gain_from_joint_weaving(tmp_path):
    found = compared(*looked_at(joint_job(tmp_path, lanes=1, batch=1)))
    assert found.better == MSR
    assert "neither state nor halos" in found.why
    assert (found.msr.memory_bytes, found.msr.sent_bytes) == (0, 0)
    assert found.joint.memory_bytes > 0 == found.joint.sent_bytes


def test_many_workers_are_sooner_done_with_joint_weaving(tmp_path):
    spec = joint_job(tmp_path, 200, 200, lockstep={"block": 24}).model_copy(
        update={"cluster": ClusterSpec(workers=40, cpus=1.0)}
    )
    found = compared(*looked_at(spec))
    assert found.better == JOINT
    assert found.joint.calls_one_by_one < found.msr.calls_one_by_one / 2
    assert found.joint.sent_bytes > 0


def test_a_small_hole_is_sooner_filled_tile_by_tile(tmp_path):
    mask = np.zeros((200, 200), bool)
    mask[4:9, 5:12] = True
    spec = job(tmp_path, scene(1, 200, 200), task="inpaint", mask=mask, range=[-1, 1], weave="joint", levels=1, lanes=1)
    found = compared(*looked_at(spec))
    assert found.better == MSR
    assert "only the tiles" in found.why
    assert found.joint.calls > 10 * found.msr.calls


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("weave", [MSR, JOINT])
def test_what_comes_one_after_the_other_is_about_what_the_simulator_takes(tmp_path, weave, workers):
    spec = joint_job(tmp_path, 200, 200, weave=weave, lockstep={"block": 48}).model_copy(
        update={"cluster": ClusterSpec(workers=workers, cpus=1.0)}
    )
    compiled, bits = looked_at(spec)
    found = getattr(compared(compiled, bits), weave)
    simulated, _ = simulate_job(compiled, bits, images=1, workers=workers, slots=2, call_seconds=1.0)
    assert found.calls_one_by_one <= simulated.makespan * 1.001
    assert simulated.makespan <= 1.5 * found.calls_one_by_one


@pytest.mark.parametrize("options", [{"weave": "naive"}, {"weave": "msr", "parity": {"carry": True}}])
def test_there_is_no_choice_where_tiles_go_another_way(tmp_path, options):
    assert compared(*looked_at(joint_job(tmp_path, **options))) is None


def test_a_choice_that_the_other_weave_refuses_is_none(tmp_path):
    spec = joint_job(tmp_path, weave="msr", lockstep={"block": 17})
    assert compared(*looked_at(spec)) is None


# --- the command ---


def test_a_plan_for_people_has_blocks_and_both_weaves(tmp_path, capfd):
    keys = {"input": "blank:600x400", "output": "out.zarr", "task": "generate", "weave": "joint", "steps": 12}
    path = written(tmp_path, **keys, cluster={"workers": 2, "cpus": 1})
    text, told = tileloom(capfd, "plan", path).out, tileloom(capfd, "plan", path, "--json").json
    blocks = told["bill"]["lockstep"]
    assert f"lock-step: blocks of {blocks['block']} pixels advance together, 12 steps" in text
    assert f"{told['levels'][0]['rows']}x{told['levels'][0]['cols']} blocks" in text
    assert "state of each of 2 workers: " in text
    assert "between workers: " in text
    assert f"weave msr: {told['weaves']['msr']['calls']} network calls" in text
    assert f"weave joint: {told['weaves']['joint']['calls']} network calls" in text
    assert f"better here: {told['weaves']['better']}, since {told['weaves']['why']}" in text
    assert blocks["exchanges"][0]["total_bytes"] == told["weaves"]["joint"]["sent_bytes"] > 0

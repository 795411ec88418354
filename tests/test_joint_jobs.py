"""Jobs whose tiles are fused at every step, from end to end on files."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import faults
from tests.archives import SIZES, archive
from tests.commandline import tileloom
from tests.images import flip_byte
from tests.pipeline import (
    TILE,
    assert_same_bytes,
    beside,
    committed,
    holes,
    job,
    measure,
    restore,
    result,
    root_of,
    scene,
)
from tests.victim import Victims
from tileloom.jobs.compile import compile_job
from tileloom.models.cells import CellWork
from tileloom.models.gaussian import Gaussian
from tileloom.tiling.errors import InputError, TileFailed
from tileloom.tiling.ledger import Ledger

HEIGHT, WIDTH = 60, 72
KINDS = {
    "sr": {"task": "sr:4"},
    "sr of ddim-ddnm": {"task": "sr:4", "sampler": "ddim-ddnm"},
    "inpaint": {"task": "inpaint"},
    "inpaint of repaint": {"task": "inpaint", "sampler": "repaint", "travel": {"length": 2, "repeat": 2}},
    "denoise": {"task": "denoise:0.1", "steps": 4},
    "colorize": {"task": "colorize", "travel": {"length": 2, "repeat": 3}},
}


def joint(folder, kind="sr", *, height=HEIGHT, width=WIDTH, **more):
    """A joint job of a kind."""
    folder.mkdir(exist_ok=True)
    options = {"range": [-1, 1], "batch": 3, "stride": 8, "levels": 1, "weave": "joint", **KINDS[kind], **more}
    truth = scene(3, height, width, seed=5)
    task = options.pop("task")
    mask = holes(height, width, share=0.5, seed=6) if task == "inpaint" else None
    y = truth if "denoise" in task else measure(truth, task, mask=mask).astype(np.float32)
    return job(folder, y, task=task, mask=mask, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A joint super-resolution through two levels that ran undisturbed."""
    spec = joint(tmp_path_factory.mktemp("whole") / "job", levels=2, lockstep={"every": 2, "block": 24}, steps=7)
    restore(spec)
    return spec


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_lanes_and_memory_change_no_pixel(kind, tmp_path):
    spec = joint(tmp_path / "job", kind, lockstep={"block": 72})
    summary = restore(spec)
    expected = result(spec)
    assert np.isfinite(expected).all()
    assert summary.report.done == 1
    small = joint(tmp_path / "small", kind, lockstep={"block": 16, "memory": 100_000, "every": 1}, lanes=2)
    summary = restore(small)
    assert summary.report.done == 4 * 5
    np.testing.assert_array_equal(result(small), expected)


@pytest.mark.parametrize("kind", ["sr", "inpaint"])
def test_joint_windows_come_to_something_else_than_tiles_that_go_on_from_each_other(kind, tmp_path):
    spec = joint(tmp_path / "joint", kind)
    restore(spec)
    msr = joint(tmp_path / "msr", kind, weave="msr")
    restore(msr)
    assert np.abs(result(spec) - result(msr)).max() > 0.01


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_coarse_levels_come_first_and_bind_the_fine_ones(levels, tmp_path):
    """Far from what is known, the mean of fine pixels is the coarse one."""
    truth = scene(2, 96, 96, seed=1)
    mask = np.ones((96, 96), bool)
    mask[:4] = False
    y = np.where(mask, 0, truth)
    spec = job(tmp_path, y, task="inpaint", mask=mask, range=[-1, 1], stride=8, levels=levels, weave="joint")
    restore(spec)
    pixels, known = faults.canvases(spec), faults.knowledge(y, mask, levels)
    assert len(pixels) == levels
    for level in range(levels - 1):
        fine, coarse = pixels[level], pixels[level + 1]
        far = faults.far_from_known(known, level)
        pooled = fine.reshape(2, fine.shape[1] // 2, 2, -1, 2).mean(axis=(2, 4))[:, : far.shape[0], : far.shape[1]]
        assert far.sum() > 100
        np.testing.assert_allclose(pooled[:, far], coarse[:, : far.shape[0], : far.shape[1]][:, far], atol=1e-5)
    tiles = committed(spec)
    plan = compile_job(spec).image.plan
    assert [plan.key(tile).level for tile in tiles] == sorted((plan.key(tile).level for tile in tiles), reverse=True)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (17, 5), (16, 16), (33, 50)])
@pytest.mark.parametrize("levels", [1, "auto"])
def test_images_of_any_size(size, levels, tmp_path):
    image = scene(2, *size)
    spec = job(tmp_path, image, task="sr:2", range=[-1, 1], weave="joint", levels=levels)
    restore(spec)
    out = result(spec)
    assert out.shape == (2, 2 * size[0], 2 * size[1])
    np.testing.assert_allclose(measure(out, "sr:2"), image, atol=2e-5)


def test_what_was_saved_on_the_way_is_gone_at_the_end(whole):
    assert sorted(path.name for path in root_of(whole).iterdir()) == ["canvas-0", "canvas-1", "ledger", "survey"]


# --- runs that are killed ---


@pytest.fixture(scope="module")
def victims():
    process = Victims()
    yield process
    process.close()


ROUNDS = [1, 2, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5, 14, 20, 27, 35, 42, 60))]
POINTS = [
    *(pytest.param("round", n.values[0] if hasattr(n, "values") else n, marks=getattr(n, "marks", ())) for n in ROUNDS),
    ("chunk", 3),
    ("chunk", 20),
    pytest.param("chunk", 45, marks=pytest.mark.slow),
    ("commit", 2),
    *(pytest.param("commit", n, marks=pytest.mark.slow) for n in (1, 3, 4, 6, 8)),
    ("saved dropped", 2),
    pytest.param("saved dropped", 4, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("point", "n"), POINTS)
def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(point, n, whole, victims, tmp_path):
    spec = beside(whole, tmp_path)
    killed = victims.run(spec, tmp_path, point=(point, "after", n))
    assert killed.status == -signal.SIGKILL
    assert not Path(spec.output, ".tileloom", "report.json").exists()
    assert victims.run(spec, tmp_path).status == 0
    assert_same_bytes(spec, whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
def test_a_run_killed_at_a_random_moment_goes_on_to_the_same_bytes(moment, whole, victims, tmp_path):
    spec, seconds = beside(whole, tmp_path), None
    first = victims.run(beside(whole, tmp_path / "timed"), tmp_path)
    seconds = first.seconds * (moment + 0.5) / 10
    killed = victims.run(spec, tmp_path, seconds=seconds)
    assert killed.status in (-signal.SIGKILL, 0)
    assert victims.run(spec, tmp_path).status == 0
    assert_same_bytes(spec, whole)


def test_a_killed_run_does_no_settled_step_again(whole, victims, tmp_path, monkeypatch):
    spec = beside(whole, tmp_path)
    victims.run(spec, tmp_path, point=("round", "after", 80))
    facts = Ledger(root_of(spec) / "ledger").facts
    settled = {level: facts.get(f"woven level {level}", 0) for level in (0, 1)}
    assert max(settled.values()) > 0
    begun, begin = [], CellWork.begin

    def noted(self, lattice, number, inputs, saved, at):
        begun.append((inputs.key.level, at))
        return begin(self, lattice, number, inputs, saved, at)

    monkeypatch.setattr(CellWork, "begin", noted)
    restore(spec)
    assert begun
    assert all(at == 2 * settled[level] for level, at in begun)


def test_every_may_change_on_the_way(whole, victims, tmp_path):
    spec = beside(whole, tmp_path)
    victims.run(spec, tmp_path, point=("round", "after", 50))
    lockstep = spec.lockstep.model_copy(update={"every": 3, "memory": 10_000})
    again = spec.model_copy(update={"lockstep": lockstep})
    restore(again)
    assert_same_bytes(spec, whole)


# --- what users see ---


def test_the_summary_the_status_and_the_check_of_a_joint_result(whole, capfd):
    told = json.loads((Path(whole.output) / ".tileloom" / "report.json").read_text())
    assert told["halo_bytes"] == 0
    lattices = compile_job(whole).image.lattices
    assert told["done"] == sum(lattice.count for lattice in lattices)
    assert told["network_calls"] == 7 * sum(lattice.windows.count for lattice in lattices)
    assert told["degraded"] == []
    said = tileloom(capfd, "status", whole.output, "--json")
    assert said.code == 0
    said = tileloom(capfd, "verify", whole.output)
    assert said.code == 0, said.errors


def test_retry_mends_what_verify_found(whole, tmp_path, capfd):
    spec = beside(whole, tmp_path)
    restore(spec)
    chunk = sorted((root_of(spec) / "canvas-0" / "c").rglob("0/*/*"))[-1]
    flip_byte(chunk, 100)
    assert tileloom(capfd, "verify", spec.output).code != 0
    said = tileloom(capfd, "retry", spec.output)
    assert said.code == 0, said.errors
    assert tileloom(capfd, "verify", spec.output).code == 0
    np.testing.assert_array_equal(result(spec), result(whole))


def test_a_block_that_is_no_number_any_more_stops_the_image_which_goes_on_once_mended(whole, tmp_path, monkeypatch):
    spec, predict, calls = beside(whole, tmp_path), Gaussian.predict, []

    def poisoned(self, x_BCHW, t_B, conditions):
        calls.append(len(conditions))
        answer = predict(self, x_BCHW, t_B, conditions)
        return answer * torch.nan if len(calls) > 60 else answer

    with monkeypatch.context() as patch:
        patch.setattr(Gaussian, "predict", poisoned)
        with pytest.raises(TileFailed, match=r"block level \d row \d column \d .* not finite after step .* resume"):
            restore(spec)
    restore(spec)
    assert_same_bytes(spec, whole)


REFUSED = {
    "a block that cuts tiles": ({"lockstep": {"block": 20}}, r"lockstep\.block is 20.*, .* nearest is (16|24)$"),
    "a block that is too small": ({"lockstep": {"block": 8}}, r"lockstep\.block is 8, .* nearest is 16$"),
    "an odd block": ({"lockstep": {"block": 33}}, r"lockstep\.block is 33, .* nearest is 32$"),
    "a guard band": ({"guard": 4}, r"guard.*tiles that are fused at every step have no guard band: leave guard out"),
    "tiles carried on": ({"parity": {"carry": True}}, r"--parity-carry: .*needs weave msr and guard 0"),
    "no steps between": ({"lockstep": {"every": 0}}, r"--lockstep-every must be a whole number from 1 up"),
    "no number of bytes": ({"lockstep": {"memory": "much"}}, r"--lockstep-memory must be a number of bytes"),
}


@pytest.mark.parametrize(("wrong", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_suit_is_refused_in_one_sentence(wrong, words, tmp_path):
    with pytest.raises(InputError, match=words) as refused:
        restore(joint(tmp_path / "job", **wrong))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "job" / "out.zarr").exists()


@pytest.mark.parametrize("size", [(60, 72), (9, 200), (1, 1)])
def test_blocks_are_no_larger_than_the_image_where_the_job_leaves_that_open(size, tmp_path):
    spec = job(tmp_path, scene(1, *size), task="sr:2", weave="joint")
    for lattice in compile_job(spec).image.lattices:
        longer = max(lattice.windows.rows.length, lattice.windows.cols.length)
        assert TILE <= lattice.blocks.tile < max(longer, TILE) + lattice.cell


# --- archives ---


def test_each_image_of_an_archive_is_what_it_would_be_alone(tmp_path):
    place = archive(tmp_path, weave="joint", lockstep={"block": 24})
    summary = place.run()
    assert (summary.done, summary.whole) == (3, True)
    for image in SIZES:
        alone = beside(place.spec(image), tmp_path / "alone")
        restore(alone)
        assert_same_bytes(place.spec(image), alone)


@pytest.mark.slow
def test_an_archive_on_workers_has_the_bytes_of_one_process(tmp_path):
    told = {"weave": "joint", "lockstep": {"block": 24}}
    here, there = (
        archive(tmp_path, **told),
        archive(tmp_path, name="there", cluster={"workers": 2, "cpus": 0.5}, **told),
    )
    here.run()
    assert there.run().whole
    for image in SIZES:
        assert_same_bytes(there.spec(image), here.spec(image))

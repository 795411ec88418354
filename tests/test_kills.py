"""A run killed with SIGKILL at any moment goes on where it was: same bytes, and only what was in flight is redone."""

import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.fillers import HOLES, file_of
from tests.pipeline import assert_same_bytes, beside, committed, holes, job, measure, root_of, scene
from tests.victim import Ended, Victims
from tileloom.jobs.compile import compile_job
from tileloom.jobs.spec import JobSpec
from tileloom.tiling.box import TileKey
from tileloom.tiling.ledger import Ledger

BATCH, LANES = 2, 2
SLOTS = BATCH * LANES
TASKS = ("sr:4", "inpaint")
MOMENTS = 20
QUICK = 2
FILLED_MOMENTS = 5


@dataclass(frozen=True)
class Whole:
    """A job that ran to its end undisturbed."""

    spec: JobSpec
    ended: Ended


@pytest.fixture(scope="module")
def victims():
    process = Victims()
    yield process
    process.close()


@pytest.fixture(scope="module")
def wholes(victims, tmp_path_factory):
    """Every task's job, undisturbed: the bytes to be had, and the time it takes."""
    found = {}
    for task in TASKS:
        folder = tmp_path_factory.mktemp("whole")
        mask = holes(48, 52, share=0.6, seed=2) if task == "inpaint" else None
        y = measure(scene(3, 48, 52, seed=1), task, mask=mask).astype(np.float32)
        publish = {"chunk": 16, "shard": 32}
        spec = job(
            folder, y, task=task, mask=mask, range=[-1, 1], stride=8, guard=4, levels=2, batch=BATCH, publish=publish
        ).model_copy(update={"lanes": LANES})
        found[task] = _run_whole(spec, victims, folder)
    return found


@pytest.fixture(scope="module")
def filled(victims, tmp_path_factory):
    """A job of a network that fills holes, undisturbed; one hole is larger than a tile."""
    folder = tmp_path_factory.mktemp("filled")
    mask = holes(48, 52, share=0.2, seed=2)
    mask[:30, 10:34] = 1
    keys = {"range": [-1, 1], "steps": 3, "levels": 2, "batch": BATCH, "publish": {"chunk": 16, "shard": 32}}
    image = scene(HOLES.in_channels, 48, 52, seed=1)
    spec = job(folder, image, task="inpaint", mask=mask, model={"name": file_of(folder)}, **keys)
    return _run_whole(spec.model_copy(update={"lanes": LANES}), victims, folder)


def _run_whole(spec, victims, folder):
    victims.run(beside(spec, folder / "warm-up"), folder)
    ended = victims.run(spec, folder)
    assert ended.status == 0
    assert _finished(spec)
    return Whole(spec, ended)


def _finished(spec):
    return Path(spec.output, ".tileloom", "report.json").exists()


def _committed(spec):
    """The tiles in the ledger of a run that may have died before it had one."""
    began = any(path.is_dir() for path in Path(spec.output, ".tileloom").glob("*"))
    plan = compile_job(spec).image.plan
    return {plan.key(tile) for tile in committed(spec)} if began else set()


def _keys(ended):
    return [TileKey(*at) for at in ended.begun]


def _assert_killed(ended, spec):
    """The kill happened, and it left work undone."""
    assert ended.status == -signal.SIGKILL
    assert not _finished(spec)


def _assert_resumes(spec, whole, killed, victims, folder):
    """A second run ends with the same bytes and redoes at most what was in flight."""
    before, begun = _committed(spec), set(_keys(killed))
    resumed = victims.run(spec, folder)
    assert resumed.status == 0
    again = _keys(resumed)
    assert len(set(again)) == len(again)
    assert not before & set(again)
    assert before | set(again) == set(_keys(whole.ended))
    assert len(begun & set(again)) <= SLOTS
    tiles = committed(spec)
    assert len(set(tiles)) == len(tiles)
    assert not list(Path(spec.output).rglob("*.partial"))
    assert_same_bytes(spec, whole.spec)


def _assert_survives(whole, share, victims, folder):
    """Killed after a share of the time that the whole job takes, it resumes."""
    seconds = share * whole.ended.seconds
    for attempt in range(12):
        place = folder / str(attempt)
        place.mkdir()
        spec = beside(whole.spec, place)
        killed = victims.run(spec, place, seconds=seconds)
        if not _finished(spec):
            break
        # It was faster than the one that was timed.
        seconds *= 0.7
    _assert_killed(killed, spec)
    _assert_resumes(spec, whole, killed, victims, place)


@pytest.mark.parametrize(
    "moment",
    [pytest.param(moment, marks=[pytest.mark.slow] * (moment % (MOMENTS // QUICK) > 0)) for moment in range(MOMENTS)],
)
def test_killed_at_a_random_moment(moment, wholes, victims, tmp_path):
    whole = wholes[TASKS[moment % len(TASKS)]]
    share = (moment + np.random.default_rng(moment).random()) / MOMENTS
    _assert_survives(whole, share, victims, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(FILLED_MOMENTS))
def test_a_job_of_a_network_that_fills_holes_killed_at_a_random_moment(moment, filled, victims, tmp_path):
    share = (moment + np.random.default_rng(moment).random()) / FILLED_MOMENTS
    _assert_survives(filled, share, victims, tmp_path)


POINTS = [
    ("job saved", "before", 1),
    ("job saved", "after", 1),
    ("file renamed", "before", 1),
    ("file renamed", "before", 2),
    ("file renamed", "before", 9),
    ("file renamed", "before", 40),
    ("coarser input", "after", 1),
    ("survey", "before", 1),
    ("survey", "after", 2),
    ("survey saved", "before", 1),
    ("survey saved", "after", 1),
    ("step", "before", 1),
    ("step", "after", 20),
    ("chunk", "before", 1),
    ("chunk", "after", 1),
    ("chunk", "after", 6),
    ("chunk", "after", 21),
    ("segment linked", "before", 1),
    ("segment linked", "after", 1),
    ("segment linked", "before", 7),
    ("segment linked", "after", 7),
    ("commit", "before", 4),
    ("commit", "after", 4),
    ("pyramid laid out", "before", 1),
    ("pyramid laid out", "after", 1),
    ("shard", "before", 1),
    ("shard", "after", 1),
    ("shard", "before", 4),
    ("shard", "after", 4),
    ("shard", "after", 5),
]


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, id="-".join(map(str, point)).replace(" ", "_"), marks=[pytest.mark.slow] * (at % 3 > 0))
        for at, point in enumerate(POINTS)
    ],
)
def test_killed_at_a_point(point, wholes, victims, tmp_path):
    whole = wholes["inpaint"]
    spec = beside(whole.spec, tmp_path)
    killed = victims.run(spec, tmp_path, point=point)
    _assert_killed(killed, spec)
    _assert_resumes(spec, whole, killed, victims, tmp_path)


def _chunks(spec):
    return len(list(root_of(spec).glob("canvas-*/c/0/*/*")))


def test_a_chunk_without_its_commit_is_written_again(wholes, victims, tmp_path):
    whole = wholes["sr:4"]
    spec = beside(whole.spec, tmp_path)
    killed = victims.run(spec, tmp_path, point=("chunk", "after", 5))
    assert _chunks(spec) > len(committed(spec))
    _assert_resumes(spec, whole, killed, victims, tmp_path)


def test_a_shard_without_its_commit_is_written_again(wholes, victims, tmp_path):
    whole = wholes["sr:4"]
    spec = beside(whole.spec, tmp_path)
    killed = victims.run(spec, tmp_path, point=("shard", "after", 3))
    assert len(list(Path(spec.output).glob("[0-9]/c/0/*/*"))) == len(Ledger(root_of(spec) / "ledger").shards) + 1 == 3
    _assert_resumes(spec, whole, killed, victims, tmp_path)


def test_half_written_files_are_swept(wholes, victims, tmp_path):
    whole = wholes["sr:4"]
    spec = beside(whole.spec, tmp_path)
    killed = victims.run(spec, tmp_path, point=("segment linked", "before", 3))
    assert list(root_of(spec).rglob("*.partial"))
    _assert_resumes(spec, whole, killed, victims, tmp_path)


def test_a_run_that_is_killed_again_and_again_gets_there(wholes, victims, tmp_path):
    whole = wholes["sr:4"]
    spec = beside(whole.spec, tmp_path)
    begun, kills = [], 0
    while (ended := victims.run(spec, tmp_path, point=("commit", "after", 3))).status:
        _assert_killed(ended, spec)
        begun += ended.begun
        kills += 1
        assert kills < len(whole.ended.begun)
    begun += ended.begun
    assert kills >= 5
    assert len(begun) <= len(whole.ended.begun) + kills * SLOTS
    assert_same_bytes(spec, whole.spec)


def test_a_kill_after_the_last_work_costs_nothing(wholes, victims, tmp_path):
    whole = wholes["sr:4"]
    spec = beside(whole.spec, tmp_path)
    assert victims.run(spec, tmp_path, point=("tidied", "before", 1)).status == -signal.SIGKILL
    resumed = victims.run(spec, tmp_path)
    assert resumed.status == 0
    assert resumed.begun == []
    assert_same_bytes(spec, whole.spec)

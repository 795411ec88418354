"""Blocks in lock-step on Ray: the bytes of one process whatever the workers' number and their deaths."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest

from benchmarks._image import make_image
from tests.looms import REACH, lattice_of
from tests.stubblocks import BlocksFactory
from tests.stubwork import Faults
from tests.test_ray import Here, cluster, on_ray  # noqa: F401
from tileloom.cluster.weaving import Lockstep
from tileloom.cluster.worker import Brief, Worker
from tileloom.tiling.errors import TileloomError
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.plan import WeavePlan

LATTICE = lattice_of(70, 61, 24)
BLOCKS, BANDS = LATTICE.count, 2
STEPS, PHASES, EVERY = 8, 2, 2
ROUNDS = 1 + STEPS * PHASES


@dataclass
class Run:
    """A level that was woven: what it left, and who took which block through which round."""

    folder: Path
    said: list
    faults: Faults
    report: object
    ledger: Ledger

    @property
    def chunks(self):
        files = [file for file in self.folder.glob("image/work/*/c/**/*") if file.is_file()]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}

    @property
    def entries(self):
        return sorted((entry.tile, entry.output) for entry in self.ledger.entries())

    @property
    def rounds(self):
        """(process, block, round) of all that was done."""
        lines = (self.faults.folder / "rounds").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines]

    @property
    def redone(self):
        """How many rounds more than needed each block was taken through."""
        counts = Counter(block for _, block, _ in self.rounds)
        return {block: count - ROUNDS for block, count in counts.items() if count != ROUNDS}


def here(factory, say):
    return Here(Worker(factory))


def woven(folder, executor_of, *, faults=(), pause=0.0, room=2**30, **settings):
    """Weave a level; ``faults`` strike once."""
    (folder / "faults").mkdir(parents=True)
    planned = Faults(folder / "faults")
    for name in faults:
        planned.plan(name)
    image = make_image(folder / "image", LATTICE.windows, bands=BANDS, chunk=32)
    image = replace(image, plan=WeavePlan((LATTICE.blocks,)), lattices=(LATTICE,))
    ledger, said, reports = Ledger(Path(image.root) / "ledger"), [], []

    def course():
        reports.append((yield Lockstep(Brief(image, b""), 0, ledger, EVERY)))

    factory = BlocksFactory(folder / "faults", STEPS, PHASES, pause, room=room)
    with executor_of(factory, said.append, **settings) as executor:
        executor.run([course()], Frontier())
    return Run(folder, said, planned, reports[0], ledger)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The level in one process."""
    return woven(tmp_path_factory.mktemp("here") / "run", here)


def assert_same(run, expected):
    """The pixels and their hashes; what was saved on the way goes in a job's own time."""
    final = [name for name in run.chunks if "canvas" in name]
    assert len(final) == BLOCKS
    assert {name: run.chunks[name] for name in final} == {name: expected.chunks[name] for name in final}
    assert run.entries == expected.entries
    assert [tile for tile, _ in run.entries] == list(range(BLOCKS))


def assert_only_theirs_are_redone(run, losses=1):
    """Every process that died had some blocks: at most 2 * EVERY steps of these are done again."""
    assert run.redone
    assert all(0 < more <= losses * (2 * EVERY * PHASES + 1) for more in run.redone.values())


def sent_by(workers):
    """Bytes that go from worker to worker where each has a run of blocks."""
    holder = {block: block * workers // BLOCKS for block in range(BLOCKS)}
    pixels = 0
    for block in range(BLOCKS):
        for other in LATTICE.around[block]:
            if holder[block] != holder[other]:
                pixels += LATTICE.box(other).pad(REACH).intersect(LATTICE.box(block)).area
    return 4 * BANDS * pixels * STEPS * PHASES


@pytest.mark.parametrize(
    "workers", [1, 3, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_any_number_of_workers_gives_the_same_bytes_and_trades_no_more_than_it_must(tmp_path, expected, workers):
    run = woven(tmp_path / "run", on_ray, workers=workers)
    assert_same(run, expected)
    assert run.said == []
    assert run.redone == {}
    assert len({pid for pid, _, _ in run.rounds}) == workers
    if BLOCKS % workers == 0:
        assert run.report.sent == sent_by(workers)
    assert bool(run.report.sent) == (workers > 1)


KILLS = {
    "two at once": ["kill-9-0", "kill-9-8"],
    "a worker while a step is saved": ["kill-saved-0-4-1-1"],
    "a worker at the end": ["kill-canvas-0-0-0"],
}


@pytest.mark.parametrize("faults", KILLS.values(), ids=KILLS)
def test_killed_workers_cost_the_last_steps_of_their_blocks(tmp_path, expected, faults):
    run = woven(tmp_path / "run", on_ray, faults=faults, workers=3, pause=0.02)
    assert sorted(run.faults.struck) == sorted(faults)
    assert len([line for line in run.said if "was lost and is replaced" in line]) == len(faults)
    assert_same(run, expected)
    assert_only_theirs_are_redone(run, len(faults))
    assert len(run.redone) <= len(faults) * -(-BLOCKS // 3)


@pytest.mark.slow
def test_a_worker_killed_at_ten_random_steps_one_after_the_other(tmp_path, expected):
    random = np.random.default_rng(0)
    faults = [f"kill-{at}-{random.integers(BLOCKS)}" for at in sorted(random.permutation(np.arange(1, ROUNDS))[:10])]
    run = woven(tmp_path / "run", on_ray, faults=faults, workers=3)
    assert sorted(run.faults.struck) == sorted(faults)
    assert_same(run, expected)
    assert_only_theirs_are_redone(run, len(faults))


def test_the_blocks_of_a_worker_that_is_told_to_go_go_on_elsewhere(tmp_path, expected):
    run = woven(tmp_path / "run", on_ray, faults=["term-9-4"], workers=3, pause=0.1, restarts=0)
    assert run.faults.struck == ["term-9-4"]
    assert [line for line in run.said if "goes and is replaced: it was told to end" in line]
    assert_same(run, expected)
    assert_only_theirs_are_redone(run)


def test_one_executor_weaves_one_level_after_the_other(tmp_path, expected):
    """Whatever a run left to its workers does not get into the next one's way."""
    (tmp_path / "faults").mkdir()
    with on_ray(BlocksFactory(tmp_path / "faults", STEPS, PHASES), lambda text: None) as executor:

        def same(factory, say):
            return Kept(executor)

        for name in ("first", "second"):
            assert_same(woven(tmp_path / name, same), expected)


class Kept:
    """An executor that outlives its use."""

    def __init__(self, executor):
        self._executor = executor

    def __enter__(self):
        return self._executor

    def __exit__(self, *_):
        pass


@pytest.mark.slow
def test_an_image_of_which_workers_die_is_given_up_and_its_companions_are_finished(tmp_path):
    (tmp_path / "faults").mkdir()
    ends = {}

    def course(name):
        image = make_image(tmp_path / name, LATTICE.windows, bands=BANDS, chunk=32)
        image = replace(image, name=name, plan=WeavePlan((LATTICE.blocks,)), lattices=(LATTICE,))
        try:
            report = yield Lockstep(Brief(image, b""), 0, Ledger(Path(image.root) / "ledger"), EVERY)
        except TileloomError as error:
            ends[name] = str(error)
        else:
            ends[name] = report.done

    factory = BlocksFactory(tmp_path / "faults", STEPS, PHASES, pause=0.02, deadly="poison")
    with on_ray(factory, print, workers=2, restarts=12) as executor:
        executor.run([course("good"), course("poison"), course("other")], Frontier())
    assert (ends["good"], ends["other"]) == (BLOCKS, BLOCKS)
    assert ends["poison"].startswith("its workers died of it, alone, 5 times")


@pytest.mark.slow
def test_workers_leave_no_file_of_their_blocks(tmp_path):
    """Their processes are killed in the end, which removes nothing."""
    run = woven(tmp_path / "run", on_ray, workers=2, room=1000)
    assert len(run.entries) == BLOCKS
    processes = {process for process, _, _ in run.rounds}
    owners = [json.loads(owner.read_text()) for owner in Path(gettempdir()).glob("tileloom-blocks-*/owner")]
    assert not [owner for owner in owners if owner["pid"] in processes]

"""Workers on Ray: the bytes of one process whatever their number, and whatever becomes of them on the way."""

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray

from benchmarks._image import make_image, weave
from tests.stubwork import Faults, StubFactory
from tileloom.cluster.agenda import Chores
from tileloom.cluster.crew import Hand, Lost
from tileloom.cluster.executor import CrewSpec, LocalExecutor
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.cluster.tile_actor import Letter
from tileloom.cluster.worker import Brief, Ticket, Worker
from tileloom.tiling.errors import TileloomError
from tileloom.tiling.frontier import Frontier, OnError
from tileloom.tiling.grid import Grid
from tileloom.tiling.ledger import Ledger, Status

TILE, BANDS = 16, 2
SHAPE = (BANDS, TILE, TILE)
GRIDS = [Grid(TILE + 12 * 3, TILE + 12 * 4, TILE, 12, 2), Grid(TILE + 12 * 2, TILE + 12 * 2, TILE, 12, 2)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests of this module: with more cores than there are, since stubs only sleep."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=8, num_gpus=0, object_store_memory=100_000_000, **quiet)
    yield
    ray.shutdown()


@dataclass
class Woven:
    """A run of two images: where it worked, what it committed, what was said, and who was struck."""

    folder: Path
    reports: list
    said: list
    faults: Faults
    ledgers: list = field(default_factory=list)

    def total(self, name):
        return sum(getattr(report, name) for report in self.reports)

    @property
    def entries(self):
        return [{entry.tile: entry for entry in ledger.entries()} for ledger in self.ledgers]

    @property
    def chunks(self):
        """Every chunk of every canvas, by its place."""
        files = [file for file in self.folder.glob("*/work/canvas-*/c/**/*") if file.is_file()]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}


def woven(
    folder,
    executor_of,
    *,
    faults=(),
    always=(),
    pause=0.0,
    retries=2,
    on_reports=lambda _: None,
    **settings,
):
    """Weave both images; ``faults`` strike once, ``always`` each time."""
    folder.mkdir()
    (folder / "faults").mkdir()
    planned = Faults(folder / "faults")
    for name in faults:
        planned.plan(name)
    for name in always:
        planned.plan(name, once=False)
    images = [make_image(folder / str(at), grid, bands=BANDS, chunk=32) for at, grid in enumerate(GRIDS)]
    said = []
    factory = StubFactory(SHAPE, folder / "faults", pause=pause)
    with executor_of(factory, said.append, **settings) as executor:
        if isinstance(executor, RayExecutor):
            # Stubs are so quick that the first worker would be through before the others have come.
            all_present(executor, settings.get("workers", 2))
        frontier = Frontier(retries=retries, on_error=OnError.DEGRADE)
        reports = weave(executor, images, frontier, on_reports=on_reports)
    assert len(reports) == len(images)
    return Woven(folder, reports, said, planned, [Ledger(Path(image.root) / "ledger") for image in images])


def all_present(executor, workers):
    """Listen until all workers know the images; what one could be told meanwhile is of no account yet."""
    while len(executor._crew.ready) < workers:
        assert all(isinstance(event, Lost) for event in executor._crew.listen())


class Here(LocalExecutor):
    """The executor in this process, as a context like the other."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def here(factory, say):
    return Here(Worker(factory))


def on_ray(factory, say, *, workers=2, **more):
    spec = CrewSpec(**{"workers": workers, "cpus": 0.5, "patience": 60, "capacity": 60, **more})
    return RayExecutor(factory, spec, say=say)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The run in one process."""
    return woven(tmp_path_factory.mktemp("here") / "run", here)


def assert_same(run, expected):
    assert run.chunks == expected.chunks
    assert run.entries == expected.entries
    assert [len(entries) for entries in run.entries] == [grid.count for grid in GRIDS]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path, expected, workers):
    run = woven(tmp_path / "run", on_ray, workers=workers)
    assert_same(run, expected)
    pids = set((run.folder / "faults" / "finished").read_text().split())
    assert min(workers, 2) <= len(pids) <= workers
    assert str(os.getpid()) not in pids
    assert run.said == []
    assert run.total("done") == sum(grid.count for grid in GRIDS)


KILLS = {
    "while loading": "kill-load",
    "in a batch": "kill-0-1-1",
    "at the first tile": "kill-0-0-0",
    "between a chunk and its report": "kill-written-1-2",
}


@pytest.mark.parametrize("fault", KILLS.values(), ids=KILLS)
def test_a_killed_worker_is_replaced_and_changes_no_byte(tmp_path, expected, fault):
    run = woven(tmp_path / "run", on_ray, faults=[fault])
    assert run.faults.struck == [fault]
    assert len([line for line in run.said if "was lost and is replaced" in line]) == 1
    assert_same(run, expected)


def test_a_worker_killed_while_idle_is_replaced(tmp_path, expected):
    said = []

    def killed(factory, say):
        executor = on_ray(factory, said.append)
        pids = (factory.faults / "pids").read_text().split()
        os.kill(int(pids[0]), signal.SIGKILL)
        return executor

    run = woven(tmp_path / "run", killed)
    assert any("was lost and is replaced" in line for line in said)
    assert_same(run, expected)


def test_a_call_that_never_returns_is_ended(tmp_path, expected):
    run = woven(tmp_path / "run", on_ray, faults=["hang-0-1-2"], patience=2)
    assert run.faults.struck == ["hang-0-1-2"]
    assert any("a call took more than 2 s" in line for line in run.said)
    assert_same(run, expected)


def test_a_tile_that_kills_every_worker_is_given_up_alone(tmp_path):
    """Of the images' tiles at this place both are deadly; all others are as if these had failed by themselves.

    More workers die than may: those that died of a guilty tile do not count.
    """
    expected = woven(tmp_path / "here", here, always=["fail-0-2-2"], retries=2)
    run = woven(tmp_path / "run", on_ray, always=["kill-0-2-2"], retries=2, restarts=5)
    guilty = [grid_tile(at, 2, 2) for at in range(len(GRIDS))]
    for entries, tile in zip(run.entries, guilty, strict=True):
        given_up = [entry for entry in entries.values() if entry.status is Status.DEGRADED]
        assert [entry.tile for entry in given_up] == [tile]
        assert "its worker died of it, alone" in given_up[0].reason
    assert run.total("degraded") == len(GRIDS)
    assert run.chunks == expected.chunks
    # At most two deaths in company each, then one for each try alone.
    assert 6 <= len(run.faults.struck) <= 10


def grid_tile(image, row, col):
    return row * GRIDS[image].cols.count + col


def test_a_suspect_is_not_blamed_for_a_worker_that_was_dead_before_it_came(tmp_path, expected):
    """With no further try, one wrong verdict would degrade the tile."""
    killed = []

    def kill_the_reserved(executor):
        hand = executor._reserved
        if hand and not hand.held and not killed:
            killed.append(ray.get(hand.actor.do.remote(0, Pid(), None)).found)
            os.kill(killed[0], signal.SIGKILL)
            time.sleep(1)

    class Watched(RayExecutor):
        def _hand_out(self, agenda):
            self._deaths[0, 6] = 2
            super()._hand_out(agenda)

        def _isolate(self, agenda):
            if self._suspects and self._reserved is None:
                self._reserved = min(self._crew.ready, key=lambda hand: len(hand.held))
            kill_the_reserved(self)
            super()._isolate(agenda)

    def watched(factory, say):
        spec = CrewSpec(workers=2, cpus=0.5, patience=60, capacity=60)
        executor = Watched(factory, spec, say=say)
        return executor

    run = woven(tmp_path / "run", watched, retries=0)
    assert killed
    assert_same(run, expected)


@dataclass(frozen=True)
class Pid:
    """Tells the worker's process."""

    def __call__(self):
        return os.getpid()


def test_what_a_run_left_under_way_is_not_taken_for_a_chores_answer(tmp_path):
    """Tiles that end together leave a call behind, which comes back while shards are being written."""
    (tmp_path / "faults").mkdir()
    grid = Grid(TILE, 3 * TILE, TILE, TILE, 0)
    image = make_image(tmp_path / "image", grid, bands=BANDS, chunk=32)
    with on_ray(StubFactory(SHAPE, tmp_path / "faults"), lambda text: None, workers=1) as executor:
        [report] = weave(executor, [image], Frontier())
        assert report.done == 3
        assert executor._crew.hands[0].under_way("advance")
        chores = [Chore(number, tmp_path / "faults") for number in range(5)]
        assert done(executor, image, chores) == [(number, "image") for number in range(5)]


def done(executor, image, chores):
    """What chores of an image come to."""
    found = []

    def course():
        found.extend((yield Chores(chores, Brief(image, b""))))

    executor.run([course()], Frontier())
    return found


def test_no_worker_is_idle_while_another_has_more_than_it_can_do(tmp_path):
    """One image whose front is narrow: neighbours' pixels in a cache are no reason to leave a worker idle."""
    run = woven(tmp_path / "run", on_ray, workers=3, pause=0.05)
    counts = Counter((run.folder / "faults" / "finished").read_text().split())
    assert len(counts) == 3


def test_what_a_worker_had_done_when_it_was_given_up_is_counted_and_done_again(tmp_path, expected):
    """It had finished the first tile, and nobody had heard of that."""
    heard = []

    def struck(factory, say):
        executor = on_ray(factory, say)
        crew, image = executor._crew, make_image(factory.faults / "other", GRIDS[0], bands=BANDS, chunk=32)
        [hand] = crew.hands
        ray.get(hand.call("give", Letter([Ticket(0, 0)], {0: Brief(image, b"job")})))
        ray.wait([hand.call("advance")], timeout=60)
        before = hand.shift.usage.tiles
        assert crew._strike_off(hand, "told to").hand is hand
        while crew._late:
            heard.extend(crew.listen())
        assert (executor.timesheet.late, before, hand.shift.usage.tiles) == (1, 0, 1)
        return executor

    run = woven(tmp_path / "run", struck)
    assert heard == []
    assert_same(run, expected)


def test_a_tile_that_fails_by_itself_is_tried_again_as_in_one_process(tmp_path, expected):
    run = woven(tmp_path / "run", on_ray, faults=["fail-0-1-1"])
    assert run.faults.struck == ["fail-0-1-1"]
    assert run.total("failures") == 1
    assert_same(run, expected)


def test_workers_may_not_die_for_ever(tmp_path):
    with pytest.raises(
        TileloomError, match=r"workers died 3 times, which is more than restarts allows \(2\); the last"
    ):
        woven(tmp_path / "run", on_ray, always=["kill-0-0-0"], restarts=2)


def test_a_worker_that_computes_otherwise_is_refused(tmp_path):
    def odd(factory, say):
        executor = on_ray(factory, say)
        Faults(factory.faults).plan("odd-class")
        os.kill(int((factory.faults / "pids").read_text().split()[0]), signal.SIGKILL)
        return executor

    words = r"worker \d on node \w{8} computes otherwise than the others \(kind: odd in place of even\)"
    with pytest.raises(TileloomError, match=words):
        woven(tmp_path / "run", odd)


def test_a_cluster_without_room_is_waited_for_so_long(tmp_path):
    words = r"no worker could be had for 2 s: each needs 64 CPUs and 0 GPUs, the cluster has 8 CPUs and 0 GPUs in all"
    with pytest.raises(TileloomError, match=words):
        woven(tmp_path / "run", on_ray, cpus=64, capacity=2)


def test_an_error_that_is_no_tiles_fault_is_raised_as_it_was(tmp_path):
    def missing(factory, say):
        executor = on_ray(factory, say)
        (factory.faults.parent / "0" / "input.zarr" / "zarr.json").unlink()
        return executor

    with pytest.raises(TileloomError) as said:
        woven(tmp_path / "run", missing)
    assert "input.zarr" in str(said.value)
    assert "Traceback" not in str(said.value)


def test_chores_come_back_in_order_although_a_worker_dies(tmp_path):
    (tmp_path / "faults").mkdir()
    image = make_image(tmp_path / "image", GRIDS[0], bands=BANDS, chunk=32)
    faults = Faults(tmp_path / "faults")
    with on_ray(StubFactory(SHAPE, tmp_path / "faults"), lambda text: None) as executor:
        faults.plan("kill-chore")
        chores = [Chore(number, tmp_path / "faults") for number in range(20)]
        assert done(executor, image, chores) == [(number, "image") for number in range(20)]
        assert done(executor, image, []) == []
    assert faults.struck == ["kill-chore"]


def test_a_worker_forgets_an_image_of_which_it_did_nothing_but_chores(tmp_path, monkeypatch):
    (tmp_path / "faults").mkdir()
    image = make_image(tmp_path / "image", GRIDS[0], bands=BANDS, chunk=32)
    call, ended = Hand.call, []

    def noted(self, method, *arguments):
        if method == "give":
            ended.extend(arguments[0].ended)
        return call(self, method, *arguments)

    monkeypatch.setattr(Hand, "call", noted)
    with on_ray(StubFactory(SHAPE, tmp_path / "faults"), lambda text: None, workers=1) as executor:
        done(executor, image, [Chore(0, tmp_path / "faults")])
        assert ended == [0]
        assert not executor._crew.hands[0].images


@dataclass(frozen=True)
class Chore:
    """A task that tells its number and the image's name; one of them dies once."""

    number: int
    folder: Path

    def __call__(self, access):
        if self.number == 7 and Faults(self.folder).due("kill-chore"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.number, access.image.name

"""A worker by itself: images come and go while its batch runs, and what is wrong with one stays with it."""

import shutil
import signal
import weakref
from operator import attrgetter
from pathlib import Path

import pytest

from benchmarks._image import make_image
from tests.stubwork import StubFactory
from tileloom.cluster.tile_actor import Letter, TileActor
from tileloom.cluster.worker import Brief, Outcome, Ticket, Worker
from tileloom.tiling.errors import TileloomError
from tileloom.tiling.grid import Grid

TILE, BANDS = 16, 2
GRID = Grid(28, 40, TILE, 12, 2)


@pytest.fixture
def worker(tmp_path):
    """A worker of four slots that knows images 0 and 1."""
    (tmp_path / "faults").mkdir()
    worker = Worker(StubFactory((BANDS, TILE, TILE), tmp_path / "faults"))
    for at in (0, 1):
        worker.open(at, Brief(make_image(tmp_path / str(at), GRID, bands=BANDS, chunk=16), b""))
    return worker


def test_tickets_that_come_while_an_image_is_closed_are_kept(worker):
    def more():
        if worker.access(0) and not closed:
            closed.append(worker.close(1))
            return [Ticket(0, 0)]
        return []

    closed = []
    [report] = worker.advance([Ticket(1, 0)], more)
    assert (report.image, report.tile, report.outcome) == (0, 0, Outcome.DONE)
    assert not worker.busy


def test_tiles_of_a_closed_image_are_dropped_wherever_they_are(worker):
    calls = iter(range(100))

    def more():
        if next(calls) == 1:
            worker.close(0)
        return []

    reports = worker.advance([Ticket(0, 0), *(Ticket(1, 0) for _ in range(4)), Ticket(0, 0)], more)
    assert {report.image for report in reports} == {1}
    assert not worker.busy or worker.advance([])[0].image == 1


def test_an_image_that_cannot_be_read_is_broken_and_its_neighbour_is_not(worker, tmp_path):
    shutil.rmtree(tmp_path / "0" / "input.zarr")
    reports = worker.advance([Ticket(0, 0), Ticket(1, 0)])
    reports += worker.advance([])
    outcomes = {report.image: report for report in reports}
    assert outcomes[1].outcome is Outcome.DONE
    assert outcomes[0].outcome is Outcome.BROKEN
    assert isinstance(outcomes[0].error, TileloomError)
    assert "input.zarr" in str(outcomes[0].error)


def test_an_image_that_cannot_be_written_is_broken(worker, monkeypatch):
    def full(canvas, row, col, pixels):
        raise OSError(28, "No space left on device")

    worker.access(0).canvas(0)
    monkeypatch.setattr("tileloom.tiling.canvas.Canvas.write", full)
    [report] = worker.advance([Ticket(0, 0)])
    assert report.outcome is Outcome.BROKEN
    assert "No space left" in str(report.error)
    assert report.calls == worker.work.calls_per_tile


def test_what_memory_lacks_is_no_images_fault(worker, monkeypatch):
    def lacking(canvas, row, col, pixels):
        raise MemoryError

    monkeypatch.setattr("tileloom.tiling.canvas.Canvas.write", lacking)
    with pytest.raises(MemoryError):
        worker.advance([Ticket(0, 0)])


def test_a_task_without_an_image_is_just_called(worker):
    assert worker.do(7, Path.cwd, None) == Path.cwd()
    with pytest.raises(KeyError):
        worker.access(7)


def actor_of(make_work):
    """An actor in this process, which goes on to end when it is told to."""
    told_to_end = signal.getsignal(signal.SIGTERM)
    try:
        return TileActor("worker", make_work)
    finally:
        signal.signal(signal.SIGTERM, told_to_end)


def test_an_actor_that_loads_again_lets_its_network_go_first(tmp_path):
    made, still_there = [], []

    def make(batches):
        still_there.extend(work for work in made if work() is not None)
        work = StubFactory((BANDS, TILE, TILE), tmp_path / "faults")()
        made.append(weakref.ref(work))
        return work

    (tmp_path / "faults").mkdir()
    actor = actor_of(make)
    actor.load({})
    actor.load({})
    assert len(made) == 2
    assert still_there == []


def test_a_worker_that_does_chores_alone_hears_which_images_have_ended(worker, tmp_path):
    actor = actor_of(lambda batches: worker.work)
    actor.load({})
    briefs = {at: Brief(make_image(tmp_path / f"chore {at}", GRID, bands=BANDS, chunk=16), b"") for at in (0, 1)}
    for at, brief in briefs.items():
        assert actor.do(at, attrgetter("image.name"), brief).found == "image"
        actor.give(Letter((), {}, (at,)))
    # A ticket among the letters is kept for the batch.
    actor.give(Letter([Ticket(1, 0)], {1: briefs[1]}))
    actor.do(9, Path.cwd, None)
    assert set(actor._worker._briefs) == {1}
    [report] = actor.advance().reports
    assert (report.image, report.outcome) == (1, Outcome.DONE)

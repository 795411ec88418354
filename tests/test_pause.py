"""Tiles saved in the middle of their schedules, and gone on with by another worker: the same bits, no call twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks._image import make_image
from tests.stubwork import StubFactory
from tileloom.cluster.worker import Brief, Outcome, Ticket, Worker
from tileloom.models.build import EngineFactory
from tileloom.tiling.grid import Grid
from tileloom.tiling.ledger import Entry, Status
from tileloom.tiling.paused import drop_paused, load_paused, paused_tiles

TILE, BANDS, STEPS = 16, 2, 5
GRID = Grid(TILE, TILE + 12 * 3, TILE, 12, 2)
ENGINE = EngineFactory({"name": "gaussian", "length": 4.0}, STEPS, tile=TILE, bands=BANDS, batch=2)


@pytest.fixture
def image(tmp_path):
    return make_image(tmp_path / "image", GRID, bands=BANDS, chunk=32)


def worker(image, factory=ENGINE, settings=b"job"):
    made = Worker(factory)
    made.open(0, Brief(image, settings))
    return made


def after(calls):
    """Tells a worker to leave once it was asked so often, which is before each step."""
    asked = iter([False] * calls)
    return lambda: next(asked, True)


def to_end(made, *tickets):
    reports, given = [], tickets
    while given or made.busy:
        reports += made.advance(given)
        given = ()
    return reports


@pytest.fixture
def whole(tmp_path):
    """The first tile's report by a worker that nobody disturbed."""
    image = make_image(tmp_path / "whole", GRID, bands=BANDS, chunk=32)
    made = worker(image)
    [report] = to_end(made, Ticket(0, 0))
    assert made.usage.calls == STEPS
    return report


@pytest.mark.parametrize("calls", range(1, STEPS))
def test_another_worker_goes_on_with_the_same_bits(image, whole, calls):
    first, second = worker(image), worker(image)
    [paused] = first.advance([Ticket(0, 0)], leaving=after(calls))
    assert paused.outcome is Outcome.PAUSED
    assert first.usage.calls == calls
    assert not first.busy
    [done] = to_end(second, Ticket(0, 0, paused=paused.output))
    assert (done.outcome, done.inputs, done.output) == (Outcome.DONE, whole.inputs, whole.output)
    assert (done.calls, done.spared) == (second.usage.calls, calls) == (STEPS - calls, calls)


def test_what_was_paused_twice_counts_all_its_calls(image, whole):
    first, second, third = (worker(image) for _ in range(3))
    [once] = first.advance([Ticket(0, 0)], leaving=after(2))
    [twice] = second.advance([Ticket(0, 0, paused=once.output)], leaving=after(1))
    assert load_paused(image.root, 0, twice.output).calls == 3
    [done] = to_end(third, Ticket(0, 0, paused=twice.output))
    assert done.output == whole.output
    assert (once.calls, twice.calls, done.calls, done.spared) == (2, 1, STEPS - 3, 3)


def test_tiles_that_are_not_begun_are_returned(image):
    made = worker(image)
    reports = made.advance([Ticket(0, 0)], leaving=after(0))
    assert [report.outcome for report in reports] == [Outcome.RETURNED]
    assert not made.busy
    assert made.usage.calls == 0
    assert not (Path(image.root) / "paused").exists()


def test_a_worker_that_leaves_keeps_no_ticket(image):
    naive = make_image(Path(image.root).parent / "naive", Grid(TILE, 4 * TILE, TILE, TILE, 0), bands=BANDS, chunk=32)
    made = worker(naive)
    reports = made.advance([Ticket(0, tile) for tile in range(4)], leaving=after(2))
    assert [(report.tile, report.outcome) for report in reports] == [
        (0, Outcome.PAUSED),
        (1, Outcome.PAUSED),
        (2, Outcome.RETURNED),
        (3, Outcome.RETURNED),
    ]


def flipped(file):
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "flipped": flipped,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_tile_whose_file_is_damaged_begins_anew(image, whole, damage):
    [paused] = worker(image).advance([Ticket(0, 0)], leaving=after(3))
    damage(Path(image.root) / "paused" / f"0-{paused.output}")
    second = worker(image)
    [done] = to_end(second, Ticket(0, 0, paused=paused.output))
    assert done.output == whole.output
    assert (done.calls, done.spared) == (STEPS, 0)


OTHERS = {
    "class": replace(ENGINE, batch=3),
    "weights": replace(ENGINE, identity="other weights"),
    "schedule": replace(ENGINE, seed=1),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_tile_of_another_class_or_network_begins_anew(image, other):
    [paused] = worker(image).advance([Ticket(0, 0)], leaving=after(3))
    second = worker(image, other)
    [done] = to_end(second, Ticket(0, 0, paused=paused.output))
    assert done.outcome is Outcome.DONE
    assert (done.calls, done.spared) == (STEPS, 0)


def test_a_tile_of_other_inputs_begins_anew(image):
    """A work that signs nothing itself is guarded by the digest of the inputs that stands in the file."""
    (Path(image.root).parent / "faults").mkdir()
    stub = StubFactory((BANDS, TILE, TILE), Path(image.root).parent / "faults")
    [paused] = worker(image, stub).advance([Ticket(0, 0)], leaving=after(1))
    other = worker(image, stub, b"another job")
    [done] = to_end(other, Ticket(0, 0, paused=paused.output))
    assert done.spared == 0
    [done] = to_end(worker(image, stub), Ticket(0, 0, paused=paused.output))
    assert done.spared == 1


def test_a_tile_that_cannot_be_saved_is_returned_and_says_why(image):
    (Path(image.root)).mkdir(exist_ok=True)
    (Path(image.root) / "paused").write_text("in the way")
    [report] = worker(image).advance([Ticket(0, 0)], leaving=after(2))
    assert report.outcome is Outcome.RETURNED
    assert report.reason.startswith("StoreError: cannot write ")


def test_a_tile_whose_file_cannot_be_read_is_no_tiles_fault(image):
    [paused] = worker(image).advance([Ticket(0, 0)], leaving=after(2))
    file = Path(image.root) / "paused" / f"0-{paused.output}"
    file.unlink()
    file.mkdir()
    [report] = to_end(worker(image), Ticket(0, 0, paused=paused.output))
    assert report.outcome is Outcome.BROKEN
    assert isinstance(report.error, OSError)


def test_what_goes_again_before_its_first_call_keeps_what_was_saved(image, whole):
    [paused] = worker(image).advance([Ticket(0, 0)], leaving=after(2))
    [report] = worker(image).advance([Ticket(0, 0, paused=paused.output)], leaving=after(0))
    assert (report.outcome, report.spared) == (Outcome.RETURNED, 0)
    [done] = to_end(worker(image), Ticket(0, 0, paused=paused.output))
    assert (done.output, done.spared) == (whole.output, 2)


def test_the_ledgers_last_line_of_a_tile_counts(image):
    lines = [
        Entry(0, Status.PAUSED, "in", "first"),
        Entry(1, Status.PAUSED, "in", "one"),
        Entry(0, Status.PAUSED, "in", "second"),
        Entry(2, Status.DONE, "in", "out"),
        Entry(1, Status.DONE, "in", "out"),
    ]
    assert paused_tiles(lines) == {0: "second"}


def test_a_saved_tile_is_dropped_once(image):
    [paused] = worker(image).advance([Ticket(0, 0)], leaving=after(2))
    drop_paused(image.root, 0, paused.output)
    drop_paused(image.root, 0, paused.output)
    assert list((Path(image.root) / "paused").iterdir()) == []

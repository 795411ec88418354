"""What is to be done next, over many images at once: tested by hand, without workers."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from tileloom.cluster.agenda import Agenda, Chores, Tiles
from tileloom.cluster.executor import unheard
from tileloom.cluster.worker import Brief, Outcome, Report
from tileloom.tiling.errors import InputError, LedgerTaken, StoreError, TileFailed, TileloomError
from tileloom.tiling.frontier import Frontier, OnError
from tileloom.tiling.grid import Grid
from tileloom.tiling.ledger import Ledger, Status
from tileloom.tiling.paused import Paused, paused_tiles, save_paused
from tileloom.tiling.plan import WeavePlan

GRID = Grid(40, 40, 16, 12, 2)


def tiles(folder, name="image"):
    """All tiles of a small image."""
    plan = WeavePlan((GRID,))
    image = SimpleNamespace(name=name, plan=plan, root=str(folder / f"{name} root"))
    return Tiles(Brief(image, b""), Ledger(folder / name), np.zeros(plan.count, "u1"))


def agenda_of(*courses, on_reports=unheard, **policy):
    return Agenda(courses, Frontier(**policy), on_reports)


def done(item):
    return Report(*item, Outcome.DONE, inputs="i", output="o", calls=3)


def work(agenda, *, slots=4):
    """Do all that is asked for, chores at once and tiles a few at a time; the tiles in their order."""
    order = []
    with agenda:
        while not agenda.over:
            agenda.admit(slots=slots, workers=1)
            while errand := agenda.errand():
                agenda.did(errand, errand.task())
            items = agenda.take(slots)
            order += items
            agenda.settle([done(item) for item in items])
            agenda.refuse_standstill()
    return order


def test_a_course_reads_as_if_its_image_were_alone(tmp_path):
    seen = []

    def course():
        seen.append((yield Chores([lambda: "opened"])))
        seen.append((yield Chores([], told=seen.append)))
        seen.append((yield tiles(tmp_path)))
        seen.append((yield Chores([lambda n=n: n for n in range(3)], told=seen.append)))

    work(agenda_of(course()))
    opened, nothing, report, *told, found = seen
    assert (opened, nothing, told, found) == (["opened"], [], [0, 1, 2], [0, 1, 2])
    assert (report.done, report.calls, report.failures) == (GRID.count, 3 * GRID.count, 0)
    assert len(list(Ledger(tmp_path / "image").entries())) == GRID.count


def saved(folder, item, calls, name="image"):
    """The report of a tile that was saved after so many calls."""
    paused = Paused("i", {}, calls, b"state")
    hash_ = save_paused(str(folder / f"{name} root"), item[1], paused)
    return Report(*item, Outcome.PAUSED, inputs="i", output=hash_, calls=calls)


def files(folder):
    return [file.name for file in (folder / "image root" / "paused").iterdir()]


def test_paused_and_returned_tiles_come_again_and_only_the_paused_are_committed(tmp_path):
    reports = []

    def course():
        reports.append((yield tiles(tmp_path)))

    with agenda_of(course(), retries=0) as agenda:
        agenda.admit(slots=1, workers=1)
        [item] = agenda.take(1)
        agenda.settle([Report(*item, Outcome.RETURNED)])
        assert list(Ledger(tmp_path / "image").entries()) == []
        assert agenda.take(1) == [item]
        assert agenda.ticket(item).paused == ""
        once = saved(tmp_path, item, 1)
        agenda.settle([once])
        [line] = Ledger(tmp_path / "image").entries()
        assert (line.tile, line.status, line.inputs, line.output) == (item[1], Status.PAUSED, "i", once.output)
        assert agenda.take(1) == [item]
        assert agenda.ticket(item).paused == once.output
        twice = saved(tmp_path, item, 2)
        agenda.settle([twice])
        assert files(tmp_path) == [f"{item[1]}-{twice.output}"]
        assert agenda.take(1) == [item]
        agenda.settle([replace(done(item), calls=1, spared=2)])
        assert files(tmp_path) == []
        assert agenda.ticket(item).paused == ""
        while not agenda.over:
            agenda.settle([done(item) for item in agenda.take(4)])
            agenda.admit(slots=1, workers=1)
    [report] = reports
    assert (report.done, report.paused, report.failures) == (GRID.count, 2, 0)
    assert (report.calls, report.spared) == (1 + 2 + 1 + 3 * (GRID.count - 1), 2)


def test_a_tile_that_fails_after_it_was_paused_begins_anew(tmp_path):
    def course():
        yield tiles(tmp_path)

    with agenda_of(course()) as agenda:
        agenda.admit(slots=1, workers=1)
        [item] = agenda.take(1)
        agenda.settle([saved(tmp_path, item, 1)])
        assert agenda.take(1) == [item]
        agenda.settle([Report(*item, Outcome.FAILED, reason="not finite")])
        assert files(tmp_path) == []
        assert agenda.take(1) == [item]
        assert agenda.ticket(item).paused == ""


def test_what_is_saved_outlives_an_image_that_cannot_go_on(tmp_path):
    def course():
        with pytest.raises(StoreError):
            yield tiles(tmp_path)

    with agenda_of(course()) as agenda:
        agenda.admit(slots=1, workers=1)
        [item] = agenda.take(1)
        paused = saved(tmp_path, item, 1)
        agenda.settle([paused])
        assert agenda.take(1) == [item]
        agenda.settle([Report(*item, Outcome.BROKEN, error=StoreError("away"))])
    assert files(tmp_path) == [f"{item[1]}-{paused.output}"]
    assert paused_tiles(Ledger(tmp_path / "image").entries()) == {item[1]: paused.output}


def test_as_many_workers_are_useful_as_the_work_at_hand_fills(tmp_path):
    def course():
        yield Chores([lambda: None] * 5)
        yield tiles(tmp_path)

    with agenda_of(course()) as agenda:
        assert agenda.useful(4) == 0
        agenda.admit(slots=4, workers=1)
        # Chores are done one by one, however many tiles a worker has room for.
        assert agenda.useful(4) == 3
        chores = [agenda.errand() for _ in range(5)]
        assert agenda.useful(4) == 3
        for errand in chores:
            agenda.did(errand, None)
        assert agenda.useful(4) == 1
        assert agenda.useful(1) == 1
        agenda.settle([done(item) for item in agenda.take(1)])
        assert agenda.useful(1) == 2


def test_images_interleave_where_one_could_not_fill_the_slots(tmp_path):
    def course(name):
        yield tiles(tmp_path, name)

    order = work(agenda_of(*(course(str(at)) for at in range(4))))
    assert len(order) == 4 * GRID.count
    changes = sum(one[0] != other[0] for one, other in pairwise(order))
    assert changes > len(order) / 4


def test_no_more_images_are_begun_than_the_slots_need(tmp_path):
    """Each course that begins is counted; with one slot a second image waits until the first leaves room."""
    begun = []

    def course(at):
        begun.append(at)
        yield tiles(tmp_path, str(at))

    agenda = agenda_of(*(course(at) for at in range(50)))
    agenda.admit(slots=4, workers=2)
    assert begun == list(range(8))
    agenda.admit(slots=4, workers=2)
    assert len(begun) == 8
    agenda.settle([done(item) for item in agenda.take(4)])
    agenda.admit(slots=4, workers=2)
    assert len(begun) == 8


def test_images_that_are_opened_do_not_pile_up():
    begun = []

    def course(at):
        begun.append(at)
        yield Chores([lambda: at])

    agenda = agenda_of(*(course(at) for at in range(50)))
    agenda.admit(slots=4, workers=2)
    assert len(begun) == 4


def test_courses_are_drawn_only_as_they_are_begun():
    drawn = []

    def feed():
        for at in range(100):
            drawn.append(at)
            yield course()

    def course():
        yield Chores([lambda: None])

    agenda = Agenda(feed(), Frontier(), unheard)
    agenda.admit(slots=1, workers=1)
    assert len(drawn) == 2


def test_an_error_of_a_chore_is_raised_in_its_course_alone(tmp_path):
    caught = []

    def broken():
        try:
            yield Chores([lambda: 1, lambda: 2])
        except InputError as error:
            caught.append(str(error))

    def whole():
        yield tiles(tmp_path)
        caught.append("whole")

    agenda = agenda_of(broken(), whole())
    agenda.admit(slots=4, workers=2)
    first = agenda.errand()
    second = agenda.errand()
    agenda.failed(first, InputError("not an image"))
    # What others still do of it comes to nothing.
    agenda.did(second, 2)
    work(agenda)
    assert caught == ["not an image", "whole"]


def test_a_broken_image_leaves_the_others_whole(tmp_path):
    ends = []

    def course(name):
        try:
            ends.append((name, (yield tiles(tmp_path, name)).done))
        except StoreError as error:
            ends.append((name, str(error)))

    agenda = agenda_of(course("a"), course("b"))
    agenda.admit(slots=9, workers=2)
    items = agenda.take(9)
    assert {image for image, _ in items} == {0, 1}
    reports = [
        Report(*item, Outcome.BROKEN, error=StoreError("the disk is gone")) if item[0] == 0 else done(item)
        for item in items
    ]
    agenda.settle(reports)
    assert ends == [("a", "the disk is gone")]
    assert agenda.ended == [0]
    # A worker that did not hear of it yet.
    agenda.settle([done((0, 1))])
    work(agenda)
    assert ends[1] == ("b", GRID.count)


def test_what_is_under_way_when_an_image_stops_is_committed_first(tmp_path):
    stops, heard = [], []

    def course():
        try:
            yield tiles(tmp_path)
        except TileFailed as error:
            stops.append(str(error))

    agenda = agenda_of(course(), retries=0, on_error=OnError.STOP, on_reports=heard.extend)
    agenda.admit(slots=4, workers=1)
    [corner] = agenda.take(9)
    agenda.settle([done(corner)])
    east, south = agenda.take(9)
    agenda.settle([Report(*east, Outcome.FAILED, reason="told to")])
    assert stops == []
    agenda.settle([done(south)])
    assert stops == ["image: level 0 row 0 column 1 failed 1 times, last: told to"]
    assert [entry.tile for entry in Ledger(tmp_path / "image").entries()] == [corner[1], south[1]]
    assert len(heard) == 3
    assert agenda.over or agenda.admit(slots=1, workers=1) is None
    assert agenda.over


def test_an_image_stops_also_where_what_is_under_way_comes_back(tmp_path):
    stops = []

    def course():
        try:
            yield tiles(tmp_path)
        except TileFailed as error:
            stops.append(str(error))

    agenda = agenda_of(course(), retries=0, on_error=OnError.STOP)
    agenda.admit(slots=4, workers=1)
    agenda.settle([done(item) for item in agenda.take(9)])
    east, south = agenda.take(9)
    agenda.settle([Report(*east, Outcome.FAILED, reason="told to")])
    agenda.return_tiles([south])
    assert len(stops) == 1


def test_degraded_tiles_are_told_to_those_that_would_take_their_pixels(tmp_path):
    agenda = agenda_of(course_of(tiles(tmp_path)), retries=0)
    agenda.admit(slots=4, workers=1)
    [corner] = agenda.take(9)
    agenda.settle([Report(*corner, Outcome.FAILED, reason="told to")])
    tickets = [agenda.ticket(item) for item in agenda.take(9)]
    assert [ticket.degraded for ticket in tickets] == [(corner[1],)] * 2
    [entry] = Ledger(tmp_path / "image").entries()
    assert (entry.status, entry.reason) == (Status.DEGRADED, "told to")


def test_a_ledger_that_another_run_took_over_ends_the_image(tmp_path):
    caught = []

    def course():
        try:
            yield tiles(tmp_path)
        except LedgerTaken:
            caught.append(True)

    agenda = agenda_of(course())
    agenda.admit(slots=4, workers=1)
    items = agenda.take(9)
    Ledger(tmp_path / "image").commit(facts={"another": True})
    agenda.settle([done(item) for item in items])
    assert caught == [True]


def test_what_a_course_lets_pass_ends_the_run_and_closes_the_others(tmp_path):
    closed = []

    def whole():
        try:
            yield tiles(tmp_path)
        finally:
            closed.append(True)

    def broken():
        yield Chores([lambda: 1 / 0])

    def run():
        with agenda_of(whole(), broken()) as agenda:
            agenda.admit(slots=9, workers=2)
            agenda.failed(agenda.errand(), InputError("no image"))

    with pytest.raises(InputError, match="no image"):
        run()
    assert closed == [True]


def test_a_course_that_cannot_be_closed_keeps_no_other_open(tmp_path):
    closed = []

    def course(at):
        try:
            yield tiles(tmp_path, str(at))
        finally:
            closed.append(at)
            if at == 1:
                raise StoreError("the store is gone")

    def run():
        with agenda_of(*map(course, range(3))) as agenda:
            agenda.admit(slots=50, workers=2)

    with pytest.raises(StoreError, match="the store is gone"):
        run()
    assert sorted(closed) == [0, 1, 2]


def test_a_chore_that_was_not_done_comes_again():
    found = []

    def course():
        found.extend((yield Chores([lambda: 1, lambda: 2])))

    agenda = agenda_of(course())
    agenda.admit(slots=1, workers=1)
    first = agenda.errand()
    agenda.give_back(first)
    assert agenda.backlog == 2
    assert agenda.errand() is first
    agenda.did(first, 1)
    agenda.did(agenda.errand(), 2)
    assert found == [1, 2]


def test_what_is_told_of_a_chore_may_end_its_image(tmp_path):
    caught = []

    def taken(found):
        raise LedgerTaken("another run took over")

    def course():
        try:
            yield Chores([lambda: 1, lambda: 2], told=taken)
        except LedgerTaken as error:
            caught.append(str(error))

    agenda = agenda_of(course())
    agenda.admit(slots=1, workers=1)
    agenda.did(agenda.errand(), 1)
    assert caught == ["another run took over"]
    assert agenda.errand() is None


class Circular(WeavePlan):
    """A plan whose every tile needs one more than there is."""

    def pending(self, done):
        return super().pending(done) + 1


def test_what_comes_too_late_is_counted_and_changes_nothing(tmp_path):
    heard = []
    agenda = Agenda([course_of(tiles(tmp_path))], Frontier(), heard.extend)
    agenda.admit(slots=4, workers=1)
    [first] = agenda.take(1)
    assert agenda.settle([done(first), done((7, 0)), done((8, 1))]) == 2
    assert heard == [done(first)]
    assert agenda.settle([]) == 0


def test_a_standstill_is_said(tmp_path):
    stuck = tiles(tmp_path)
    stuck.brief.plan.plan = Circular((GRID,))
    agenda = agenda_of(course_of(stuck), course_of(Chores([lambda: 1])))
    agenda.admit(slots=4, workers=1)
    agenda.refuse_standstill()
    agenda.did(agenda.errand(), 1)
    with pytest.raises(TileloomError, match="nothing can be done for image, and tiles are left"):
        agenda.refuse_standstill()


def course_of(step):
    yield step

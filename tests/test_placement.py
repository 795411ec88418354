"""Who holds which blocks, and what the driver commits of what it hears: by hand, without workers."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.looms import Book, lattice_of
from tileloom.cluster.agenda import Agenda, Chores
from tileloom.cluster.executor import unheard
from tileloom.cluster.loom import Moved, Over, Settled, Share, Woven
from tileloom.cluster.placement import Placement
from tileloom.cluster.weaving import Lockstep, Weaving
from tileloom.cluster.worker import Brief
from tileloom.tiling.errors import TileFailed
from tileloom.tiling.frontier import Frontier, TileState
from tileloom.tiling.lockstep import LockstepPlan
from tileloom.tiling.plan import WeavePlan

NINE = lattice_of(72, 72, 24)


def weaving_of(image=0, book=None, told=None, lattice=NINE):
    plan = SimpleNamespace(lattices=(lattice,), plan=WeavePlan((lattice.blocks,)))
    more = {} if told is None else {"told": told}
    return Weaving(image, Lockstep(Brief(plan, b""), 0, Book() if book is None else book, 2, **more))


class Post:
    """Holders by name, and what each was told."""

    def __init__(self):
        self.told = []
        self.placement = Placement(lambda holder, mail: self.told.append((holder, mail)), lambda holder: f"of {holder}")

    def fetch(self):
        told, self.told = self.told, []
        return told


def shares(told):
    return {holder: list(mail.blocks) for holder, mail in told if isinstance(mail, Share)}


def test_each_holder_gets_a_run_of_blocks_and_learns_who_has_the_others():
    post = Post()
    post.placement.place([weaving_of()], ["a", "b", "c"])
    told = post.fetch()
    assert shares(told) == {"a": [0, 1, 2], "b": [3, 4, 5], "c": [6, 7, 8]}
    for _, share in told:
        names = {share.peers[share.holders[block]] for block in (0, 4, 8)}
        assert names == {"of a", "of b", "of c"}
        assert (share.step, share.every, len(share.holders)) == (0, 2, 9)
    post.placement.place([weaving_of()], ["a", "b", "c"])
    assert post.fetch() == []
    assert post.placement.holders == {"a", "b", "c"}


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
def test_holders_have_as_many_blocks_as_each_other_also_after_a_loss(first, second, images):
    post = Post()
    names = [f"holder {n}" for n in range(first)]
    weavings = [weaving_of(image) for image in range(images + 1)]
    post.placement.place(weavings, names)
    post.placement.lost(names[0])
    names = [*names[1:], *(f"new {n}" for n in range(second))]
    post.placement.place(weavings, names)
    counts = dict.fromkeys(names, 0)
    for held in post.placement._held.values():
        assert sorted(held) == list(range(9))
        for holder in held.values():
            counts[holder] += 1
    before = -(-9 * (images + 1) // first)
    assert max(counts.values()) <= max(before, min(counts.values()) + 1)


def test_a_lost_holders_blocks_go_on_from_the_settled_step_and_the_others_learn_of_it():
    post, weaving = Post(), weaving_of()
    post.placement.place([weaving], ["a", "b", "c"])
    assert weaving.heard(Woven((0, 0), saved=[(block, 2) for block in range(9)]))
    post.fetch()
    post.placement.lost("b")
    assert post.fetch() == [("b", Over((0, 0)))]
    post.placement.place([weaving], ["a", "c", "d"])
    told = post.fetch()
    assert shares(told) == {"d": [3, 4, 5]}
    [share] = [mail for _, mail in told if isinstance(mail, Share)]
    assert share.step == 2
    moved = dict((holder, mail) for holder, mail in told if isinstance(mail, Moved))
    assert set(moved) == {"a", "c"}
    for mail in moved.values():
        assert {block: mail.peers[at] for block, at in mail.holders.items()} == dict.fromkeys((3, 4, 5), "of d")


def test_all_holders_hear_what_is_settled_and_what_is_over():
    post, weaving = Post(), weaving_of()
    post.placement.place([weaving], ["a", "b"])
    post.fetch()
    weaving.step = 4
    post.placement.settled(weaving)
    assert sorted(post.fetch()) == [("a", Settled((0, 0), 4)), ("b", Settled((0, 0), 4))]
    post.placement.place([], [])
    assert sorted(post.fetch()) == [("a", Over((0, 0))), ("b", Over((0, 0)))]
    assert post.placement.holders == set()


def test_a_step_is_settled_once_all_blocks_have_saved_it():
    book = Book()
    weaving = weaving_of(book=book)
    assert not weaving.heard(Woven((0, 0), saved=[(block, 2) for block in range(8)]))
    assert not weaving.heard(Woven((0, 0), saved=[(0, 4), (3, 2)]))
    assert (weaving.step, book.facts) == (0, {})
    assert weaving.heard(Woven((0, 0), saved=[(8, 2)]))
    assert (weaving.step, book.facts) == (2, {"woven level 0": 2})
    assert weaving_of(book=book).step == 2


def test_a_block_with_a_new_holder_has_to_save_again_before_a_later_step_is_settled():
    weaving = weaving_of()
    weaving.heard(Woven((0, 0), saved=[(block, 2) for block in range(9)] + [(4, 4)]))
    weaving.begin_again([4])
    assert not weaving.heard(Woven((0, 0), saved=[(block, 4) for block in range(9) if block != 4]))
    assert weaving.step == 2
    assert weaving.heard(Woven((0, 0), saved=[(4, 4)]))
    assert weaving.step == 4


def test_a_block_is_finished_once_however_often_that_is_told():
    book = Book()
    weaving = weaving_of(book=book)
    weaving.heard(Woven((0, 0), finished=[(0, "x"), (5, "y")], calls=3, sent=10))
    weaving.heard(Woven((0, 0), finished=[(5, "y"), (6, "z")], calls=4, sent=20))
    assert [(entry.tile, entry.output) for entry in book.entries] == [(0, "x"), (5, "y"), (6, "z")]
    assert weaving.left == {1, 2, 3, 4, 7, 8}
    assert (weaving.report.done, weaving.report.calls, weaving.report.sent) == (3, 7, 30)


def test_every_step_of_every_block_is_told_of_once():
    told = []
    weaving = weaving_of(told=told.append)
    weaving.heard(Woven((0, 0), reached={0: 1, 1: 2}))
    weaving.heard(Woven((0, 0), reached={0: 3, 1: 1}))
    assert told == [0, 3, 2]
    book = Book()
    book.facts["woven level 0"] = 6
    weaving_of(book=book, told=told.append)
    assert told[-1] == 6 * 9


def test_an_error_is_raised_as_it_was():
    with pytest.raises(TileFailed, match="of a block"):
        weaving_of().heard(Woven((0, 0), error=TileFailed("of a block")))


def test_what_another_frontier_does_is_never_handed_out_and_frees_its_neighbours_once():
    """Two blocks side by side, of which the second is away."""
    plan = LockstepPlan(1, 2, steps=2)
    state = np.array([[TileState.TODO, TileState.AWAY]] * 3, np.uint8).ravel()
    frontier = Frontier()
    frontier.add("level", plan, state=state)
    done = []
    for away in (1, 3, 5):
        items = frontier.take(9)
        done += [tile for _, tile in items]
        frontier.done(items)
        assert frontier.take(9) == []
        frontier.arrived((0, away))
        frontier.arrived((0, away))
    assert done == [0, 2, 4]
    assert frontier.finished(0)


def test_what_arrives_early_counts_when_its_time_has_come():
    plan = LockstepPlan(1, 2, steps=2)
    state = np.array([[TileState.TODO, TileState.AWAY]] * 3, np.uint8).ravel()
    frontier = Frontier()
    frontier.add("level", plan, state=state)
    frontier.arrived((0, 3))
    assert frontier.take(9) == [(0, 0)]
    frontier.done([(0, 0)])
    assert frontier.take(9) == []
    frontier.arrived((0, 1))
    assert frontier.take(9) == [(0, 2)]


# --- the agenda ---


def agenda_of(*courses):
    return Agenda(courses, Frontier(), unheard)


def test_a_course_is_resumed_with_what_its_level_came_to():
    found = []

    def course():
        found.append((yield weaving_of().task))

    with agenda_of(course()) as agenda:
        agenda.admit(slots=4, workers=1)
        [weaving] = agenda.weavings
        assert agenda.useful(4) == 9
        agenda.refuse_standstill()
        saved = [(block, 2) for block in range(9)]
        assert agenda.woven([Woven((0, 0), saved=saved, calls=5)]) == [weaving]
        assert agenda.woven([Woven((0, 0), finished=[(block, "x") for block in range(8)])]) == []
        assert agenda.useful(4) == 1
        assert not found
        agenda.woven([Woven((0, 0), finished=[(8, "x")], sent=7)])
        agenda.admit(slots=4, workers=1)
        assert agenda.over
        # What comes too late, of a level or of an image that is over, is nobody's.
        assert agenda.woven([Woven((0, 0), finished=[(8, "x")]), Woven((3, 0), saved=[(0, 2)])]) == []
    [report] = found
    assert (report.done, report.calls, report.sent) == (9, 5, 7)


def test_what_goes_wrong_with_a_level_is_raised_in_its_course_alone():
    seen = []

    def failing():
        try:
            yield weaving_of().task
        except TileFailed as error:
            seen.append(str(error))

    def other():
        seen.append((yield Chores([lambda: "chore"])))

    with agenda_of(failing(), other()) as agenda:
        agenda.admit(slots=20, workers=5)
        agenda.woven([Woven((0, 0), error=TileFailed("struck"))])
        assert seen == ["struck"]
        assert agenda.weavings == []
        errand = agenda.errand()
        agenda.did(errand, errand.task())
        assert agenda.over
    assert seen == ["struck", ["chore"]]

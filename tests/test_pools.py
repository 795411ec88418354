"""Tiles and chores that only some workers may do: those of the pool that their image is bound to."""

from functools import partial

from tests.test_agenda import agenda_of, done, tiles
from tests.test_frontier import NINE, todo
from tileloom.cluster.agenda import Berth, Chores, ClassGone
from tileloom.tiling.frontier import Frontier


def test_tiles_are_handed_out_to_their_own_pool_alone():
    frontier = Frontier()
    for pool in ("even", "odd", "odd"):
        frontier.add(pool, NINE, state=todo(NINE), pool=pool)
    assert frontier.take(9) == []
    assert (frontier.ready, frontier.load("even"), frontier.load("odd"), frontier.load(None)) == (3, 1, 2, 0)
    assert frontier.take(9, pool="even") == [(0, 0)]
    assert frontier.take(1, pool="odd") == [(1, 0)]
    assert (frontier.ready, frontier.load("even"), frontier.load("odd")) == (1, 1, 2)
    frontier.done([(0, 0)])
    assert frontier.load("even") == 2
    frontier.failed((1, 0), "told to")
    assert frontier.load("odd") == 2
    assert frontier.take(9, pool="odd") == [(1, 0), (2, 0)]
    frontier.drop(1)
    assert frontier.load("odd") == 1
    assert frontier.done([(1, 0)]) is False
    assert frontier.load("odd") == 1
    assert frontier.why()[0] == "2 tiles ready and waiting for a worker"


def bound(tmp_path, name):
    """A course that asks for workers, then for chores of theirs, its tiles, and a chore that is anybody's."""
    while True:
        work = yield Berth()
        try:
            yield Chores([partial(str, work)])
            yield tiles(tmp_path, f"{name} {work}")
            break
        except ClassGone:
            continue
    yield Chores([lambda: "anybody"], anywhere=True)


def test_what_an_image_asks_for_is_only_for_those_it_is_bound_to(tmp_path):
    with agenda_of(bound(tmp_path, "a"), bound(tmp_path, "b")) as agenda:
        agenda.stock(2)
        assert list(agenda.waiting) == [0, 1]
        agenda.refuse_standstill()
        agenda.bind(0, "even", "even")
        agenda.bind(1, "odd", "odd")
        assert agenda.bound == {"even": 1, "odd": 1}
        assert agenda.load("even") == (0, 1)
        for pool in ("even", "odd"):
            errand = agenda.errand(pool)
            assert agenda.errand(pool) is None
            assert errand.task() == pool
            assert [agenda.may(other, errand) for other in ("even", "odd")] == [pool == "even", pool == "odd"]
            agenda.give_back(errand)
            agenda.did(agenda.errand(pool), None)
        assert agenda.take(9) == []
        [even] = agenda.take(9, "even")
        assert even[0] == 0
        assert agenda.may("even", even)
        assert not agenda.may("odd", even)
        assert agenda.load("even") == (1, 0)
        assert agenda.useful(1, "odd") == 1
        agenda.settle([done(even)])
        while items := [*agenda.take(9, "even"), *agenda.take(9, "odd")]:
            agenda.settle([done(item) for item in items])
        last = [agenda.errand("odd"), agenda.errand("odd")]
        assert [errand.task() for errand in last] == ["anybody", "anybody"]


def test_images_whose_workers_are_gone_are_bound_anew(tmp_path):
    with agenda_of(bound(tmp_path, "a"), bound(tmp_path, "b"), bound(tmp_path, "c")) as agenda:
        agenda.stock(3)
        for image, pool in enumerate(["odd", "even", "odd"]):
            agenda.bind(image, pool, pool)
        agenda.did(agenda.errand("odd"), None)
        [lost] = agenda.take(9, "odd")
        agenda.return_tiles([lost])
        agenda.release("odd")
        assert agenda.bound == {"even": 1}
        assert list(agenda.waiting) == [0, 2]
        assert agenda.ended == [0, 2]
        assert agenda.errand("odd") is None
        assert agenda.take(9, "odd") == []
        # What their workers still had done of it comes to nothing.
        assert agenda.settle([done(lost)]) == 1
        agenda.bind(0, "even", "even")
        assert agenda.errand("even").image == 1
        assert agenda.errand("even").image == 0


def test_what_anybody_may_do_waits_for_no_workers(tmp_path):
    def course():
        yield Berth()
        yield Chores([lambda: 1], anywhere=True)

    with agenda_of(course()) as agenda:
        agenda.stock(1)
        agenda.bind(0, None, "odd")
        assert agenda.bound == {}
        agenda.release("odd")
        agenda.did(agenda.errand("even"), 1)
        assert agenda.ended == [0]


def test_courses_are_begun_until_so_many_have_no_workers(tmp_path):
    with agenda_of(*(bound(tmp_path, str(at)) for at in range(9))) as agenda:
        agenda.stock(3)
        assert list(agenda.waiting) == [0, 1, 2]
        agenda.bind(1, "odd", "odd")
        agenda.stock(3)
        assert list(agenda.waiting) == [0, 2, 3]

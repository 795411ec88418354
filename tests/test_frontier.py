"""The frontier by hand, without workers; and against every legal order of random plans and masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileloom.tiling.errors import InputError
from tileloom.tiling.frontier import (
    Counts,
    Frontier,
    OnError,
    TileState,
    Verdict,
    critical_path_first,
    oldest_image_first,
)
from tileloom.tiling.grid import Grid
from tileloom.tiling.lockstep import LockstepPlan
from tileloom.tiling.plan import WeavePlan

TODO, RELAY, BORN, DONE, DEGRADED, AWAY = TileState
FINISHED = {BORN, DONE, DEGRADED}
RELAXED = settings(deadline=None, max_examples=150)


def woven(rows, cols, tile=16, stride=12, guard=2):
    """An MSR plan of rows x cols tiles."""
    return WeavePlan((Grid(tile + (rows - 1) * stride, tile + (cols - 1) * stride, tile, stride, guard, 2),))


def todo(plan):
    return np.zeros(plan.count, np.uint8)


def queue(plan, state=None, **options):
    frontier = Frontier(**options)
    frontier.add("scene", plan, state=todo(plan) if state is None else np.array(state, np.uint8))
    return frontier


def drain(frontier, n=1):
    """Every tile in the order it is handed out, each finished before the next."""
    order = []
    while items := frontier.take(n):
        order += items
        frontier.done(items)
    return order


# A 3x3 plan's tiles:  0 1 2
#                      3 4 5
#                      6 7 8
NINE = woven(3, 3)


def test_only_tiles_whose_needs_are_done_are_handed_out():
    frontier = queue(NINE)
    assert frontier.take(9) == [(0, 0)]
    assert frontier.take(9) == []
    assert frontier.idle
    assert frontier.done([(0, 0)]) is True
    assert frontier.take(9) == [(0, 1), (0, 3)]
    frontier.done([(0, 3)])
    assert frontier.take(9) == [(0, 6)]
    frontier.done([(0, 1), (0, 6)])
    assert frontier.take(9) == [(0, 2), (0, 4)]


def test_take_hands_out_no_more_than_asked():
    frontier = queue(woven(1, 1))
    assert frontier.take(0) == []
    assert not frontier.idle
    assert frontier.take(1) == [(0, 0)]


def test_an_image_ends_when_its_last_tile_is_done():
    frontier = queue(NINE)
    order = drain(frontier, 3)
    assert sorted(order) == [(0, tile) for tile in range(9)]
    assert frontier.finished(0)
    assert frontier.idle
    assert frontier.counts(0) == Counts(waiting=0, ready=0, leased=0, born=0, done=9, degraded=0)
    assert frontier.why() == []


def test_counts_add_up_all_the_way():
    frontier = queue(NINE, [BORN, TODO, TODO, RELAY, TODO, DEGRADED, TODO, TODO, DONE], retries=0)
    assert frontier.counts(0) == Counts(waiting=3, ready=2, leased=0, born=1, done=2, degraded=1)
    [item] = frontier.take(1, "w0")
    assert frontier.counts(0) == Counts(waiting=3, ready=1, leased=1, born=1, done=2, degraded=1)
    assert (frontier.ready, frontier.leased) == (1, 1)
    frontier.failed(item, "nan")
    assert frontier.counts(0) == Counts(waiting=1, ready=3, leased=0, born=1, done=2, degraded=2)


@pytest.mark.parametrize("report", ["done", "failed", "give_back"])
def test_reports_on_a_tile_that_is_not_leased_are_refused(report):
    frontier = queue(NINE)
    say = {
        "done": lambda: frontier.done([(0, 0)]),
        "failed": lambda: frontier.failed((0, 0), "why"),
        "give_back": lambda: frontier.give_back([(0, 0)]),
    }[report]
    with pytest.raises(ValueError, match="scene: level 0 row 0 column 0 is not leased"):
        say()
    frontier.take(1)
    frontier.done([(0, 0)])
    with pytest.raises(ValueError, match="not leased"):
        say()
    assert frontier.take(9) == [(0, 1), (0, 3)]


def test_a_failed_tile_is_tried_again_up_to_its_cap_then_degraded_and_its_dependants_go_on():
    frontier = queue(NINE, retries=2)
    for _ in range(2):
        [item] = frontier.take(1)
        assert frontier.failed(item, "raised") is Verdict.RETRY
        assert not frontier.idle
    assert frontier.failed(frontier.take(1)[0], "raised again") is Verdict.DEGRADED
    assert frontier.degraded(0) == {0: "raised again"}
    assert [tile for _, tile in drain(frontier)] == [1, 3, 2, 4, 6, 5, 7, 8]
    assert frontier.finished(0)
    assert frontier.counts(0).degraded == 1


def test_each_tile_has_tries_of_its_own():
    frontier = queue(NINE, retries=1)
    frontier.done(frontier.take(1))
    one, three = frontier.take(2)
    assert frontier.failed(one, "x") is frontier.failed(three, "x") is Verdict.RETRY
    one, three = frontier.take(2)
    frontier.done([one])
    assert frontier.failed(three, "y") is Verdict.DEGRADED


def test_without_retries_the_first_failure_is_the_last():
    frontier = queue(NINE, retries=0)
    assert frontier.failed(frontier.take(1)[0], "x") is Verdict.DEGRADED
    with pytest.raises(InputError, match="retries is -1"):
        Frontier(retries=-1)


def test_on_error_stop_hands_out_nothing_more_of_that_image_alone():
    frontier = Frontier(retries=0, on_error=OnError.STOP)
    first = frontier.add("first", NINE, state=todo(NINE))
    second = frontier.add("second", NINE, state=todo(NINE))
    frontier.done(frontier.take(2))
    held, failing = (first, 1), (first, 3)
    assert frontier.take(2) == [held, failing]
    assert frontier.failed(failing, "it is NaN") is Verdict.STOPPED
    assert frontier.stopped(first) == "first: level 0 row 1 column 0 failed 1 times, last: it is NaN"
    assert frontier.stopped(second) is None
    assert frontier.done([held]) is True
    assert frontier.counts(first).done == 2
    assert {image for image, _ in drain(frontier)} == {second}
    assert frontier.finished(second)
    assert not frontier.finished(first)
    assert frontier.why() == [f"first: 7 tiles left where it was stopped: {frontier.stopped(first)}"]


def test_a_stopped_image_takes_leases_back_without_queueing_them():
    frontier = queue(NINE, retries=0, on_error=OnError.STOP)
    frontier.done(frontier.take(1))
    one, three = frontier.take(2, "w0")
    frontier.failed(one, "x")
    assert frontier.release("w0") == [three]
    assert frontier.idle
    assert frontier.leased == 0


def test_a_ready_tile_of_a_stopped_image_is_not_handed_out():
    frontier = queue(NINE, retries=0, on_error=OnError.STOP)
    frontier.done(frontier.take(1))
    [one] = frontier.take(1)
    assert frontier.ready == 1
    assert frontier.failed(one, "x") is Verdict.STOPPED
    assert frontier.take(9) == []


def test_another_failure_of_a_stopped_image_does_not_change_why_it_stopped():
    frontier = queue(NINE, retries=0, on_error=OnError.STOP)
    frontier.done(frontier.take(1))
    one, three = frontier.take(2)
    frontier.failed(one, "first")
    assert frontier.failed(three, "second") is Verdict.STOPPED
    assert frontier.stopped(0).endswith("last: first")


def test_a_lost_holder_gives_back_all_it_held_and_uses_up_no_try():
    frontier = queue(NINE, retries=0)
    frontier.done(frontier.take(1, "w0"))
    [one], [three] = frontier.take(1, "w0"), frontier.take(1, "w1")
    for _ in range(5):
        assert frontier.release("w0") == [one]
        assert frontier.release("w0") == []
        assert frontier.take(9, "w0") == [one]
    frontier.done([three, one])
    assert len(drain(frontier)) == 6
    assert frontier.degraded(0) == {}


def test_a_tile_given_back_is_handed_out_again():
    frontier = queue(NINE)
    items = frontier.take(1, "w0")
    frontier.give_back(items)
    assert frontier.release("w0") == []
    assert frontier.take(9) == items
    assert frontier.leased == 1


def test_critical_path_first_prefers_the_longest_chain_of_any_image():
    frontier = Frontier(policy=critical_path_first)
    small = frontier.add("small", woven(2, 2), state=todo(woven(2, 2)))
    large = frontier.add("large", woven(4, 4), state=todo(woven(4, 4)))
    order = drain(frontier)
    assert [image for image, _ in order[:10]] == [large] * 10
    assert (small, 0) in order[10:14]


def test_oldest_image_first_finishes_images_one_after_the_other():
    frontier = Frontier(policy=oldest_image_first)
    frontier.add("old", woven(2, 2), state=todo(woven(2, 2)))
    frontier.add("new", woven(5, 5), state=todo(woven(5, 5)))
    images = [image for image, _ in drain(frontier)]
    assert images == [0] * 4 + [1] * 25


def test_any_function_of_image_rank_and_tile_may_order_the_queue():
    def last_tile_first(order, rank, tile):
        return -tile

    frontier = queue(NINE, policy=last_tile_first)
    assert [tile for _, tile in drain(frontier)] == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_images_may_join_while_others_run():
    frontier = queue(NINE)
    frontier.done(frontier.take(1))
    late = frontier.add("late", woven(1, 1), state=todo(woven(1, 1)))
    assert {image for image, _ in drain(frontier)} == {0, late}
    assert frontier.finished(0)
    assert frontier.finished(late)


def test_a_dropped_image_is_never_handed_out_again_and_late_reports_on_it_are_ignored():
    frontier = Frontier()
    gone = frontier.add("gone", NINE, state=todo(NINE))
    kept = frontier.add("kept", NINE, state=todo(NINE))
    both = frontier.take(2, "w0")
    frontier.drop(gone)
    assert frontier.done([both[0]]) is False
    assert frontier.failed(both[0], "late") is Verdict.STOPPED
    frontier.give_back([both[0]])
    assert frontier.done(both) is False
    assert {image for image, _ in drain(frontier)} == {kept}
    assert frontier.finished(kept)
    assert frontier.why() == []
    for ask in (frontier.finished, frontier.counts, frontier.degraded, frontier.stopped, frontier.drop):
        with pytest.raises(ValueError, match="holds no image 0"):
            ask(gone)


def test_dropping_an_image_forgets_its_ready_tiles_and_leases():
    frontier = queue(NINE)
    frontier.done(frontier.take(1))
    frontier.take(1, "w0")
    frontier.drop(0)
    assert (frontier.ready, frontier.leased) == (0, 0)
    assert frontier.release("w0") == []


def test_handles_are_never_reused():
    frontier = queue(NINE)
    frontier.drop(0)
    assert frontier.add("next", NINE, state=todo(NINE)) == 1
    with pytest.raises(ValueError, match="no image 2"):
        frontier.finished(2)


def test_an_image_that_was_finished_before_is_finished_at_once():
    frontier = queue(NINE, [BORN, DONE, DEGRADED] * 3)
    assert frontier.finished(0)
    assert frontier.idle
    assert frontier.degraded(0) == {2: "", 5: "", 8: ""}


def test_a_resumed_image_goes_on_where_it_was():
    frontier = queue(NINE, [DONE, DONE, TODO, DONE, DEGRADED, TODO, TODO, TODO, TODO])
    assert frontier.take(9) == [(0, 2), (0, 6)]


def test_a_relay_passes_on_only_once_its_needs_are_done():
    state = [TODO, RELAY, TODO, RELAY, TODO, TODO, TODO, TODO, TODO]
    frontier = queue(NINE, state)
    assert frontier.take(9) == [(0, 0)]
    assert frontier.state(0)[1] == RELAY
    frontier.done([(0, 0)])
    assert frontier.state(0)[[1, 3]].tolist() == [DONE, DONE]
    assert frontier.take(9) == [(0, 2), (0, 4), (0, 6)]


def test_a_relay_between_two_needs_waits_for_both():
    frontier = queue(NINE, [BORN, TODO, BORN, TODO, RELAY, TODO, BORN, BORN, BORN])
    frontier.take(2)
    frontier.done([(0, 1)])
    assert frontier.idle
    frontier.done([(0, 3)])
    assert frontier.take(9) == [(0, 5)]


def test_relays_without_needs_pass_on_at_once():
    frontier = queue(NINE, [RELAY, RELAY, TODO, RELAY, RELAY, RELAY, BORN, RELAY, RELAY])
    assert frontier.take(9) == [(0, 2)]
    assert not frontier.finished(0)
    frontier.done([(0, 2)])
    assert frontier.finished(0)
    assert set(frontier.state(0).tolist()) == {BORN, DONE}


def test_cascades_of_relays_are_not_bounded_by_the_stack():
    plan = woven(1, 50_000)
    state = np.full(plan.count, RELAY, np.uint8)
    state[[0, -1]] = TODO
    frontier = queue(plan, state)
    assert drain(frontier) == [(0, 0), (0, plan.count - 1)]
    assert frontier.finished(0)


def test_a_degraded_tile_frees_relays_as_a_finished_one_does():
    frontier = queue(NINE, [TODO, RELAY, TODO, BORN, BORN, BORN, BORN, BORN, BORN], retries=0)
    frontier.failed(frontier.take(1)[0], "x")
    assert frontier.take(9) == [(0, 2)]


def test_why_names_what_is_waited_for():
    frontier = queue(NINE)
    assert frontier.why() == [
        "1 tile ready and waiting for a worker",
        "scene: 8 tiles waiting for level 0 row 0 column 0 (not yet handed out)",
    ]
    frontier.done(frontier.take(1))
    frontier.take(1, "w0")
    frontier.take(1)
    assert frontier.why() == ["scene: 6 tiles waiting for level 0 row 0 column 1 (leased by w0) and 1 more"]
    frontier.release("w0")
    assert frontier.why()[0] == "1 tile ready and waiting for a worker"


def test_what_is_left_of_all_images_and_what_they_are_called():
    frontier, plan = Frontier(), WeavePlan((Grid(40, 40, 16, 12, 2),))
    for number, name in ((3, "first"), (5, "second")):
        frontier.add(name, plan, state=np.zeros(plan.count, np.uint8), number=number)
    assert frontier.left == 2 * plan.count
    frontier.done(frontier.take(1))
    assert frontier.left == 2 * plan.count - 1
    assert (frontier.name(5), frontier.plan(5)) == ("second", plan)
    frontier.drop(3)
    assert frontier.left in (plan.count, plan.count - 1)


def test_why_speaks_of_plans_whose_tiles_have_no_names():
    plan = LockstepPlan(1, 2, steps=2)
    frontier = queue(plan)
    frontier.take(2)
    assert frontier.why() == ["scene: 4 tiles waiting for tile 0 (leased) and 1 more"]


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (np.zeros(8, np.uint8), r"scene: states of shape \(8,\) .* a plan of 9 tiles"),
        (np.zeros(9, np.int64), "scene: states .* type int64 .*; give one uint8 a tile"),
        (np.full(9, 7, np.uint8), "scene: 7 is no tile state"),
    ],
)
def test_states_that_do_not_fit_the_plan_are_refused(state, sentence):
    with pytest.raises(InputError, match=sentence):
        Frontier().add("scene", NINE, state=state)


def test_the_given_states_are_copied():
    state = todo(NINE)
    frontier = queue(NINE, state)
    state[:] = DONE
    assert frontier.take(9) == [(0, 0)]
    drain(frontier)
    copy = frontier.state(0)
    assert not np.shares_memory(copy, frontier.state(0))


@st.composite
def masked_plans(draw):
    """A plan of 1 to 3 levels and, for each, which padded pixels are wanted: a few random rectangles."""
    size = draw(st.integers(4, 60)), draw(st.integers(4, 60))
    levels, wanted = [], []
    for _ in range(draw(st.integers(1, 3))):
        tile = draw(st.integers(3, 6))
        guard = draw(st.integers(0, tile - 2))
        stride = draw(st.integers(1, tile - 1 - guard))
        if draw(st.integers(0, 4)) == 0:
            stride, guard = tile, 0
        grid = Grid(*size, 2 * tile, 2 * stride, 2 * guard, 2)
        mask = np.zeros(grid.box.shape, bool)
        for _ in range(draw(st.integers(0, 3))):
            top, left = draw(st.integers(0, grid.box.bottom - 1)), draw(st.integers(0, grid.box.right - 1))
            mask[top : top + draw(st.integers(1, 20)), left : left + draw(st.integers(1, 20))] = True
        levels.append(grid)
        wanted.append(mask)
        size = grid.rows.length // 2, grid.cols.length // 2
    return WeavePlan(tuple(levels)), wanted


def surveyed(plan, wanted):
    """The state of each tile: to do if it owns a wanted pixel, a relay if it only keeps some."""
    state = todo(plan)
    for tile in plan:
        level, row, col = plan.key(tile)
        if not wanted[level][plan.owns(tile).slices].any():
            keeps = wanted[level][plan.levels[level].keeps(row, col).slices].any()
            state[tile] = RELAY if keeps else BORN
    return state


def owners_of_wanted_reads(plan, wanted, tile):
    """The tiles that own a wanted pixel of what this one reads."""
    level, row, col = plan.key(tile)
    grid = plan.levels[level]
    strips = [(level, strip) for strip in grid.context(row, col)]
    if level + 1 < len(plan.levels):
        strips.append((level + 1, plan.sees(tile).coarsen(plan.factor)))
    for at, strip in strips:
        base = plan.tiles(at)[0]
        for r, c in plan.levels[at].owners(strip):
            owner = base + r * plan.levels[at].cols.count + c
            if wanted[at][plan.owns(owner).intersect(strip).slices].any():
                yield owner


@RELAXED
@given(masked_plans(), st.randoms(use_true_random=False), st.booleans())
def test_in_any_legal_order_every_wanted_pixel_a_tile_reads_is_committed(case, random, failing):
    plan, wanted = case
    state = surveyed(plan, wanted)
    frontier = Frontier(policy=lambda order, rank, tile: random.getrandbits(20), retries=0)
    frontier.add("scene", plan, state=state)
    leased, handed_out = [], set()
    while True:
        items = frontier.take(random.randint(0, 3))
        now = frontier.state(0)
        for item in items:
            assert state[item[1]] == TODO
            assert item not in handed_out
            assert {int(now[owner]) for owner in owners_of_wanted_reads(plan, wanted, item[1])} <= {DONE, DEGRADED}
            assert {int(now[need]) for need in plan.needs(item[1])} <= FINISHED
        handed_out.update(items)
        leased += items
        if not leased and frontier.idle:
            break
        random.shuffle(leased)
        cut = random.randint(0, len(leased))
        ended, leased = leased[:cut], leased[cut:]
        if ended and failing:
            assert frontier.failed(ended.pop(), "by chance") is Verdict.DEGRADED
        frontier.done(ended)
    assert frontier.finished(0)
    assert handed_out == {(0, int(tile)) for tile in np.flatnonzero(state == TODO)}


@RELAXED
@given(masked_plans(), masked_plans(), st.randoms(use_true_random=False))
def test_images_in_one_queue_do_not_disturb_each_other(one, two, random):
    frontier = Frontier(policy=lambda order, rank, tile: random.getrandbits(20))
    states = [surveyed(*one), surveyed(*two)]
    for (plan, _), state in zip((one, two), states, strict=True):
        frontier.add("scene", plan, state=state)
    order = drain(frontier, 4)
    assert len(order) == len(set(order))
    for image, state in enumerate(states):
        assert frontier.finished(image)
        assert {tile for at, tile in order if at == image} == set(np.flatnonzero(state == TODO).tolist())


@RELAXED
@given(masked_plans(), st.randoms(use_true_random=False))
def test_a_run_stopped_anywhere_and_resumed_hands_out_just_what_is_left(case, random):
    plan, wanted = case
    state = surveyed(plan, wanted)
    first = queue(plan, state)
    done = set()
    while (items := first.take(2)) and random.random() < 0.8:
        first.done(items)
        done.update(items)
    second = queue(plan, first.state(0))
    rest = drain(second)
    assert done.isdisjoint(rest)
    assert {tile for _, tile in done | set(rest)} == set(np.flatnonzero(state == TODO).tolist())

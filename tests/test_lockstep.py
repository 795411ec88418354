"""Lock-step plans against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileloom.tiling.frontier import Frontier
from tileloom.tiling.lockstep import LockstepPlan

RELAXED = settings(deadline=None, max_examples=100)
small = st.builds(LockstepPlan, st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))


def needs_by_hand(plan, node):
    at, block = plan.locate(node)
    row, col = divmod(block, plan.cols)
    return {
        plan.node(at - 1, r * plan.cols + c)
        for r in range(plan.rows)
        for c in range(plan.cols)
        if at and max(abs(r - row), abs(c - col)) <= 1
    }


@RELAXED
@given(small)
def test_nodes_are_numbered_by_round_and_block(plan):
    names = [plan.locate(node) for node in range(plan.count)]
    assert names == sorted(set(names))
    assert names[-1] == (plan.steps * plan.phases, plan.rows * plan.cols - 1)
    assert [plan.node(*name) for name in names] == list(range(plan.count))


@RELAXED
@given(small)
def test_a_block_needs_itself_and_its_neighbours_one_phase_before(plan):
    feeds = {node: set() for node in range(plan.count)}
    for node in range(plan.count):
        needs = plan.needs(node)
        assert len(needs) == len(set(needs)) <= 9
        assert set(needs) == needs_by_hand(plan, node)
        for need in needs:
            feeds[need].add(node)
    assert {node: set(plan.feeds(node)) for node in feeds} == feeds


@RELAXED
@given(small)
def test_rank_and_critical_path_are_those_of_the_longest_paths(plan):
    rank = dict.fromkeys(range(plan.count), 0)
    for node in reversed(range(plan.count)):
        for need in plan.needs(node):
            rank[need] = max(rank[need], rank[node] + 1)
    assert {node: plan.rank(node) for node in rank} == rank
    assert plan.critical_path == max(rank.values()) + 1 == 1 + plan.steps * plan.phases


@RELAXED
@given(small, st.floats(0, 1), st.integers(0, 9))
def test_pending_counts_the_needs_that_are_not_done(plan, share, seed):
    done = np.random.default_rng(seed).random(plan.count) < share
    expected = [sum(not done[need] for need in plan.needs(node)) for node in range(plan.count)]
    pending = plan.pending(done)
    assert pending.dtype == np.uint8
    assert pending.tolist() == expected


@pytest.mark.parametrize("phases", [1, 2])
def test_neighbours_differ_by_at_most_one_phase(phases):
    plan = LockstepPlan(4, 5, steps=3, phases=phases)
    random = np.random.default_rng(phases)
    frontier = Frontier(policy=lambda order, rank, node: int(random.integers(1 << 20)))
    frontier.add("blocks", plan, state=np.zeros(plan.count, np.uint8))
    reached = np.zeros((plan.rows, plan.cols), int)
    while items := frontier.take(1):
        at, block = plan.locate(items[0][1])
        row, col = divmod(block, plan.cols)
        assert reached[row, col] == at
        reached[row, col] += 1
        assert np.abs(np.diff(reached, axis=0)).max() <= 1
        assert np.abs(np.diff(reached, axis=1)).max() <= 1
        frontier.done(items)
    assert np.all(reached == plan.rounds)

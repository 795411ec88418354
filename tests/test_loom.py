"""Blocks in lock-step over several looms: the bytes of one, whatever comes late or twice and whoever is lost."""

from itertools import product

import numpy as np
import pytest

from tests.looms import BLOCKS, Adder, Cluster, Disk, Losses, expected, lattice_of, whole_of

PARTITIONS = 12


def disk_of(block=24, bands=1, size=(70, 61), **more):
    lattice = lattice_of(*size, block)
    return Disk(lattice, whole_of(lattice, bands, **more))


def assert_right(cluster):
    for disk, book in zip(cluster.disks, cluster.books, strict=True):
        np.testing.assert_array_equal(disk.result, expected(disk.whole, cluster.work.steps, cluster.work.phases))
        assert sorted(entry.tile for entry in book.entries) == list(range(disk.lattice.count))


@pytest.mark.parametrize("phases", [1, 2])
@pytest.mark.parametrize("looms", [1, 2, 4])
@pytest.mark.parametrize("block", BLOCKS)
def test_any_partition_in_any_order_gives_the_bytes_of_the_whole(block, looms, phases):
    for seed in range(PARTITIONS):
        cluster = Cluster(Adder(phases=phases), [disk_of(block)], looms=looms, seed=seed).run()
        assert_right(cluster)
        assert cluster.redone == {}


def assert_only_the_lost_are_redone(cluster):
    """At most 2 * every steps of each loss, and the reading of what was saved."""
    most = 2 * cluster.every * cluster.work.phases + 1
    losses = {at: sum(at in held for held in cluster.lost) for at in set().union(*cluster.lost)}
    assert set(cluster.redone) <= set(losses)
    assert all(0 < more <= losses[at] * most for at, more in cluster.redone.items())


@pytest.mark.parametrize(("every", "phases"), list(product([1, 2, 3], [1, 2])))
@pytest.mark.parametrize("hire", [0, 1])
def test_a_holder_lost_at_any_round_costs_only_its_own_blocks_last_steps(hire, every, phases):
    work = Adder(steps=9, phases=phases)
    for seed in range(8):
        cluster = Cluster(work, [disk_of()], looms=3, seed=seed, every=every)
        cluster.run(Losses(cluster.moment(), hire=hire))
        assert_right(cluster)
        assert len(cluster.lost) == 1
        assert_only_the_lost_are_redone(cluster)


@pytest.mark.parametrize("hire", [0, 1, 2])
def test_two_holders_lost_at_once(hire):
    for seed in range(12):
        cluster = Cluster(Adder(steps=9), [disk_of()], looms=4, seed=seed)
        cluster.run(Losses(cluster.moment(), count=2, hire=hire))
        assert_right(cluster)
        assert len(cluster.lost) == 2
        assert_only_the_lost_are_redone(cluster)


def test_holders_lost_one_after_the_other():
    for seed in range(12):
        cluster = Cluster(Adder(steps=9), [disk_of()], looms=3, seed=seed)
        cluster.run(Losses(*sorted(cluster.moment() for _ in range(5)), hire=1))
        assert_right(cluster)
        assert_only_the_lost_are_redone(cluster)


class LossAtACheckpoint:
    """Loses a holder of a block that has saved a later step than the settled one, which other blocks have not."""

    def __init__(self, wait):
        self._wait, self.struck = wait, False

    def __call__(self, cluster):
        [weaving] = cluster.weavings
        ahead = [block for block, step in weaving._saved.items() if step > weaving.step]
        if self.struck or weaving.step < 2 or not 0 < len(ahead) < len(weaving._saved):
            return
        self._wait -= 1
        if self._wait < 0:
            self.struck = True
            at = next(at for at in cluster.holders if (0, ahead[0]) in cluster.held_by(at))
            cluster.lose(at)
            cluster.hire()


@pytest.mark.parametrize("block", [24, 36])
def test_a_loss_between_the_first_and_the_last_block_that_saves_a_step(block):
    struck = 0
    for seed in range(16):
        cluster, loss = Cluster(Adder(steps=12), [disk_of(block)], looms=3, seed=seed), LossAtACheckpoint(seed % 4)
        cluster.run(loss)
        struck += loss.struck
        assert_right(cluster)
        assert_only_the_lost_are_redone(cluster)
    # By chance one holder may have all blocks, or what several saved is heard together.
    assert struck >= 10


def test_all_holders_lost_at_once():
    for seed in range(6):
        cluster = Cluster(Adder(steps=9), [disk_of()], looms=3, seed=seed)
        cluster.run(Losses(cluster.moment(), count=3, hire=2))
        assert_right(cluster)
        assert len(cluster.lost) == 3


@pytest.mark.parametrize("every", [1, 2, 4])
def test_no_block_runs_further_ahead_of_the_settled_step_than_two_stretches(every):
    """One holder is never heard: the others come to the limit, and stay there."""
    work = Adder(steps=20)
    cluster = Cluster(work, [disk_of()], looms=3, seed=every, every=every)
    cluster.run(Losses(200))
    assert cluster.ahead <= 2 * every * work.phases
    cluster = Cluster(work, [disk_of()], looms=1, seed=every, every=every)
    cluster.placement.place(cluster.weavings, cluster.holders)
    [holder] = cluster.holders
    holder.loom.post(holder.mail.popleft())
    for _ in range(12 * work.steps * work.phases):
        holder.loom.advance(0.0)
    reached = {block: at for _, block, at in cluster.rounds}
    assert set(reached.values()) == {2 * every * work.phases}


def test_what_only_a_settled_step_needed_is_forgotten():
    work = Adder(steps=9)
    cluster = Cluster(work, [disk_of()], looms=2, seed=1)
    seen = []

    def look(cluster):
        for holder in cluster.holders:
            for held in holder.loom._held.values():
                keys = [key[2:] for key in (*holder.loom._shelf._held, *holder.loom._shelf._filed) if key[0] == "kept"]
                assert set(keys) == held.kept
                assert all(at > held.step * work.phases for at, _, _ in keys)
                seen.append((held.step, len(keys)))
        [disk] = cluster.disks
        settled = cluster.weavings[0].step
        assert all(step >= settled - 2 * cluster.every for step in disk.kept)

    cluster.run(look)
    assert_right(cluster)
    assert any(step and count for step, count in seen)


@pytest.mark.parametrize("room", [0, 4_000, 20_000])
def test_blocks_for_which_there_is_no_room_come_from_files(room, tmp_path, monkeypatch):
    """Every turn checks that no more than the room is in memory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    most = []

    def look(cluster):
        most.append(sum(len(holder.loom._shelf._filed) for holder in cluster.holders))

    cluster = Cluster(Adder(room=room), [disk_of(bands=2)], looms=2, seed=3).run(look)
    assert_right(cluster)
    assert max(most) > 10
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (28, 28), (28, 61), (25, 97)])
def test_narrow_images_and_blocks_without_windows(size):
    for phases in (1, 2):
        cluster = Cluster(Adder(phases=phases), [disk_of(24, size=size)], looms=2, seed=5).run()
        assert_right(cluster)


def test_a_driver_goes_on_from_the_step_that_was_settled():
    class Killed(Exception):
        pass

    def kill(cluster):
        if cluster.weavings[0].step >= 4:
            raise Killed

    disk = disk_of()
    first = Cluster(Adder(steps=11), [disk], looms=2, seed=1)
    with pytest.raises(Killed):
        first.run(kill)
    again = Cluster(Adder(steps=11), [disk], looms=3, seed=2, books=first.books)
    [weaving] = again.weavings
    assert weaving.step >= 4
    settled = weaving.step
    again.run()
    np.testing.assert_array_equal(disk.result, expected(disk.whole, 11, 2))
    assert min(at for _, _, at in again.rounds) == settled * 2
    assert len(again.rounds) == disk.lattice.count * (1 + (11 - settled) * 2)


def test_two_images_at_once_of_which_one_goes_on_from_a_later_step():
    """Its blocks begin while those of the other one, which are further behind, come first."""

    class Killed(Exception):
        pass

    def kill(cluster):
        if cluster.weavings[0].step >= 4:
            raise Killed

    for seed in range(6):
        begun, fresh = disk_of(image="begun", seed=1), disk_of(36, image="fresh", seed=2)
        first = Cluster(Adder(steps=9), [begun], seed=seed)
        with pytest.raises(Killed):
            first.run(kill)
        both = Cluster(Adder(steps=9), [fresh, begun], looms=2, seed=seed)
        both = Cluster(Adder(steps=9), [fresh, begun], looms=2, seed=seed, books=[both.books[0], first.books[0]])
        both.run(Losses(80, 160))
        for disk in (begun, fresh):
            np.testing.assert_array_equal(disk.result, expected(disk.whole, 9, 2))

"""Blocks in lock-step over several looms: the bytes of one, whatever comes late or twice and whoever is lost."""

from itertools import product

import numpy as np
import pytest

from tests.looms import BLOCKS, Adder, Cluster, Disk, Losses, expected, lattice_of, whole_of
from tileloom.tiling.errors import CorruptChunk, StoreError, TileFailed

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
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "owner"] == []


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


# --- what goes wrong ---


class Struck(Adder):
    """Comes to nothing at some blocks and rounds: by a failure of its own, or by an exception of all."""

    def __init__(self, at, how, **more):
        super().__init__(**more)
        self.at, self.how, self.together = at, how, []

    def advance(self, blocks):
        bad = [block for block, _ in blocks if (block.number, block.round) == self.at]
        self.together.append(len(blocks))
        if bad and self.how != "named":
            raise self.how
        return [
            TileFailed(f"block {block.number} came to nothing") if block in bad else after
            for (block, _), after in zip(blocks, super().advance(blocks), strict=True)
        ]


def test_a_block_that_fails_stops_its_level_and_no_other():
    images = [disk_of(image="bad", seed=1), disk_of(36, image="good", seed=2)]
    cluster = Cluster(Struck((4, 5), "named", slots=100), images, looms=1)
    with pytest.raises(TileFailed, match="block 4 came to nothing"):
        cluster.run()
    reached = {image: max(at for of, _, at in cluster.rounds if of == image) for image in (0, 1)}
    assert reached[0] <= 7
    bad, good = cluster.weavings
    cluster.stopped = {bad.weave}
    cluster.run()
    np.testing.assert_array_equal(images[1].result, expected(images[1].whole, 7, 2))
    assert good.report.done == images[1].lattice.count


@pytest.mark.parametrize("seed", range(3))
def test_an_exception_that_names_no_block_is_the_fault_of_the_one_that_raises_it_alone(seed):
    work = Struck((4, 5), ValueError("struck by lightning"), slots=100)
    cluster = Cluster(work, [disk_of()], looms=1, seed=seed)
    with pytest.raises(TileFailed, match="block level 0 row 1 column 1 failed: ValueError: struck by lightning"):
        cluster.run()
    assert {block for _, block, at in cluster.rounds if at == 6} <= set(range(9)) - {4}


@pytest.mark.parametrize("error", [StoreError("the store is away"), MemoryError()])
def test_what_is_no_blocks_fault_is_raised_as_it_is(error):
    with pytest.raises(type(error)):
        Cluster(Struck((4, 5), error), [disk_of()], looms=1).run()


@pytest.mark.parametrize(("method", "words"), [("block", "cannot be read"), ("saved", "cannot be written")])
def test_an_image_that_cannot_be_read_or_written_says_so(method, words):
    class Broken(Disk):
        pass

    def broken(self, *_):
        raise StoreError(words)

    setattr(Broken, method, broken)
    lattice = lattice_of(70, 61, 24)
    with pytest.raises(StoreError, match=words):
        Cluster(Adder(), [Broken(lattice, whole_of(lattice, 1))], looms=2).run()


def test_what_was_removed_of_a_saved_step_is_missed_by_name():
    disk = disk_of()
    book = Cluster(Adder(steps=11), [disk]).run(lambda cluster: None).books[0]
    book.facts["woven level 0"], disk.kept = 4, {}
    with pytest.raises(CorruptChunk, match="nothing is saved"):
        Cluster(Adder(steps=11), [disk], books=[book]).run()


def test_a_level_that_failed_goes_no_further():
    cluster = Cluster(Struck((4, 5), "named", slots=1), [disk_of()])
    cluster.placement.place(cluster.weavings, cluster.holders)
    [holder] = cluster.holders
    holder.loom.post(holder.mail.popleft())
    while not any(told.error for told in holder.loom.advance(0.0)):
        assert len(cluster.rounds) < 9 * 15
    before = len(cluster.rounds)
    for _ in range(20):
        holder.loom.advance(0.0)
    assert len(cluster.rounds) == before
    assert before < 9 * 15 - 20

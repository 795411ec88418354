"""What blocks hand to each other, counted by geometry: against pixels counted one by one, and real strips."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tileloom.models.joint import JointWork
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.exchange import (
    Pattern,
    encoded_by,
    features,
    joint,
    pixels,
    predicted,
    runs,
    seen,
    taken_of,
    traffic,
    windows_of,
)
from tileloom.tiling.grid import Grid
from tileloom.tiling.lockstep import Lattice
from tileloom.tiling.measurement import Measurement
from tileloom.tiling.work import Block, TileInputs

BANDS, PATCH = 2, 8
RELAXED = settings(deadline=None, max_examples=60)


@st.composite
def lattices(draw):
    tile = draw(st.integers(4, 12))
    cell = draw(st.integers(tile // 2, tile - 1))
    side = cell * draw(st.integers(-(-tile // cell), 4))
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    return Lattice(Grid(height, width, tile, cell), Grid(height, width, side, side, least=tile))


def ones(lattice, box):
    """A level of zeros with ones in a box."""
    level = np.zeros((lattice.windows.rows.length, lattice.windows.cols.length), int)
    level[box.slices] = 1
    return level


def seen_by_hand(lattice, source, target):
    """Pixels of one block that some window of the other sees."""
    windows = sum((ones(lattice, lattice.windows.sees(*w)) for w in lattice.begun(target)), start=0)
    return int(((windows > 0) & (ones(lattice, lattice.box(source)) > 0)).sum())


def predicted_by_hand(lattice, source, target):
    """Pixels of the other block, as often as a window of one sees them."""
    theirs = ones(lattice, lattice.box(target))
    return sum(int((ones(lattice, lattice.windows.sees(*w)) * theirs).sum()) for w in lattice.begun(source))


@RELAXED
@given(lattices())
def test_windows_see_no_more_of_a_neighbour_than_is_counted(lattice):
    for source, neighbours in enumerate(lattice.around):
        for target in neighbours:
            assert seen(lattice, source, target) >= seen_by_hand(lattice, source, target)
            assert predicted(lattice, source, target) == predicted_by_hand(lattice, source, target)


def standing(lattice, number, *, predicting):
    """A block before the round that predicts, or after it."""
    box, tile = lattice.box(number), lattice.windows.tile
    inputs = TileInputs("image", TileKey(0, *lattice.place(number)), box, Measurement(), None, None)
    between = () if predicting else (np.zeros((BANDS, tile, tile), np.float32),) * len(lattice.begun(number))
    return Block(lattice, number, inputs, 0, np.zeros((BANDS, *box.shape), np.float32), between)


@RELAXED
@given(lattices())
def test_the_bytes_are_those_of_real_strips(lattice):
    for phase, predicting in enumerate((True, False)):
        handed = joint(BANDS).handed[phase]
        for source, neighbours in enumerate(lattice.around):
            if not lattice.begun(source) and not predicting:
                continue
            strips = JointWork.strips(None, standing(lattice, source, predicting=predicting))
            sizes = {n: sum(part.nbytes for part in strip) for n, strip in strips.items()}
            counted = {n: 4 * BANDS * handed(lattice, source, n) for n in neighbours}
            assert sizes == {n: size for n, size in counted.items() if size}


@given(st.integers(1, 200), st.integers(1, 40))
def test_runs_are_even_and_leave_nothing_out(blocks, workers):
    shares = runs(blocks, workers)
    assert [block for share in shares for block in share] == list(range(blocks))
    assert len(shares) == min(blocks, workers)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@RELAXED
@given(lattices(), st.integers(1, 6))
def test_only_what_crosses_between_workers_is_traffic(lattice, workers):
    found = traffic(lattice, joint(BANDS), workers)
    holder = [n for n, share in enumerate(runs(lattice.count, workers)) for _ in share]
    sent = np.zeros((workers, 2), int)
    for source, neighbours in enumerate(lattice.around):
        for target in neighbours:
            if holder[source] != holder[target]:
                sizes = seen(lattice, source, target), predicted(lattice, source, target)
                sent[holder[source]] += 4 * BANDS * np.array(sizes)
    assert found.phases == tuple(sent.sum(axis=0))
    assert found.step == sent.sum()
    assert found.most_sent == sent.sum(axis=1).max()
    if workers == 1:
        assert found.step == 0


def test_a_weave_with_another_pattern_is_counted_alike():
    """One phase, a strip of fixed width around every block."""
    lattice = Lattice(Grid(32, 32, 8, 8), Grid(32, 32, 16, 16))

    def strip(of, source, target):
        return of.box(target).pad(4).intersect(of.box(source)).area

    found = traffic(lattice, Pattern((strip,), (3,), asking=0), workers=2)
    # Two rows of two blocks: a strip of 4 x 32 pixels each way, and the corners beside it.
    assert found.phases == (4 * 3 * 2 * (4 * 32 + 2 * 4 * 4),)


def test_windows_are_counted_where_they_begin():
    lattice = Lattice(Grid(64, 64, 16, 12), Grid(64, 64, 36, 36, least=16))
    assert windows_of(lattice, range(lattice.count)) == lattice.windows.count
    assert windows_of(lattice, [0]) == 9
    assert Box(0, 0, 36, 36) == lattice.box(0)


# --- patches ---


def patches(rows, cols, block):
    height, width = rows * PATCH, cols * PATCH
    windows = Grid(height, width, PATCH, PATCH, 0, PATCH, least=PATCH)
    return Lattice(windows, Grid(height, width, block * PATCH, block * PATCH, 0, PATCH, least=PATCH))


@given(rows=st.integers(1, 7), cols=st.integers(1, 7), block=st.integers(1, 4))
def test_encoder_patches_are_each_encoded_by_one_block(rows, cols, block):
    lattice = patches(rows, cols, block)
    encoded = [at for number in range(lattice.count) for at in encoded_by(lattice, number)]
    assert sorted(encoded) == [(i, j) for i in range(rows + 1) for j in range(cols + 1)]


@given(rows=st.integers(1, 7), cols=st.integers(1, 7), block=st.integers(1, 4))
def test_every_patch_takes_four_quarters_each_from_one_block(rows, cols, block):
    lattice = patches(rows, cols, block)
    for number in range(lattice.count):
        sources = (number, *lattice.around[number])
        taken = [quarter for source in sources for quarter in taken_of(lattice, number, source)]
        assert len(taken) == len(set(taken)) == 4 * len(lattice.begun(number))


@given(rows=st.integers(1, 6), cols=st.integers(1, 6), block=st.integers(1, 3))
def test_pixels_between_blocks_are_the_strip_around_each(rows, cols, block):
    lattice, edge = patches(rows, cols, block), Box(0, 0, rows * PATCH, cols * PATCH)
    [handed] = pixels(3).handed
    for number in range(lattice.count):
        given_to = sum(handed(lattice, n, number) for n in lattice.around[number])
        box = lattice.box(number)
        assert given_to == box.pad(PATCH // 2).intersect(edge).area - box.area


def test_features_weigh_as_much_more_than_pixels_as_published():
    """Blocks of 8 x 8 patches of the published network, 64 pixels a side: quarters of features against strips."""
    windows = Grid(2048, 2048, 64, 64, 0, 64)
    lattice = Lattice(windows, Grid(2048, 2048, 512, 512, 0, 64))
    strips = traffic(lattice, pixels(3), 4).step
    quarters = traffic(lattice, features(3, 1_392_640), 4)
    assert 28 <= quarters.step / strips <= 57
    assert quarters.phases[0] < strips

"""Windows that are fused at every step: the mathematics, and the same bytes however a level is cut into blocks."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.looms import BLOCKS, WINDOW, Cluster, Disk, Losses, lattice_of
from tileloom.models.build import EngineFactory, JointFactory
from tileloom.models.joint import shares
from tileloom.tiling.box import TileKey
from tileloom.tiling.errors import TileFailed
from tileloom.tiling.grid import Axis
from tileloom.tiling.measurement import MaskSite, Measurement
from tileloom.tiling.work import TileInputs

SIZE = 46, 58
MEASUREMENTS = {
    "sr": Measurement(2),
    "inpaint": Measurement(mask=MaskSite.MEASURED),
    "noisy": Measurement(2, sigma=0.1),
    "gray": Measurement(gray=True),
}


@st.composite
def axes(draw):
    tile = draw(st.integers(2, 12))
    stride = draw(st.integers(1, tile - 1))
    return Axis(draw(st.integers(tile, 5 * tile)), tile, stride, 0)


@settings(deadline=None, max_examples=150)
@given(axes())
def test_the_shares_of_all_windows_add_up_to_one_at_every_pixel(axis):
    total = np.zeros(axis.length)
    for j, share in enumerate(shares(axis)):
        assert share.shape == (axis.tile,)
        assert share.dtype == np.float32
        assert (share > 0).all()
        total[axis.start(j) : axis.stop(j)] += share
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_window_says_less_of_a_pixel_the_nearer_that_is_to_an_edge_others_see_beyond():
    first, second, third = shares(Axis(40, 16, 12, 0))
    assert (np.diff(first) <= 0).all()
    assert (first[:12] == 1).all()
    assert (np.diff(second[:4]) > 0).all()
    assert (np.diff(second[-4:]) < 0).all()
    np.testing.assert_array_equal(third, first[::-1])
    np.testing.assert_array_equal(second, second[::-1])


@cache
def work_of(bands=2, sampler="ddnm", travel=(1, 1), steps=4, batch=3, lanes=1, room=2**30):
    engine = EngineFactory(
        model={"name": "gaussian", "length": 4.0},
        steps=steps,
        travel_length=travel[0],
        travel_repeat=travel[1],
        tile=WINDOW,
        bands=bands,
        batch=batch,
        lanes=lanes,
        sampler=sampler,
    )
    return JointFactory(engine, room)()


def whole_of(lattice, bands, task="sr"):
    measurement, box = MEASUREMENTS[task], lattice.windows.box
    rng = np.random.default_rng(bands)
    shape = box.coarsen(measurement.scale).shape
    measured = rng.random(shape) < 0.6 if task == "inpaint" else np.ones(shape, bool)
    y = rng.uniform(-1, 1, (1 if measurement.gray else bands, *shape)).astype(np.float32) * measured
    return TileInputs("image", TileKey(0, 0, 0), box, measurement, y, measured)


def woven(work, block, *, bands=2, task="sr", size=SIZE, **more):
    """A level that is cut into such blocks, at its end."""
    lattice = lattice_of(*size, block, align=2)
    return Cluster(work, [Disk(lattice, whole_of(lattice, bands, task))], **more).run()


@cache
def alone(bands, task, size=SIZE, **more):
    """The level in one block, by one loom."""
    return woven(work_of(bands, **more), 120, bands=bands, task=task, size=size).disks[0].result.tobytes()


@pytest.mark.parametrize("bands", range(1, 14))
def test_any_number_of_bands_in_any_partition_comes_to_the_bytes_of_one_block(bands):
    task = list(MEASUREMENTS)[bands % 4]
    block, looms = BLOCKS[bands % 3], (1, 2, 4)[bands // 3 % 3]
    cluster = woven(work_of(bands), block, bands=bands, task=task, looms=looms, seed=bands)
    assert cluster.disks[0].result.tobytes() == alone(bands, task)
    assert cluster.redone == {}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("looms", [2, 4])
def test_the_bytes_outlive_losses_in_any_partition(block, looms):
    lattice = lattice_of(*SIZE, block, align=2)
    for seed in range(2):
        cluster = Cluster(work_of(), [Disk(lattice, whole_of(lattice, 2))], looms=looms, seed=seed)
        cluster.run(Losses(cluster.moment(), hire=seed))
        assert len(cluster.lost) == 1
        assert cluster.disks[0].result.tobytes() == alone(2, "sr")


SAMPLERS = [("ddnm", "inpaint"), ("ddim-ddnm", "noisy"), ("repaint", "inpaint"), ("ddpm", "gray"), ("ddim", "sr")]


@pytest.mark.parametrize(("sampler", "task"), SAMPLERS)
def test_every_sampler_goes_on_cell_by_cell_also_where_time_travels_back(sampler, task):
    told = {"sampler": sampler, "travel": (2, 2), "steps": 5}
    work = work_of(**told)
    assert work.steps > 5
    assert woven(work, 24, task=task, looms=3).disks[0].result.tobytes() == alone(2, task, **told)


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (28, 28), (40, 17)])
def test_images_of_any_shape(size):
    cluster = woven(work_of(), 24, size=size, looms=2)
    assert cluster.disks[0].result.tobytes() == alone(2, "sr", size)


@pytest.mark.parametrize(("batch", "lanes"), [(3, 2), (3, 4)])
def test_lanes_change_no_bit(batch, lanes):
    assert woven(work_of(lanes=lanes), 24, looms=2).disks[0].result.tobytes() == alone(2, "sr")


def test_blocks_come_back_from_files_as_they_were():
    assert woven(work_of(room=30_000), 24, looms=2).disks[0].result.tobytes() == alone(2, "sr")


@pytest.mark.parametrize("task", MEASUREMENTS)
def test_a_step_is_the_mean_of_all_windows_then_the_samplers_own_arithmetic_on_the_whole_level(task):
    """By hand: every window of one x_t is shown to the network, weighed by how far a pixel is from its edges."""
    work, lattice = work_of(), lattice_of(*SIZE, 24, align=2)
    whole = whole_of(lattice, 2, task)
    walk, grid = work.walk, lattice.windows
    x_CHW = walk.first(whole)
    for call in range(work.steps):
        total, weights = torch.zeros(x_CHW.shape, dtype=torch.float64), torch.zeros(x_CHW.shape[1:]).double()
        for row in range(grid.rows.count):
            for col in range(grid.cols.count):
                sees = grid.sees(row, col)
                [answer_CHW] = work.engine.answers([walk.question(x_CHW[:, *sees.slices], call, 0)])
                weight = torch.outer(
                    ramp(grid.rows, row, grid.rows.count - 1), ramp(grid.cols, col, grid.cols.count - 1)
                )
                total[:, *sees.slices] += weight * answer_CHW
                weights[sees.slices] += weight
        x_CHW = walk.tell(walk.at(whole, x_CHW, call), (total / weights).float()).x_CHW
    found = np.frombuffer(alone(2, task), np.float32).reshape(x_CHW.shape)
    np.testing.assert_allclose(found, x_CHW.numpy(), atol=2e-5)


def ramp(axis, at, last):
    """Pixels to the nearer edge of a window, of those that others see beyond; the middle of a pixel counts."""
    inside = torch.arange(axis.tile) + 0.5
    ahead = inside if at else torch.full((axis.tile,), float(axis.tile))
    behind = axis.tile - inside if at < last else torch.full((axis.tile,), float(axis.tile))
    return torch.minimum(ahead, behind).double()


def test_what_neighbours_are_sent_is_what_their_windows_see_and_what_ours_say_of_their_pixels():
    """Bytes at the transport against theory: no pixel more goes over a border than must."""
    work, lattice = work_of(bands=3), lattice_of(60, 60, 24, align=2)
    cluster = Cluster(work, [Disk(lattice, whole_of(lattice, 3))], looms=9, seed=0)
    cluster.placement._split = lambda blocks, holders: dict(zip(holders, ([block] for block in blocks), strict=True))
    cluster.run()
    assert len({source for _, _, source in cluster.sent}) == lattice.count == 9
    owner = np.zeros(lattice.windows.box.shape, int)
    for block in range(lattice.count):
        owner[lattice.box(block).slices] = block
    predict = fuse = 0
    for block in range(lattice.count):
        mine = [lattice.windows.sees(*window) for window in lattice.begun(block)]
        seen = np.zeros_like(owner, bool)
        reach = lattice.reach(block)
        seen[reach.slices] = True
        predict += np.count_nonzero(seen & (owner != block))
        fuse += sum(np.count_nonzero(owner[sees.slices] != block) for sees in mine)
    assert sum(cluster.sent.values()) == work.steps * 3 * 4 * (predict + fuse)


def test_a_block_that_is_no_number_any_more_fails_by_name():
    work, lattice = work_of(), lattice_of(20, 20, 24, align=2)
    disk = Disk(lattice, whole_of(lattice, 2))
    block = work.begin(lattice, 0, disk.block(0), None, 0)
    [predicted] = work.advance([(block, {})])
    spoiled = replace(predicted, between=tuple(np.full_like(part, np.nan) for part in predicted.between))
    [failed] = work.advance([(spoiled, {})])
    assert isinstance(failed, TileFailed)
    assert "block level 0 row 0 column 0" in str(failed)
    assert "not finite after step 1 of 4" in str(failed)

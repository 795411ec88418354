"""Same job, same bytes: whatever the order, the company in the batch, the lanes, the queue and the failures."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.images import write_tiff
from tests.pipeline import (
    assert_same_bytes,
    beside,
    committed,
    holes,
    job,
    measure,
    restore,
    result,
    root_of,
    scene,
    stored_bytes,
)
from tileloom.cluster.agenda import Tiles
from tileloom.cluster.executor import LocalExecutor
from tileloom.cluster.worker import CACHE_BYTES, Brief, Worker
from tileloom.jobs import phases, run
from tileloom.jobs.compile import compile_job
from tileloom.jobs.state import tile_states
from tileloom.tiling.access import ImageAccess
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.errors import TileFailed
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.ledger import Ledger

BANDS, HEIGHT, WIDTH = 3, 61, 74
BATCH = 3
ORDERS = 20
QUICK = 3


def _job(folder, task):
    """A job of two levels whose tiles depend on each other; the holes leave some tiles out and some in between."""
    folder.mkdir()
    height, width = (HEIGHT, WIDTH) if task == "inpaint" else (60, 72)
    truth = scene(BANDS, height, width, seed=5)
    mask = holes(height, width, share=0.5, seed=6) if task == "inpaint" else None
    y = measure(truth, task, mask=mask).astype(np.float32)
    return job(folder, y, task=task, mask=mask, range=[-1, 1], stride=8, guard=4, levels=2, batch=BATCH)


@pytest.fixture(scope="module", params=["sr:4", "inpaint"])
def reference(request, tmp_path_factory):
    """A job that has been run as the command line would, tile by tile."""
    spec = _job(tmp_path_factory.mktemp("reference") / "job", request.param)
    restore(spec)
    return spec


def _run_in_order(spec, policy, monkeypatch):
    monkeypatch.setitem(phases.POLICIES, "critical-path", policy)
    restore(spec)


def _at_random(seed):
    rng = np.random.default_rng(seed)
    return lambda image, rank, tile: int(rng.integers(1 << 20))


def test_the_reference_has_tiles_that_wait_for_each_other(reference):
    plan = compile_job(reference).image.plan
    tiles = committed(reference)
    assert len(plan.levels) == 2
    assert all(any(tile in plan.tiles(level) for tile in tiles) for level in (0, 1))
    assert len(tiles) > 30
    assert sum(bool(set(plan.reads(tile)) & set(tiles)) for tile in tiles) > 20


def test_raster_order(reference, tmp_path, monkeypatch):
    spec = beside(reference, tmp_path)
    _run_in_order(spec, lambda image, rank, tile: tile, monkeypatch)
    assert_same_bytes(spec, reference)


def test_raster_order_one_tile_at_a_time(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "free", property(lambda worker: 0 if worker._flights else 1))
    spec = beside(reference, tmp_path)
    _run_in_order(spec, lambda image, rank, tile: tile, monkeypatch)
    assert committed(spec) == sorted(committed(spec))
    assert_same_bytes(spec, reference)


def test_wavefront(reference, tmp_path, monkeypatch):
    plan = compile_job(reference).image.plan
    spec = beside(reference, tmp_path)
    _run_in_order(spec, lambda image, rank, tile: plan.depth(tile), monkeypatch)
    assert_same_bytes(spec, reference)


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= QUICK)) for seed in range(ORDERS)]
)
def test_random_legal_order(seed, reference, tmp_path, monkeypatch):
    spec = beside(reference, tmp_path)
    _run_in_order(spec, _at_random(seed), monkeypatch)
    assert committed(spec) != committed(reference)
    assert sorted(committed(spec)) == sorted(committed(reference))
    assert_same_bytes(spec, reference)


@pytest.mark.slow
def test_random_orders_differ_from_each_other(tmp_path, monkeypatch):
    spec = _job(tmp_path / "job", "inpaint")
    orders = set()
    for seed in range(4):
        one = beside(spec, tmp_path / str(seed))
        _run_in_order(one, _at_random(seed), monkeypatch)
        orders.add(tuple(committed(one)))
    assert len(orders) == 4


class Shuffled:
    """An engine whose tiles change slots and companions at every step, and fail now and then."""

    def __init__(self, work, *, seed, failing=0.0):
        self._work = work
        self._rng = np.random.default_rng(seed)
        self._failing = failing
        self.companies = set()
        self.failures = 0

    def __getattr__(self, name):
        return getattr(self._work, name)

    def step(self, states):
        order = self._rng.permutation(len(states))
        cuts = self._rng.integers(0, len(states) + 1, size=2)
        out = [None] * len(states)
        for group in np.split(order, np.sort(cuts)):
            self.companies.add(tuple(str(states[at].key) for at in group))
            for at, state in zip(group, self._work.step([states[at] for at in group]), strict=True):
                out[at] = self._fail_now_and_then(state)
        return out

    def _fail_now_and_then(self, state):
        if self._rng.random() >= self._failing:
            return state
        self.failures += 1
        return TileFailed("drawn to fail")


def _with_work(monkeypatch, wrap):
    """Let the next runs use a wrapped engine; returns the list that will hold them."""
    made, make = [], run.work_factory

    def factory(*args, **options):
        def build(batches):
            made.append(wrap(make(*args, **options)(batches)))
            return made[-1]

        return build

    monkeypatch.setattr(run, "work_factory", factory)
    return made


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_batch_companions_and_slots_shuffled(seed, reference, tmp_path, monkeypatch):
    works = _with_work(monkeypatch, lambda work: Shuffled(work, seed=seed))
    spec = beside(reference, tmp_path)
    _run_in_order(spec, _at_random(seed), monkeypatch)
    assert len({len(company) for company in works[0].companies}) == BATCH + 1
    assert_same_bytes(spec, reference)


def test_failures_that_a_retry_mends(reference, tmp_path, monkeypatch):
    works = _with_work(monkeypatch, lambda work: Shuffled(work, seed=1, failing=0.05))
    spec = beside(reference, tmp_path).model_copy(update={"retries": 9})
    summary = restore(spec)
    assert works[0].failures == summary.report.failures > 3
    assert not summary.degraded
    assert_same_bytes(spec, reference)


@pytest.mark.parametrize("lanes", [1, 2])
def test_lanes(lanes, reference, tmp_path):
    spec = beside(reference, tmp_path).model_copy(update={"lanes": lanes})
    restore(spec)
    assert_same_bytes(spec, reference)


def test_two_lanes_in_random_order(reference, tmp_path, monkeypatch):
    spec = beside(reference, tmp_path).model_copy(update={"lanes": 2})
    _run_in_order(spec, _at_random(3), monkeypatch)
    assert_same_bytes(spec, reference)


def _courses(compiled):
    """Survey images; the course of each."""
    for one in compiled:
        access, plan = ImageAccess(one.image, ChunkCache(CACHE_BYTES)), one.image.plan
        for level, box in access.lifts():
            access.lift(level, box)
        bits = np.zeros(plan.count, np.uint8)
        for level, tiles in access.surveys():
            grid, at = plan.levels[level], plan.tiles(level)
            bits[at.start : at.stop].reshape(grid.rows.count, grid.cols.count)[tiles.slices] = access.survey(
                level, tiles
            )
        ledger = Ledger(Path(one.image.root) / "ledger")
        yield _course(Tiles(Brief(one.image, b""), ledger, tile_states(bits, ledger)))


def _course(tiles):
    yield tiles


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_several_images_in_one_queue(seed, tmp_path):
    tasks = ("sr:4", "inpaint", "colorize")
    alone = [_job(tmp_path / task, task) for task in tasks]
    for spec in alone:
        restore(spec)
    compiled = [compile_job(spec) for spec in alone]
    mixed = [
        replace(one, image=replace(one.image, root=str(tmp_path / f"mixed-{at}"))) for at, one in enumerate(compiled)
    ]
    work = Shuffled(replace(run.work_factory(mixed[0]), lanes=2)(), seed=seed)
    order = []
    LocalExecutor(Worker(lambda: work)).run(
        _courses(mixed),
        Frontier(policy=_at_random(seed)),
        on_reports=lambda reports: order.extend(report.image for report in reports),
    )
    changes = sum(one != other for one, other in pairwise(order))
    assert changes > len(order) / 4
    for one, spec in zip(mixed, alone, strict=True):
        root = Path(one.image.root)
        ours = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("c/0/*/*")}
        theirs = {name: data for name, data in stored_bytes(spec).items() if name.startswith(("canvas", "inputs"))}
        assert len(ours) > 20
        assert ours == {name: data for name, data in theirs.items() if "/c/" in name}


def test_chunks_and_format_of_the_input_change_nothing(tmp_path):
    pixels = np.rint(255 * (scene(3, 20, 25) + 1) / 2).astype(np.uint8)
    results = []
    for name, stored in (
        ("zarr", pixels),
        ("tiles", write_tiff(tmp_path / "tiles.tif", pixels, tile=(16, 16))),
        ("strips", write_tiff(tmp_path / "strips.tif", pixels, contig=False)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        spec = job(folder, stored, task="sr:2")
        restore(spec)
        results.append(result(spec))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_another_seed_gives_other_bytes(reference, tmp_path):
    spec = beside(reference, tmp_path).model_copy(update={"seed": 1})
    restore(spec)
    assert (result(spec) != result(reference)).any()
    assert root_of(spec).name != root_of(reference).name

"""One image on four workers: tiles that go on from each other against windows that are fused at every step.

Calls of the network sleep. Perfect is what the slots could do if every tile, or window, were ready at all times. A
joint level larger than a worker's memory lies in files: ``memory_ratio`` is the peak of a whole job on an image of four
times the pixels over that on the smaller one, each in a process of its own, with a cap of a quarter of what the larger
one's noisy pixels alone take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import ray
import zarr

from benchmarks._alone import alone, peak
from benchmarks._image import make_image, weave
from benchmarks._report import Benchmark, Figures
from benchmarks._sleeper import BlockSleeper, Sleeper
from tileloom.cluster.agenda import Course
from tileloom.cluster.executor import CrewSpec
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.cluster.weaving import Lockstep
from tileloom.cluster.worker import Brief
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import from_options
from tileloom.tiling.access import ImagePlan
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.lockstep import Lattice
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.work import Work

WORKERS, SLOTS = 4, 2
TILE, STRIDE, GUARD, BLOCK = 16, 12, 2, 24
CALL_SECONDS = 0.15
"""So long that what four processes take of two cores for everything else is little beside it."""
BANDS, SCALE = 1, 4


@contextmanager
def workers(work: Callable[[], Work], warm: Callable[[RayExecutor, Path], None]) -> Iterator[RayExecutor]:
    """All workers, none of which is still to come."""
    spec = CrewSpec(WORKERS, least=WORKERS)
    with TemporaryDirectory() as folder, RayExecutor(lambda batches: work(), spec) as executor:
        while len(executor.timesheet.present) < WORKERS or not executor.complete:
            warm(executor, Path(folder) / f"warm {perf_counter()}")
        yield executor


def tile_by_tile(executor: RayExecutor, folder: Path, side: int) -> None:
    """Weave an image of side x side tiles, each going on from its neighbours."""
    size = TILE + STRIDE * (side - 1)
    weave(executor, [make_image(folder, Grid(size, size, TILE, STRIDE, GUARD), bands=1, chunk=64)], Frontier())


def all_together(executor: RayExecutor, folder: Path, side: int) -> None:
    """Weave an image of side x side windows in lock-step."""
    windows = Grid(STRIDE * side, STRIDE * side, TILE, STRIDE)
    lattice = Lattice(windows, Grid(windows.height, windows.width, BLOCK, BLOCK))
    image = make_image(folder, windows, bands=1, chunk=64)
    image = replace(image, plan=WeavePlan((lattice.blocks,)), lattices=(lattice,))

    def course(image: ImagePlan) -> Course:
        yield Lockstep(Brief(image, b"job"), 0, Ledger(Path(image.root) / "ledger"), every=10)

    executor.run([course(image)], Frontier())


def efficiency(way: Callable[[RayExecutor, Path, int], None], work: Callable[[], Work], side: int, calls: int) -> float:
    """What no order could beat over what it took."""
    with workers(work, partial(way, side=2)) as executor, TemporaryDirectory() as folder:
        began = perf_counter()
        way(executor, Path(folder) / "image", side)
        took = perf_counter() - began
    return side**2 * calls * CALL_SECONDS / (WORKERS * SLOTS) / took


def restore(folder: Path, height: int, width: int, tile: int, room: int) -> int:
    """Make an input and run a joint job on it; the peak of resident bytes."""
    names = ("c", "y", "x")
    shape = BANDS, height // SCALE, width // SCALE
    y = zarr.create_array(
        folder / "y.zarr", shape=shape, chunks=(BANDS, 256, 256), dtype="uint8", dimension_names=names
    )
    wave = 127 + 60 * np.sin(np.arange(shape[2]) / 40)
    for top in range(0, shape[1], 256):
        y[:, top : top + 256] = np.broadcast_to(np.rint(wave), (BANDS, min(256, shape[1] - top), shape[2]))
    options = {"task": f"sr:{SCALE}", "tile": tile, "levels": 1, "steps": 2, "batch": 4, "lanes": 2, "weave": "joint"}
    options |= {"model": {"name": "gaussian", "length": 16.0}, "lockstep": {"block": 3 * tile, "memory": room}}
    run_job(from_options({**options, "input": str(folder / "y.zarr"), "output": str(folder / "out.zarr")}), Silent())
    return peak()


def measure(smoke: bool) -> Figures:
    """Memory first, while this process is small; then both ways on the same workers' number."""
    (height, width), tile = ((1024, 512), 64) if smoke else ((4096, 4096), 128)
    room = 4 * BANDS * height * width
    small, large = (alone(restore, rows, width, tile, room) for rows in (height, 4 * height))
    side, steps = (8, 3) if smoke else (12, 10)
    told = {"slots": SLOTS, "tile": TILE, "call_seconds": CALL_SECONDS}
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=WORKERS + 1, **quiet)
    try:
        joint = efficiency(all_together, partial(BlockSleeper, steps=steps, **told), side, steps)
        msr = efficiency(tile_by_tile, partial(Sleeper, calls_per_tile=steps, **told), side, steps)
    finally:
        ray.shutdown()
    return {
        "efficiency": joint,
        "msr_efficiency": msr,
        "over_msr": joint / msr,
        "memory_ratio": large / small,
        "peak_mb": large / 1e6,
        "room_mb": room / 1e6,
    }


BENCHMARK = Benchmark(
    "joint", measure, {"efficiency": (">=", 0.85), "over_msr": (">=", 1.0), "memory_ratio": ("<=", 1.15)}
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

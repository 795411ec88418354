"""How full workers on Ray are kept by many images at once, with tiles that sleep instead of computing.

Images of equal size are woven together, and one alone, which is what running them one by one would be. Perfect is what
the slots could do if every tile were ready at once. The simulator is told what a tile's reading and writing took, and
its makespan is compared with the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import ray

from benchmarks._image import make_image, weave
from benchmarks._report import Benchmark, Figures
from benchmarks._sleeper import Sleeper
from tileloom.cluster.executor import Batches, CrewSpec
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.tiling.access import ImagePlan
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.simulate import simulate

WORKERS, SLOTS, CALLS = 8, 2, 4
TILE, STRIDE, GUARD = 16, 12, 2
CALL_SECONDS = 0.15
"""So long that what eight processes take of two cores to read and write their tiles is little beside it."""


def asleep(batches: Batches) -> Sleeper:
    """The work of every worker."""
    return Sleeper(slots=SLOTS, tile=TILE, calls_per_tile=CALLS, call_seconds=CALL_SECONDS)


def seconds(executor: RayExecutor, images: Sequence[ImagePlan]) -> float:
    """What it takes to weave images together."""
    began = perf_counter()
    weave(executor, images, Frontier())
    return perf_counter() - began


def measure(smoke: bool) -> Figures:
    """All images together, then one of them alone."""
    count, side = (8, 10) if smoke else (8, 24)
    size = TILE + STRIDE * (side - 1)
    grid = Grid(size, size, TILE, STRIDE, GUARD)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=WORKERS + 1, **quiet)
    try:
        with (
            TemporaryDirectory() as folder,
            RayExecutor(asleep, CrewSpec(WORKERS, least=WORKERS)) as executor,
        ):
            images = [make_image(Path(folder) / str(at), grid, bands=1, chunk=64) for at in range(count + 2)]
            # Workers that are still to come would count as idle ones.
            warm = images.pop()
            while len(executor.timesheet.present) < WORKERS or not executor.complete:
                weave(executor, [warm], Frontier())
                warm = make_image(Path(folder) / f"warm {perf_counter()}", grid, bands=1, chunk=64)
            alone = seconds(executor, [images.pop()])
            before = executor.timesheet.usage
            together = seconds(executor, images)
            usage = executor.timesheet.usage
    finally:
        ray.shutdown()
    tiles, tile_seconds = count * side**2, CALLS * CALL_SECONDS
    perfect = tiles * tile_seconds / (WORKERS * SLOTS)
    own = (usage.reading + usage.writing - before.reading - before.writing) / tiles
    plan = images[0].plan
    predicted = simulate(
        [plan] * count,
        workers=WORKERS,
        slots=SLOTS,
        call_seconds=CALL_SECONDS,
        calls_per_tile=CALLS,
        tile_seconds=own,
    ).makespan
    return {
        "efficiency": perfect / together,
        "one_by_one": perfect / (count * alone),
        "prediction_error": abs(predicted - together) / together,
        "tiles_a_second": tiles / together,
    }


BENCHMARK = Benchmark("fill", measure, {"efficiency": (">=", 0.9), "prediction_error": ("<=", 0.1)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

"""How well the order of tiles fills a cluster in the simulator, and how well the simulator predicts a real run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks._image import make_image, weave
from benchmarks._report import Benchmark, Figures
from benchmarks._sleeper import Sleeper
from tileloom.cluster.executor import LocalExecutor
from tileloom.cluster.worker import Worker
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.simulate import simulate

WORKERS, SLOTS = 8, 8
TILE, STRIDE, GUARD = 32, 24, 4
CALL_SECONDS = 0.01
"""Long enough that what a sleep oversleeps is little beside it."""
SLEEPER = Sleeper(slots=4, tile=TILE, calls_per_tile=16, call_seconds=CALL_SECONDS)


def efficiency(images: int, side: int) -> float:
    """The faster of critical path and even sharing, over the makespan: images of side x side tiles on 64 slots."""
    size = 256 + 192 * (side - 1)
    plan = WeavePlan((Grid(size, size, 256, 192, 32),))
    return simulate([plan] * images, workers=WORKERS, slots=SLOTS, call_seconds=0.1, calls_per_tile=100).efficiency


@dataclass(frozen=True)
class Outcome:
    """What a real run took: seconds in all, of one call, and of reading, writing and recording one tile."""

    seconds: float
    call_seconds: float
    tile_seconds: float


def run(plan_rows: int, plan_cols: int) -> tuple[WeavePlan, Outcome]:
    """Restore so many rows and columns of tiles by a worker in this process, as a job does."""
    grid = Grid(TILE + STRIDE * (plan_rows - 1), TILE + STRIDE * (plan_cols - 1), TILE, STRIDE, GUARD)
    with TemporaryDirectory() as folder:
        image = make_image(Path(folder), grid, bands=1, chunk=256)
        worker = Worker(lambda: SLEEPER)
        began = perf_counter()
        weave(LocalExecutor(worker), [image], Frontier())
        seconds = perf_counter() - began
    steps = worker.usage.offered / SLEEPER.slots
    computing = worker.usage.computing
    return image.plan, Outcome(seconds, computing / steps, (seconds - computing) / image.plan.count)


def prediction_error(rows: int, cols: int) -> float:
    """How far the simulated time of a run lies from the real one, told only what short runs before and after took."""
    _, before = run(8, 8)
    plan, real = run(rows, cols)
    _, after = run(8, 8)
    predicted = simulate(
        [plan],
        workers=1,
        slots=SLEEPER.slots,
        call_seconds=(before.call_seconds + after.call_seconds) / 2,
        calls_per_tile=SLEEPER.calls_per_tile,
        tile_seconds=(before.tile_seconds + after.tile_seconds) / 2,
    ).makespan
    return abs(predicted - real.seconds) / real.seconds


def measure(smoke: bool) -> Figures:
    """The order of a large job in the simulator, and the simulator against a thousand real tiles."""
    return {
        "efficiency": efficiency(8, 40 if smoke else 64),
        "prediction_error": prediction_error(*((10, 10) if smoke else (25, 40))),
    }


BENCHMARK = Benchmark("simulate", measure, {"efficiency": (">=", 0.95), "prediction_error": ("<=", 0.1)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

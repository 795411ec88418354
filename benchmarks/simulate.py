"""How well the order of tiles fills a cluster, in the simulator."""

from __future__ import annotations

import sys

from benchmarks._report import Benchmark, Figures
from tileloom.tiling.grid import Grid
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.simulate import simulate

WORKERS, SLOTS = 8, 8


def efficiency(images: int, side: int) -> float:
    """The faster of critical path and even sharing, over the makespan: images of side x side tiles on 64 slots."""
    size = 256 + 192 * (side - 1)
    plan = WeavePlan((Grid(size, size, 256, 192, 32),))
    return simulate([plan] * images, workers=WORKERS, slots=SLOTS, call_seconds=0.1, calls_per_tile=100).efficiency


def measure(smoke: bool) -> Figures:
    """One entry a figure; figures of real runs belong beside this one."""
    return {"efficiency": efficiency(8, 40 if smoke else 64)}


BENCHMARK = Benchmark("simulate", measure, {"efficiency": (">=", 0.95)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

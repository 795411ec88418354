"""What the scheduler costs a tile: processor time of take and done, its growth with the image, resident memory."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from statistics import median
from time import process_time

import numpy as np

from benchmarks._report import Benchmark, Figures
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.plan import WeavePlan

BATCH = 64
WINDOW = 4096
"""Tiles timed together, and tiles of the small image that the large one is compared with."""
PAIR_EVERY = 10
"""Windows of the large image between two runs of the small one."""


def plan_of(tiles: int, levels: int) -> WeavePlan:
    """A square image of about so many tiles, by MSR alone (1 level) or with HiR (2)."""
    side = max(2, round((tiles / (1.25 if levels == 2 else 1)) ** 0.5))
    size, grids = 256 + 192 * (side - 1), []
    for _ in range(levels):
        grids.append(Grid(size, size, 256, 192, 32, 2))
        size = grids[-1].rows.length // 2
    return WeavePlan(tuple(grids))


def drive(plan: WeavePlan) -> Iterator[float]:
    """Hand out and finish every tile, in batches leased to a worker; microseconds a tile, window by window."""
    frontier = Frontier()
    frontier.add("image", plan, state=np.zeros(plan.count, np.uint8))
    while not frontier.idle:
        handled, start = 0, process_time()
        while handled < WINDOW and (items := frontier.take(BATCH, "w0")):
            frontier.done(items)
            handled += len(items)
        yield (process_time() - start) / handled * 1e6


def times(tiles: int, levels: int) -> tuple[float, float]:
    """Microseconds a tile of a large image, and how many times that of a small one.

    The small one runs again and again between windows of the large one, and each such pair of neighbours in
    time gives one ratio: a busy neighbour on the machine slows both.
    """
    small = plan_of(WINDOW, levels)
    windows, ratios = [], []
    for number, large in enumerate(drive(plan_of(tiles, levels))):
        windows.append(large)
        if number % PAIR_EVERY == 0:
            ratios.append(large / median(drive(small)))
    return median(windows), median(ratios)


def peak_bytes(tiles: int, levels: int) -> float:
    """The most memory at any moment of a whole run, plan and the caller's states included, a tile."""
    tracemalloc.start()
    try:
        plan = plan_of(tiles, levels)
        for _ in drive(plan):
            pass
        return tracemalloc.get_traced_memory()[1] / plan.count
    finally:
        tracemalloc.stop()


def measure(smoke: bool) -> Figures:
    """The larger figure of MSR alone and of MSR with HiR, each."""
    timed = [times(64_000 if smoke else 4_000_000, levels) for levels in (1, 2)]
    return {
        "us_per_tile": max(us for us, _ in timed),
        "growth": max(ratio for _, ratio in timed),
        "bytes_per_tile": max(peak_bytes(64_000 if smoke else 256_000, levels) for levels in (1, 2)),
    }


BENCHMARK = Benchmark(
    "frontier", measure, {"us_per_tile": ("<=", 6.0), "growth": ("<=", 2.0), "bytes_per_tile": ("<=", 8.0)}
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

"""Whether memory is flat in image size: the peak of a whole job on a large image over that on a small one.

Each job runs in a process of its own, from the input's digest to the published pyramid, and its peak is the most
resident memory the system saw it hold. Two per cent of the pixels are to be restored, in compact holes, so that
``tiles_run`` also shows that nothing else is worked on: tiles of all levels that ran, over tiles of all levels.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from benchmarks._alone import alone, peak
from benchmarks._report import Benchmark, Figures
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import from_options
from tileloom.tiling.inputs import boxes

CHUNK, BLOCK, HOLE = 256, 2048, 600
SHARE = 0.02
JOB = {
    "task": "inpaint",
    "tile": 256,
    "steps": 3,
    "model": {"name": "gaussian", "length": 16.0},
}


@dataclass(frozen=True)
class Run:
    """One job: its peak of resident bytes, the tiles that ran and all tiles."""

    peak: int
    ran: int
    tiles: int


def make_input(folder: Path, side: int) -> None:
    """A three-band uint8 image and its mask, block by block: waves, which compress well, and square holes."""
    names = ("c", "y", "x")
    image = zarr.create_array(
        folder / "image.zarr", shape=(3, side, side), chunks=(3, CHUNK, CHUNK), dtype="uint8", dimension_names=names
    )
    mask = zarr.create_array(
        folder / "mask.zarr", shape=(1, side, side), chunks=(1, CHUNK, CHUNK), dtype="uint8", dimension_names=names
    )
    wave = np.rint(127 + 60 * np.sin(np.arange(side) / 40)).astype(np.uint8)
    holes = round(SHARE * side**2 / HOLE**2)
    for box in boxes(side, side, BLOCK):
        rows, cols = box.slices
        image[:, rows, cols] = np.stack([wave[rows, None] // (band + 1) + wave[cols] // 4 for band in range(3)])
    across = int(np.ceil(holes**0.5))
    for hole in range(holes):
        top, left = ((2 * at + 1) * side // (2 * across) - HOLE // 2 for at in divmod(hole, across))
        mask[:, top : top + HOLE, left : left + HOLE] = 1


def restore(folder: Path, side: int) -> Run:
    """Make the input and run the job on it."""
    make_input(folder, side)
    places = {name: str(folder / f"{name}.zarr") for name in ("mask", "output")}
    summary = run_job(from_options({**JOB, **places, "input": str(folder / "image.zarr")}), Silent())
    return Run(peak(), summary.report.done, sum(summary.bill.tiles))


def measure(smoke: bool) -> Figures:
    """A large image against a small one, of a sixteenth of its pixels or (smoke) a quarter."""
    small, large = (alone(restore, side) for side in ((3072, 6144) if smoke else (4096, 16384)))
    return {
        "peak_ratio": large.peak / small.peak,
        "tiles_run": large.ran / large.tiles,
        "peak_mb": large.peak / 1e6,
    }


BENCHMARK = Benchmark("memory", measure, {"peak_ratio": ("<=", 1.15), "tiles_run": ("<=", 0.06)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

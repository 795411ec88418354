"""What workers on Ray cost and save on one machine, and whether the driver's memory is flat in the number of images.

One image is restored by this process alone and by two workers, in turn; all seconds count, those of starting Ray and
the workers too, which are told apart. Then two archives of small images are restored by two workers each.
"""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import zarr

from benchmarks._report import Benchmark, Figures
from tileloom.cluster.worker import Report
from tileloom.jobs.archive import Archive
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.run_archive import run_archive
from tileloom.jobs.spec import JobSpec, from_options

SCALE, CHUNK, SMALL = 4, 256, 16
JOB: dict[str, Any] = {
    "task": f"sr:{SCALE}",
    "tile": 256,
    "steps": 5,
    "model": {"name": "gaussian", "length": 16.0},
    "batch": 2,
    "lanes": "auto",
}
TWO_WORKERS = {"workers": 2, "cpus": 1}


@dataclass(frozen=True)
class Seconds:
    """What a run took from its start, and until its first tile was done."""

    all: float
    first: float


def make_input(file: Path, side: int) -> None:
    """Three bands of waves."""
    image = zarr.create_array(
        file, shape=(3, side, side), chunks=(3, CHUNK, CHUNK), dtype="uint8", dimension_names=("c", "y", "x")
    )
    wave = np.rint(127 + 60 * np.sin(np.arange(side) / 10)).astype(np.uint8)
    image[...] = np.stack([wave[:, None] // (band + 1) + wave // 4 for band in range(3)])


def job(folder: Path, output: str, **options: object) -> JobSpec:
    """The job of the input in a folder."""
    return from_options({**JOB, "input": str(folder / "image.zarr"), "output": str(folder / output), **options})


def restore(folder: Path, output: str, options: dict[str, object]) -> Seconds:
    """Run a job in this process, or by workers that it starts."""
    first: list[float] = []

    def told(reports: list[Report]) -> None:
        if reports and not first:
            first.append(perf_counter() - began)

    began = perf_counter()
    run_job(job(folder, output, **options), Silent(), on_reports=told)
    return Seconds(perf_counter() - began, first[0])


def weave_archive(folder: Path, images: int) -> int:
    """Restore so many small images by two workers; the peak of this process's resident bytes."""
    rows = []
    for at in range(images):
        make_input(folder / f"{at}.zarr", SMALL)
        rows.append(f"{at}.zarr")
    (folder / "images.csv").write_text("\n".join(["input", *rows]) + "\n")
    shared = from_options({**JOB, "tile": 64, "input": "none", "output": str(folder / "out"), "cluster": TWO_WORKERS})
    summary = run_archive(Archive(str(folder / "images.csv"), shared), Silent())
    if summary.done != images:
        raise RuntimeError(f"{summary.done} of {images} images are done")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def alone(call: Any, *arguments: object) -> Any:  # noqa: ANN401  whatever the call comes to
    """A call in a process of its own, whose peak is its own too."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def measure(smoke: bool) -> Figures:
    """One image both ways in turn, each judged by its best; a small and a large archive."""
    side, rounds, few, many = (1024, 1, 1, 20) if smoke else (4096, 2, 1, 200)
    ways: dict[str, dict[str, object]] = {"local": {}, "ray": {"cluster": TWO_WORKERS}}
    found: dict[str, list[Seconds]] = {name: [] for name in ways}
    with TemporaryDirectory() as folder:
        make_input(Path(folder) / "image.zarr", side // SCALE)
        for turn in range(rounds):
            for name, options in ways.items():
                found[name].append(alone(restore, Path(folder), f"{name} {turn}.zarr", options))
    peaks = []
    for images in (few, many):
        with TemporaryDirectory() as folder:
            peaks.append(alone(weave_archive, Path(folder), images))
    local, ray = (min(runs, key=lambda run: run.all) for runs in found.values())
    return {
        "ray_over_local": ray.all / local.all,
        "ray_over_local_running": (ray.all - ray.first) / (local.all - local.first),
        "local_seconds": local.all,
        "ray_first_tile_seconds": ray.first,
        "driver_peak_ratio": peaks[1] / peaks[0],
        "driver_peak_mb": peaks[1] / 1e6,
    }


BENCHMARK = Benchmark("ray_image", measure, {"driver_peak_ratio": ("<=", 1.15)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

"""What overlap costs the data path: halo reads and owned writes, over the same bytes read and written without overlap.

Both sides read a three-band uint8 image once through zarr and write a canvas of the same codec, chunks and bytes.
``halo_over_plain`` leaves out the two hashes that the ledger wants of every tile, which plain zarr has nothing to set
against: ``hashed_over_plain`` counts them. ``uncached_over_plain`` is a loop that asks zarr for every window anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import zarr

from benchmarks._image import make_image
from benchmarks._report import Benchmark, Figures
from tileloom.tiling import canvas as canvas_module
from tileloom.tiling.access import ImageAccess, ImagePlan
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.canvas import Canvas
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.inputs import boxes
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.store import open_array

BANDS, TILE, STRIDE, GUARD = 3, 256, 192, 32
INPUT_CHUNK = 192
CACHE_BYTES = 64 * 2**20
"""Room for a few diagonals of the weave, not for the image: what is read twice must still be there to be found."""

Laps = dict[str, list[float]]


@dataclass
class Stopwatch:
    """Seconds spent inside ``call``."""

    seconds: float = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:  # noqa: ANN401
            began = perf_counter()
            result = call(*args)
            self.seconds += perf_counter() - began
            return result

        return timed


def tiles(plan: WeavePlan) -> Iterator[int]:
    """The tiles in the order in which a worker gets them, one after the other."""
    frontier = Frontier()
    frontier.add("image", plan, state=np.zeros(plan.count, np.uint8))
    while not frontier.idle:
        items = frontier.take(1)
        yield items[0][1]
        frontier.done(items)


def woven(image: ImagePlan, hashing: Stopwatch) -> Iterator[None]:
    """Every tile's read and write, as a worker does them."""
    access = ImageAccess(image, ChunkCache(CACHE_BYTES))
    with patch.object(canvas_module, "hash_pixels", hashing.around(canvas_module.hash_pixels)):
        for tile in tiles(image.plan):
            inputs = access.inputs(tile)
            hashing.around(inputs.digest)(b"settings")
            access.write(tile, inputs.y)
            yield


def plain(image: ImagePlan) -> Iterator[None]:
    """Each chunk of the input read and each chunk of the canvas written once, by zarr alone."""
    source, canvas = zarr.open_array(image.input, mode="r"), new_canvas(image)
    for box in boxes(*canvas.shape[1:], STRIDE):
        if box.top < source.shape[1] and box.left < source.shape[2]:
            pixels = image.scaling.to_model(np.asarray(source[:, *box.slices]))
        # At its ends the canvas has other sizes than the input, and a row and a column of chunks more.
        if pixels.shape[1:] != box.shape:
            pixels = np.resize(pixels, (BANDS, *box.shape))
        canvas[:, *box.slices] = pixels
        yield


def uncached(image: ImagePlan) -> Iterator[None]:
    """The same windows read and the same boxes written by zarr alone, which decodes chunks anew for every window."""
    plan, grid = image.plan, image.plan.levels[0]
    source, canvas = zarr.open_array(image.input, mode="r"), new_canvas(image)
    offset = grid.rows.chunk_offset, grid.cols.chunk_offset
    for tile in tiles(plan):
        key, owned = plan.key(tile), plan.owns(tile).shift(*offset)
        source[:, *plan.sees(tile).slices]
        for strip in grid.context(key.row, key.col):
            canvas[:, *strip.shift(*offset).slices]
        canvas[:, owned.top * (key.row > 0) : owned.bottom, owned.left * (key.col > 0) : owned.right] = 1
        yield


def new_canvas(image: ImagePlan) -> zarr.Array[Any]:
    """The canvas of an image that has none yet."""
    Canvas(Path(image.root), image.plan.levels[0], bands=BANDS, cache=ChunkCache(0))
    return open_array(Path(image.root))


def race(folder: Path, grid: Grid, source: ImagePlan) -> Laps:
    """Seconds of each loop, lap by lap, the loops taking turns tile by tile.

    A busy neighbour slows all of them alike, and some run of so short a lap is left alone by it.
    """
    hashing = Stopwatch()
    loops = {
        "woven": woven(replace(source, root=str(folder / "woven")), hashing),
        "plain": plain(replace(source, root=str(folder / "plain"))),
        "uncached": uncached(replace(source, root=str(folder / "uncached"))),
    }
    chunks = ceil((grid.rows.length + grid.rows.chunk_offset) / STRIDE) ** 2
    steps = {"woven": grid.count, "plain": chunks, "uncached": grid.count}
    laps: Laps = {name: [] for name in (*loops, "hashing")}
    for lap in range(grid.count):
        before = hashing.seconds
        for name, loop in loops.items():
            began = perf_counter()
            for _ in islice(loop, steps[name] * (lap + 1) // grid.count - steps[name] * lap // grid.count):
                pass
            laps[name].append(perf_counter() - began)
        laps["hashing"].append(hashing.seconds - before)
        laps["woven"][-1] -= laps["hashing"][-1]
    return laps


def measure(smoke: bool) -> Figures:
    """Every lap is run several times with the same work; the fastest of each is the one least disturbed."""
    side, races = (8, 9) if smoke else (16, 7)
    size = TILE + STRIDE * (side - 1)
    grid = Grid(size, size, TILE, STRIDE, GUARD)
    found = []
    with TemporaryDirectory() as folder:
        image = make_image(Path(folder), grid, bands=BANDS, chunk=INPUT_CHUNK)
        for _ in range(races):
            with TemporaryDirectory(dir=folder) as work:
                found.append(race(Path(work), grid, image))
    best = {name: sum(map(min, zip(*(laps[name] for laps in found), strict=True))) for name in found[0]}
    return {
        "halo_over_plain": best["woven"] / best["plain"],
        "hashed_over_plain": (best["woven"] + best["hashing"]) / best["plain"],
        "uncached_over_plain": best["uncached"] / best["plain"],
        "plain_ms_per_tile": best["plain"] / grid.count * 1e3,
    }


BENCHMARK = Benchmark("datapath", measure, {"halo_over_plain": ("<=", 1.2)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

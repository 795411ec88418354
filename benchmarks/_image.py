"""An image every pixel of which is to be restored, for benchmarks that need tiles but no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zarr

from tileloom.cluster.agenda import Course, Tiles
from tileloom.cluster.executor import Executor, unheard
from tileloom.cluster.worker import Brief, Report, RunReport
from tileloom.tiling.access import ImagePlan
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.inputs import boxes
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.measurement import Measurement
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.pyramid import PyramidSpec
from tileloom.tiling.scaling import Scaling


def make_image(folder: Path, grid: Grid, *, bands: int, chunk: int) -> ImagePlan:
    """A noisy uint8 image on disk, and how it is restored; its canvas and ledger go below the same folder."""
    source = zarr.create_array(
        folder / "input.zarr",
        shape=(bands, grid.height, grid.width),
        chunks=(bands, chunk, chunk),
        dtype="uint8",
        dimension_names=("c", "y", "x"),
    )
    rng = np.random.default_rng(0)
    for box in boxes(grid.height, grid.width, chunk):
        source[:, *box.slices] = rng.normal(128, 20, (bands, *box.shape)).astype(np.uint8)
    return ImagePlan(
        name="image",
        input=str(folder / "input.zarr"),
        mask=None,
        root=str(folder / "work"),
        bands=bands,
        scaling=Scaling(0, 255),
        result_scaling=Scaling(0, 255),
        nodata=None,
        plan=WeavePlan((grid,)),
        measurements=(Measurement(sigma=0.1),),
        lifts=(),
        result=PyramidSpec(bands, grid.height, grid.width, "uint8", None),
    )


def weave(
    executor: Executor,
    images: Sequence[ImagePlan],
    frontier: Frontier,
    *,
    on_reports: Callable[[list[Report]], None] = unheard,
) -> list[RunReport]:
    """Run all tiles of images, and nothing else; their reports, as the images ended."""
    reports: list[RunReport] = []

    def course(image: ImagePlan) -> Course:
        states = np.zeros(image.plan.count, np.uint8)
        reports.append((yield Tiles(Brief(image, b"job"), Ledger(Path(image.root) / "ledger"), states)))

    executor.run(map(course, images), frontier, on_reports=on_reports)
    return reports

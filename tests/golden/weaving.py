"""A recorded image as the product sees it: files, plan, frontier and worker, all of them the product's own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zarr

from tileloom.cluster.executor import ImageRun, LocalExecutor
from tileloom.cluster.worker import Worker
from tileloom.models.engine import Engine
from tileloom.models.operators import Operator
from tileloom.models.parity import AS_WRITTEN, Parity
from tileloom.tiling.access import ImagePlan
from tileloom.tiling.frontier import Frontier, OnError, TileState
from tileloom.tiling.grid import Grid, grid_align
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.measurement import MaskSite, Measurement
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.pyramid import PyramidSpec
from tileloom.tiling.raster import RasterPlan
from tileloom.tiling.scaling import Scaling

# Files hold model range.
AS_IT_IS = Scaling(-1.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """An image to restore: ``given`` is the measurement, or the clean image that it is yet to be made of.

    All are (band, row, column); ``known`` (row, column) is 1 where pixels are known; ``coarse`` is a finished coarser
    level, ``factor`` pixels a value.
    """

    measurement: Measurement
    given: np.ndarray
    measured: bool
    tile: int
    known: np.ndarray | None = None
    coarse: np.ndarray | None = None
    factor: int = 2
    carry: bool = False
    parity: Parity = AS_WRITTEN

    @property
    def y(self):
        if self.measured or (self.measurement.scale == 1 and not self.measurement.gray):
            return self.given
        return self.operator.A(torch.from_numpy(self.given)).numpy()

    @property
    def operator(self):
        """What measures the clean image as a whole."""
        visible = torch.from_numpy(self.known) if self.measurement.mask is MaskSite.TARGET else None
        shape = self.given.shape[1:]
        return Operator(self.measurement, bands=3, shape=shape, visible=visible, parity=self.parity)

    @property
    def size(self):
        scale = self.measurement.scale if self.measured else 1
        return tuple(scale * side for side in self.given.shape[1:])

    @property
    def chain(self):
        """What is known at each level, and how it came from the finer one's."""
        if self.coarse is None:
            return (self.measurement,), ()
        coarser, lift = self.measurement.coarsen(self.factor)
        return (self.measurement, coarser), (lift,)

    def plan(self):
        """Tiles half a tile apart without guard bands, as they were recorded."""
        height, width = self.size
        chain, _ = self.chain
        grids = []
        for level, measurement in enumerate(chain):
            align = grid_align(measurement.align, self.factor if level + 1 < len(chain) else None)
            grids.append(Grid(height, width, self.tile, self.tile // 2, 0, align))
            height, width = height // self.factor, width // self.factor
        return (RasterPlan if self.carry else WeavePlan)(tuple(grids), factor=self.factor)

    def image(self, folder):
        """The scene's files in a folder, and what a worker is told of them."""
        folder.mkdir()
        mask = None if self.known is None else _stored(folder / "mask", (self.known == 0)[None].astype(np.uint8))
        chain, lifts = self.chain
        return ImagePlan(
            name="image",
            input=_stored(folder / "y", self.y),
            mask=mask,
            root=str(folder / "work"),
            bands=len(self.given) if not self.measurement.gray else 3,
            scaling=AS_IT_IS,
            result_scaling=AS_IT_IS,
            nodata=None,
            plan=self.plan(),
            measurements=chain,
            lifts=lifts,
            result=PyramidSpec(3, *self.size, "float32", None, chunk=16, shard=16),
        )


def _stored(path, array):
    stored = zarr.create_array(
        str(path), shape=array.shape, chunks=array.shape, dtype=array.dtype, dimension_names=list("cyx")
    )
    stored[...] = array
    return str(path)


def in_order(position):
    """A frontier's policy that hands out ready tiles by their position."""
    return lambda image, rank, tile: position(tile)


def raster(plan):
    return in_order(lambda tile: tile)


def wavefront(plan):
    return in_order(plan.depth)


def at_random(plan):
    places = np.random.default_rng(0).permutation(plan.count)
    return in_order(lambda tile: int(places[tile]))


def weave(scene, denoiser, solver, folder, order=raster, *, raw=False):
    """The image as it is published, its tiles restored in an order; ``raw``: as the solver left it."""
    image = scene.image(Path(folder))
    plan = image.plan
    engine = Engine(
        denoiser,
        solver,
        tile=(scene.tile, scene.tile),
        bands=image.bands,
        batch=1,
        levels=len(plan.levels),
    )
    worker = Worker(lambda: engine, {0: image}, settings=b"")
    access = worker.access(0)
    for level, box in access.lifts():
        access.lift(level, box)
    states = np.full(plan.count, TileState.TODO, np.uint8)
    if scene.coarse is not None:
        _finish(access, scene.coarse)
        coarser = plan.tiles(1)
        states[coarser.start : coarser.stop] = TileState.DONE
    frontier = Frontier(policy=order(plan), retries=0, on_error=OnError.STOP)
    at = frontier.add("image", plan, state=states)
    run = ImageRun(plan, Ledger(Path(folder) / "ledger"))
    LocalExecutor(worker).run(frontier, {at: run}, on_reports=lambda reports: None)
    if stopped := frontier.stopped(at):
        raise ValueError(stopped)
    box = plan.levels[0].image
    return access.canvas(0).read(box) if raw else access.render(box, set())


def _finish(access, coarse):
    """Level 1 as if its tiles had been restored to this."""
    grid = access.plan.levels[1]
    padded = np.zeros((len(coarse), *grid.box.shape), np.float32)
    padded[:, *grid.image.slices] = coarse
    for tile in access.plan.tiles(1):
        key = access.plan.key(tile)
        access.canvas(1).write(key.row, key.col, padded[:, *access.plan.owns(tile).slices])

"""A recorded image as the product sees it: files, plan, frontier and worker, all of them the product's own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from tests.golden.scenes import BANDS, Observed, engine_of
from tileloom.cluster.agenda import Tiles
from tileloom.cluster.executor import LocalExecutor
from tileloom.cluster.worker import CACHE_BYTES, Brief, Worker
from tileloom.tiling.access import ImageAccess, ImagePlan
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.frontier import Frontier, OnError, TileState
from tileloom.tiling.grid import Grid, grid_align
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.measurement import Lift, Measurement
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.pyramid import PyramidSpec
from tileloom.tiling.raster import RasterPlan
from tileloom.tiling.scaling import Scaling

# Files hold model range.
AS_IT_IS = Scaling(-1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """An image to restore in tiles; ``coarse`` is a finished coarser level of it, ``factor`` pixels a value."""

    name: str
    observed: Observed
    tile: int
    coarse: np.ndarray | None = None
    factor: int = 2
    carry: bool = False

    @property
    def chain(self):
        """What is known at each level, and how it came from the finer one's."""
        measurement = self.observed.measurement
        if self.coarse is None:
            return (measurement,), ()
        coarser, lift = measurement.coarsen(self.factor) or _nothing_left(measurement.scale, self.factor)
        return (measurement, coarser), (lift,)

    def plan(self):
        """Tiles half a tile apart without guard bands, as they were recorded; the only one has no neighbour."""
        height, width = self.observed.shape
        chain, _ = self.chain
        grids = []
        for level, measurement in enumerate(chain):
            align = grid_align(measurement.align, self.factor if level + 1 < len(chain) else None)
            stride = self.tile // 2 if max(height, width) > self.tile else self.tile
            grids.append(Grid(height, width, self.tile, stride, 0, align))
            height, width = height // self.factor, width // self.factor
        return (RasterPlan if self.carry else WeavePlan)(tuple(grids), factor=self.factor)

    def image(self, folder):
        """The scene's files in a folder, and what a worker is told of them."""
        folder.mkdir()
        observed = self.observed
        lost = None if observed.known is None else ~observed.known[:1]
        if lost is not None and (lost == observed.known).any():
            raise ValueError("mask differs from band to band, and an image has one for all")
        chain, lifts = self.chain
        return ImagePlan(
            name=self.name,
            input=_stored(folder / "y", observed.y),
            mask=None if lost is None else _stored(folder / "mask", lost.astype(np.uint8)),
            root=str(folder / "work"),
            bands=BANDS,
            scaling=AS_IT_IS,
            result_scaling=AS_IT_IS,
            nodata=None,
            plan=self.plan(),
            measurements=chain,
            lifts=lifts,
            result=PyramidSpec(BANDS, *observed.shape, "float32", None, chunk=16, shard=16),
            coarse_everywhere=observed.parity.coarse_everywhere,
        )


def _nothing_left(scale, factor):
    """A level whose pixels are means of measured ones: the product has no use for it, a finished one is just read.

    What is measured of it decides nothing then, but that its pixels are not the measurement's own.
    """
    if factor % scale:
        raise ValueError(f"blocks of {scale} pixels and coarse pixels of {factor} do not fit each other")
    return Measurement(sigma=1.0), Lift(pool=factor // scale)


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


def weave(scene, denoiser, solver, folder, order=raster):
    """The image as it is published, its tiles restored in an order."""
    image = scene.image(Path(folder))
    plan = image.plan
    tile = (scene.tile, scene.tile)
    engine = engine_of(denoiser, solver, tile, levels=len(plan.levels))
    worker = Worker(lambda: engine)
    access = ImageAccess(image, ChunkCache(CACHE_BYTES))
    for level, box in access.lifts():
        access.lift(level, box)
    states = np.full(plan.count, TileState.TODO, np.uint8)
    if scene.coarse is not None:
        _finish(access, scene.coarse)
        coarser = plan.tiles(1)
        states[coarser.start : coarser.stop] = TileState.DONE
    frontier = Frontier(policy=order(plan), retries=0, on_error=OnError.STOP)
    LocalExecutor(worker).run([_course(Tiles(Brief(image, b""), Ledger(Path(folder) / "ledger"), states))], frontier)
    return access.render(plan.levels[0].image, set())


def _course(tiles):
    yield tiles


def _finish(access, coarse):
    """Level 1 as if its tiles had been restored to this."""
    grid = access.plan.levels[1]
    if coarse.shape[1:] != grid.image.shape:
        raise ValueError(f"hir_ref is {coarse.shape[1:]}, and the coarser image {grid.image.shape}")
    padded = np.zeros((len(coarse), *grid.box.shape), np.float32)
    padded[:, *grid.image.slices] = coarse
    for tile in access.plan.tiles(1):
        key = access.plan.key(tile)
        access.canvas(1).write(key.row, key.col, padded[:, *access.plan.owns(tile).slices])

"""One image as a worker sees it: what a tile is given, where its pixels go, how the result looks.

An :class:`ImagePlan` is plain data that travels once to each worker; :class:`ImageAccess` opens it there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box, TileKey
from .cache import ChunkCache
from .canvas import Canvas, hash_pixels
from .decoding import decoding
from .errors import CorruptChunk, InputError
from .framed_source import Framed
from .grid import Grid
from .inputs import TASK, LevelInputs, boxes, survey
from .labels import LabelMaps, LabelPlan, Unknown
from .lockstep import Lattice
from .measurement import Lift, MaskSite, Measurement
from .observe import Observation, is_nodata, masked, observe, repeat
from .place import Place, place
from .plan import WeavePlan
from .pyramid import PyramidSpec, never_nodata
from .scaling import Scaling
from .source import Source, open_mask, open_source
from .work import Bools, Floats, TileInputs

_SURVEY_TILES = 16


@dataclass(frozen=True)
class ImagePlan:
    """Everything a worker must know of an image; ``name`` is its id in the job, and keys its noise.

    ``measurements[k]`` is what is known at level k, ``lifts[k]`` how its observation became level k + 1's.
    ``root`` holds this generation's canvases, coarser inputs and ledger. ``coarse_everywhere`` imposes coarse
    pixels beside known ones too. ``lattices`` are the levels of an image that is woven in lock-step, whose tiles are
    their blocks. ``given`` is the part of the measured grid that the input covers, around which nothing is known;
    None: all of it. ``labels`` are the maps of what it shows, where the network is told that.
    """

    name: str
    input: str
    mask: str | None
    root: str
    bands: int
    scaling: Scaling
    result_scaling: Scaling
    nodata: float | None
    plan: WeavePlan
    measurements: tuple[Measurement, ...]
    lifts: tuple[Lift, ...]
    result: PyramidSpec
    coarse_everywhere: bool = False
    lattices: tuple[Lattice, ...] = ()
    given: Box | None = None
    labels: LabelPlan | None = None

    @property
    def blank(self) -> bool:
        """Whether nothing is known of the image."""
        return self.given is not None and self.given.empty

    @property
    def corner(self) -> tuple[int, int]:
        """(row, column) of the measured grid at which the input begins."""
        return (self.given.top, self.given.left) if self.given else (0, 0)

    @property
    def scale(self) -> int:
        """Target pixels a measured value covers, along a side."""
        return self.measurements[0].scale

    @property
    def measured_shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns) of all that could be measured, what is unknown included."""
        bands = 1 if self.measurements[0].gray else self.bands
        return bands, self.result.height // self.scale, self.result.width // self.scale

    def open(self, cache: ChunkCache | None = None) -> tuple[Source, Source | None]:
        """The input and the mask, each on the grid of the whole image."""
        source = open_source(self.input, cache=cache)
        mask = open_mask(self.mask, cache=cache) if self.mask else None
        if self.given is None:
            return source, mask
        bands, height, width = self.measured_shape
        framed = Framed(source, self.given, bands=bands, height=height, width=width)
        if mask is None:
            return framed, None
        scale = self.scale if self.measurements[0].mask is MaskSite.TARGET else 1
        grid = {"height": height * scale, "width": width * scale}
        return framed, Framed(mask, self.given.scale(scale), bands=1, **grid)

    def observed(self, source: Source, mask: Source | None) -> Observation:
        """What is known of the image itself."""
        return observe(
            source,
            mask,
            measurement=self.measurements[0],
            scaling=self.scaling,
            nodata=self.nodata,
            given=self.given,
        )


class ImageAccess:
    """Reads the inputs of an image's tiles and writes their results; one a worker, sharing its cache."""

    def __init__(self, image: ImagePlan, cache: ChunkCache) -> None:
        """Open the image's input; canvases and coarser inputs are opened (or made) when first used."""
        self.image = image
        self.plan = image.plan
        self._cache = cache
        self._source, mask = image.open(cache)
        self._level_inputs: dict[int, LevelInputs] = {}
        self.observations = self._observe(image.observed(self._source, mask))
        told = image.labels
        self._labels = told and LabelMaps(told, mask=mask, factor=self.plan.factor, cache=cache)
        self._canvases: dict[tuple[str, int], Canvas] = {}

    def _observe(self, finest: Observation) -> tuple[Observation, ...]:
        image, levels = self.image, [finest]
        for level, (measurement, lift) in enumerate(zip(image.measurements[1:], image.lifts, strict=True), start=1):
            fine = levels[-1]
            if lift.identity or image.blank:
                size = -(-fine.height // lift.pool), -(-fine.width // lift.pool)
                coarse = Observation(measurement, fine.bands, *size, fine.read_y, fine.read_flags)
            else:
                inputs = LevelInputs(place(image.root) / f"inputs-{level}", fine, lift, cache=self._cache)
                self._level_inputs[level] = inputs
                coarse = inputs.observation(measurement)
            levels.append(coarse)
        return tuple(levels)

    def lifts(self) -> list[tuple[int, Box]]:
        """The tasks that make coarser inputs, each needing those of the levels before it."""
        return [(level, box) for level, inputs in self._level_inputs.items() for box in inputs.tasks()]

    def lift(self, level: int, box: Box) -> None:
        """Do one of these tasks."""
        self._level_inputs[level].lift(box)

    def surveys(self) -> list[tuple[int, Box]]:
        """The tasks that find out which tiles have something to restore: (level, rows and columns of tiles)."""
        return [
            (level, tiles)
            for level, grid in enumerate(self.plan.levels)
            for tiles in survey_tasks(self.observations[level], grid)
        ]

    def survey(self, level: int, tiles: Box) -> NDArray[np.uint8]:
        """Do one of these tasks: the tiles' OWNS and KEEPS bits."""
        return survey(self.observations[level], self.plan.levels[level], tiles)

    def check(self, box: Box) -> None:
        """Refuse an input that is not finite somewhere in a box of its own pixels and is not declared missing."""
        pixels = self._source.read(box)
        bad = ~np.isfinite(pixels)
        if self.image.nodata is not None:
            bad &= ~is_nodata(pixels, self.image.nodata)
        if bad.any():
            band, row, col = (int(at[0]) for at in np.nonzero(bad))
            top, left = self.image.corner
            raise InputError(
                f"{self.image.input} holds {pixels[band, row, col]} in band {band} at row {box.top + row - top}, "
                f"column {box.left + col - left}: repair the image, or declare nodata for pixels that are missing in "
                "all bands"
            )

    def checks(self) -> list[Box]:
        """Boxes that cover the input, if its pixels could be other than finite."""
        source = self._source
        return list(boxes(source.height, source.width, TASK)) if source.dtype.kind == "f" else []

    def label_checks(self) -> list[Box]:
        """Boxes that cover the map of labels, if there is one."""
        return list(self._labels.checks()) if self._labels else []

    def unknown_labels(self, box: Box) -> Unknown | None:
        """The first value of the map that the network knows no class for, in one of these boxes."""
        return self._labels.unknown(box) if self._labels else None

    def canvas(self, level: int) -> Canvas:
        """The scratch canvas of a level."""
        return self._canvas(self.image.root, level)

    def _canvas(self, root: str, level: int) -> Canvas:
        if (root, level) not in self._canvases:
            self._canvases[root, level] = self._opened(place(root) / f"canvas-{level}", level)
        return self._canvases[root, level]

    def _opened(self, folder: Place, level: int) -> Canvas:
        with decoding(str(folder), "zarr.json"):
            return Canvas(folder, self.plan.levels[level], bands=self.image.bands, cache=self._cache)

    def saved(self, level: int, step: int) -> Canvas:
        """The noisy pixels of a level in lock-step after so many steps."""
        return self._opened(place(self.image.root) / _saved(level, step), level)

    def drop_saved(self, level: int, *, before: int | None = None) -> None:
        """Remove what was saved of a level, or of its steps before one."""
        for folder in place(self.image.root).children():
            kind, _, number = folder.name.rpartition("-")
            if kind == _saved(level) and (before is None or int(number) < before):
                folder.remove()

    def inputs(self, tile: int, degraded: Collection[int] = ()) -> TileInputs:
        """What a tile is computed from; no pixel of a ``degraded`` tile is among it."""
        key, box = self.plan.key(tile), self.plan.sees(tile)
        lost = [self.plan.owns(other) for other in degraded if self.plan.key(other).level == key.level]
        strips = self.plan.levels[key.level].context(key.row, key.col)
        context, context_mask = self._committed(key.level, box, strips, lost)
        start = self._start(tile, degraded)
        return self._known_of(key, box, degraded, context=context, context_mask=context_mask, start=start)

    def block(self, tile: int) -> TileInputs:
        """What a block is computed from, besides what its neighbours come to; labels are those of all its windows."""
        key = self.plan.key(tile)
        lattice = self.image.lattices[key.level]
        reach = lattice.reach(tile - self.plan.tiles(key.level).start)
        return self._known_of(key, self.plan.owns(tile), shown=reach)

    def _known_of(
        self,
        key: TileKey,
        box: Box,
        degraded: Collection[int] = (),
        *,
        context: Floats | None = None,
        context_mask: Bools | None = None,
        start: Floats | None = None,
        shown: Box | None = None,
    ) -> TileInputs:
        """A window with what is measured of it, and known from the coarser level; what is ``shown`` may be wider."""
        observation = self.observations[key.level]
        y, measured, visible = observation.window(box)
        coarse, coarse_mask = self._coarse(key.level, box, degraded)
        return TileInputs(
            image=self.image.name,
            key=key,
            box=box,
            measurement=observation.measurement,
            y=y,
            measured=measured,
            visible=visible,
            context=context,
            context_mask=context_mask,
            coarse=coarse,
            coarse_mask=coarse_mask,
            factor=self.plan.factor,
            start=start,
            labels=self._labels.window(key.level, shown or box) if self._labels else None,
        )

    def _start(self, tile: int, degraded: Collection[int]) -> Floats | None:
        """The finished window of the tile that this one follows; None where there is none, or not all of it."""
        before = self.plan.follows(tile)
        if before is None:
            return None
        level, box = self.plan.key(before).level, self.plan.sees(before)
        observation = self.observations[level]
        scale = observation.measurement.scale
        outer = box.coarsen(scale).scale(scale)
        given = repeat(observation.window(outer)[0], scale)[:, *box.within(outer)]
        wanted = self._wanted(observation, box)
        lost = [self.plan.owns(other) for other in degraded if self.plan.key(other).level == level]
        pixels, mask = self._committed(level, box, [box], lost)
        if pixels is None or mask is None:
            return None if wanted.any() else np.broadcast_to(given, (self.image.bands, *box.shape))
        return None if (wanted & ~mask).any() else np.where(mask, pixels, given)

    def _coarse(self, level: int, box: Box, degraded: Collection[int]) -> tuple[Floats | None, Bools | None]:
        if level + 1 == len(self.plan.levels):
            return None, None
        window = box.coarsen(self.plan.factor)
        lost = [self.plan.owns(other) for other in degraded if self.plan.key(other).level == level + 1]
        pixels, mask = self._committed(level + 1, window, [window], lost)
        everywhere = self.image.coarse_everywhere or not self.observations[level].measurement.exact
        if pixels is None or mask is None or everywhere:
            return pixels, mask
        mask &= ~self._near_known(level, box)
        # Pixels that are not taken must not make a tile stale.
        return (np.where(mask, pixels, np.float32(0)), mask) if mask.any() else (None, None)

    def _near_known(self, level: int, box: Box) -> Bools:
        """Coarse pixels of a window that cover a known pixel or touch one that does.

        The coarser level knew nothing of a block that is only partly known, so near the edge of a hole the
        finer level has the better information and decides alone.
        """
        factor = self.plan.factor
        known = self.observations[level].known(box.pad(factor))
        blocks = np.asarray(known.reshape(known.shape[0] // factor, factor, -1, factor).any(axis=(1, 3)))
        near = np.zeros(box.coarsen(factor).shape, bool)
        for down in range(3):
            for right in range(3):
                near |= blocks[down : down + near.shape[0], right : right + near.shape[1]]
        return near

    def _committed(
        self, level: int, window: Box, parts: Sequence[Box], lost: Collection[Box]
    ) -> tuple[Floats | None, Bools | None]:
        """(pixels, mask) of what is committed and restored within ``parts`` of a window; None where nothing is."""
        observation, canvas, grid = self.observations[level], self.canvas(level), self.plan.levels[level]
        mask = np.zeros(window.shape, bool)
        for part in parts:
            mask[part.within(window)] = self._wanted(observation, part)
        for box in lost:
            inside = box.intersect(window)
            if not inside.empty:
                mask[inside.within(window)] = False
        if not mask.any():
            return None, None
        pixels = np.zeros((self.image.bands, *window.shape), np.float32)
        for part in parts:
            # Only owners that had something to restore have chunks: where some may have none, they are asked singly.
            whole = mask[part.within(window)].all()
            owned = (grid.owns(row, col).intersect(part) for row, col in grid.owners(part))
            for box in [part] if whole else owned:
                at = box.within(window)
                if whole or mask[at].any():
                    pixels[:, *at] = masked(canvas.read(box), mask[at])
        return pixels, mask

    def _wanted(self, observation: Observation, box: Box) -> Bools:
        scale = observation.measurement.scale
        outer = box.coarsen(scale).scale(scale)
        return observation.wanted(outer)[box.within(outer)]

    def write(self, tile: int, window: Floats) -> str:
        """Write what a tile owns of its restored window; returns the hash of those pixels."""
        key = self.plan.key(tile)
        owned = window[:, *self.plan.owns(tile).within(self.plan.sees(tile))]
        return self.canvas(key.level).write(key.row, key.col, owned)

    def stored_hash(self, tile: int) -> str:
        """The hash of what the canvas holds of a tile; raises :class:`CorruptChunk` where it is damaged."""
        return hash_pixels(self.canvas(self.plan.key(tile).level).read(self.plan.owns(tile)))

    def adopt(self, tile: int, root: str, output: str) -> bool:
        """Take a tile's pixels over from an earlier generation, if they still have the hash they had."""
        key = self.plan.key(tile)
        if not (place(root) / f"canvas-{key.level}" / "zarr.json").is_file():
            return False
        try:
            pixels = self._canvas(root, key.level).read(self.plan.owns(tile))
        except CorruptChunk:
            return False
        if hash_pixels(pixels) != output:
            return False
        self.canvas(key.level).write(key.row, key.col, pixels)
        return True

    def render(self, box: Box, degraded: Collection[int]) -> NDArray[Any]:
        """The published pixels of a box of the image, in the result's dtype.

        Known and missing pixels are the input's own; what degraded tiles owe is filled from the
        coarser level, or else from the measurement alone.
        """
        scale = self.image.scale
        outer = box.coarsen(scale).scale(scale)
        inner = box.within(outer)
        wanted = self.observations[0].wanted(outer)[inner]
        dtype = np.dtype(self.image.result.dtype)
        if wanted.all():
            known: NDArray[Any] = np.empty((self.image.bands, *box.shape), dtype)
        else:
            known = self._known(box, dtype)
        if not wanted.any():
            return known
        restored = np.zeros((self.image.bands, *box.shape), np.float32)
        grid = self.plan.levels[0]
        base = self.plan.tiles(0).start
        for row, col in grid.owners(box):
            part = grid.owns(row, col).intersect(box)
            at = part.within(box)
            if not wanted[at].any():
                continue
            tile = base + row * grid.cols.count + col
            restored[:, *at] = self._fill(part, degraded) if tile in degraded else self.canvas(0).read(part)
        return np.where(wanted, self._present(restored, dtype), known)

    def _present(self, pixels: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Pixels in model range as they are published, none of them taken for a missing one."""
        return never_nodata(self.image.result_scaling.from_model(pixels, dtype), self.image.result.fill)

    def _known(self, box: Box, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The input's own pixels (each repeated where it covers several), nodata where they are missing."""
        scale = self.image.scale
        at = box.coarsen(scale)
        pixels = self._source.read(at)
        if dtype.kind == "f":
            pixels = pixels.astype(dtype)
        elif pixels.dtype != dtype:
            missing = None if self.image.nodata is None else is_nodata(pixels, self.image.nodata)
            pixels = self._present(self.image.scaling.to_model(pixels), dtype)
            if missing is not None:
                pixels[:, missing] = self.image.nodata
        inner = repeat(pixels, scale)[:, *box.within(at.scale(scale))]
        return np.broadcast_to(inner, (self.image.bands, *box.shape))

    def _fill(self, box: Box, degraded: Collection[int]) -> Floats:
        """Stand-in pixels for a degraded tile."""
        scale, factor = self.image.scale, self.plan.factor
        at = box.coarsen(scale)
        y, _, _ = self.observations[0].window(at.scale(scale))
        fill = np.broadcast_to(repeat(y, scale)[:, *box.within(at.scale(scale))], (self.image.bands, *box.shape)).copy()
        if len(self.plan.levels) > 1:
            window = box.coarsen(factor)
            lost = [self.plan.owns(other) for other in degraded if self.plan.key(other).level == 1]
            pixels, mask = self._committed(1, window, [window], lost)
            if pixels is not None and mask is not None:
                inner = box.within(window.scale(factor))
                fill = np.where(repeat(mask, factor)[inner], repeat(pixels, factor)[:, *inner], fill)
        return fill


def _saved(*of: int) -> str:
    """The name of what is saved of a level, at a step."""
    return "-".join(("saved", *map(str, of)))


def survey_tasks(observation: Observation, grid: Grid) -> Iterator[Box]:
    """Boxes of tiles that are surveyed together: all of them where nothing need be read."""
    rows, cols = grid.rows.count, grid.cols.count
    return boxes(rows, cols, max(rows, cols) if observation.uniform else _SURVEY_TILES)

"""What a level of an image was given: the measured values, which of them count, and what is to be restored.

Windows may reach beyond the image: the measurement is mirrored there, in its own grid, and
nothing beyond the image is ever *wanted*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .measurement import Lift, MaskSite, Measurement
from .scaling import Scaling
from .source import Source
from .work import Bools, Floats

MEASURED, VALID = 1, 2
Flags = NDArray[np.uint8]
Read = Callable[[Box], NDArray[Any]]


def mirrored(read: Read, height: int, width: int, box: Box) -> NDArray[Any]:
    """A window of an image of ``height`` x ``width``, mirrored with its border pixels repeated."""
    if Box(0, 0, height, width).contains(box):
        return read(box)
    rows, cols = _mirror(box.top, box.bottom, height), _mirror(box.left, box.right, width)
    inner = Box(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
    return read(inner)[..., rows - inner.top, :][..., cols - inner.left]


def _mirror(lo: int, hi: int, size: int) -> NDArray[np.int64]:
    at = np.arange(lo, hi) % (2 * size)
    return np.where(at < size, at, 2 * size - 1 - at)


def masked(pixels: Floats, mask: Bools) -> Floats:
    """Pixels (band, row, column) where the mask (row, column) is set, 0 elsewhere; the array itself if all are."""
    return pixels if mask.all() else np.where(mask, pixels, np.float32(0))


def repeat(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Each value as a block of ``factor`` x ``factor``."""
    return values if factor == 1 else values.repeat(factor, axis=-2).repeat(factor, axis=-1)


@dataclass(frozen=True)
class Observation:
    """One level's measurement: ``bands`` x ``height`` x ``width`` values; readers take boxes of that grid.

    ``read_flags`` gives MEASURED (the value constrains) and VALID (its pixels exist) bits, and is
    :func:`everything` where no value can lack either, or :func:`nothing` where none is measured and all are valid;
    ``read_visible`` takes boxes of the target grid and is there only for a target mask.
    """

    measurement: Measurement
    bands: int
    height: int
    width: int
    read_y: Callable[[Box], Floats]
    read_flags: Callable[[Box], Flags]
    read_visible: Callable[[Box], Bools] | None = None

    @property
    def complete(self) -> bool:
        """Whether every value is measured and valid, known without reading anything."""
        return self.read_flags is everything

    @property
    def uniform(self) -> bool:
        """Whether all pixels are wanted or none is, known without reading anything."""
        return self.read_flags in (everything, nothing)

    def window(self, box: Box) -> tuple[Floats, Bools, Bools | None]:
        """(y, measured, visible) for an aligned box of target pixels; y is 0 where not measured."""
        scale = self.measurement.scale
        at = box.coarsen(scale)
        measured = self.known(at)
        y = masked(mirrored(self.read_y, self.height, self.width, at), measured)
        if self.read_visible is None:
            return y, measured, None
        return y, measured, mirrored(self.read_visible, self.height * scale, self.width * scale, box)

    def known(self, box: Box) -> Bools:
        """Which measured values of a box of y's grid count."""
        known: Bools = mirrored(self.read_flags, self.height, self.width, box) & MEASURED != 0
        return known

    def wanted(self, box: Box) -> Bools:
        """Which target pixels of an aligned box are to be restored: real, valid and not known exactly."""
        scale = self.measurement.scale
        at = box.coarsen(scale)
        inside = at.intersect(Box(0, 0, self.height, self.width))
        wanted = np.zeros(at.shape, bool)
        if not inside.empty:
            flags = self.read_flags(inside)
            todo = flags & VALID != 0
            if self.measurement.exact:
                todo &= flags & MEASURED == 0
            wanted[inside.within(at)] = todo
        return repeat(wanted, scale)


def observe(
    source: Source,
    mask: Source | None,
    *,
    measurement: Measurement,
    scaling: Scaling,
    nodata: float | None,
    given: Box | None = None,
) -> Observation:
    """The observation of the image itself; what lies outside of ``given`` is unknown, None: nothing does."""
    site = measurement.mask

    def read_y(box: Box) -> Floats:
        # Pixels that are missing may hold the largest number there is.
        with np.errstate(over="ignore"):
            return scaling.to_model(source.read(box))

    def read_flags(box: Box) -> Flags:
        flags = everything(box)
        if nodata is not None:
            flags[is_nodata(source.read(box), nodata)] = 0
        if mask is not None and site is MaskSite.MEASURED:
            flags[mask.read(box)[0] != 0] &= VALID
        if given is not None:
            known = np.zeros(box.shape, np.bool_)
            if not (inside := box.intersect(given)).empty:
                known[inside.within(box)] = True
            flags[~known] = VALID
        return flags

    def read_visible(box: Box) -> Bools:
        assert mask is not None
        seen: Bools = mask.read(box)[0] == 0
        return seen

    visible = read_visible if site is MaskSite.TARGET else None
    complete = nodata is None and given is None and (mask is None or site is not MaskSite.MEASURED)
    blank = given is not None and given.empty
    flags = everything if complete else nothing if blank else read_flags
    return Observation(measurement, source.bands, source.height, source.width, read_y, flags, visible)


def everything(box: Box) -> Flags:
    """The flags of an image of which every value is measured and valid."""
    return np.full(box.shape, MEASURED | VALID, np.uint8)


def nothing(box: Box) -> Flags:
    """The flags of an image of which every value exists and none is measured."""
    return np.full(box.shape, VALID, np.uint8)


def is_nodata(pixels: NDArray[Any], nodata: float) -> Bools:
    """Where a pixel (band, row, column) is missing: every band holds the nodata value."""
    missing: Bools = np.all(np.isnan(pixels) if np.isnan(nodata) else pixels == nodata, axis=0)
    return missing


def lifted(fine: Observation, lift: Lift, box: Box) -> tuple[Floats, Flags]:
    """(y, flags) of the next coarser level, for a box of its measured grid.

    A coarse value counts as measured only if everything below it was.
    """
    below = box.scale(lift.pool)
    y, measured, _ = fine.window(below.scale(fine.measurement.scale))
    valid = np.zeros(below.shape, bool)
    inside = below.intersect(Box(0, 0, fine.height, fine.width))
    valid[inside.within(below)] = fine.read_flags(inside) & VALID != 0
    if lift.fold > 1 and fine.read_visible is not None:
        height, width = fine.height * lift.fold, fine.width * lift.fold
        visible = mirrored(fine.read_visible, height, width, below.scale(lift.fold))
        measured = measured & _pooled(visible, lift.fold, np.logical_and)
    if lift.pool > 1:
        y = (_pooled(y.astype(np.float64), lift.pool, np.add) / lift.pool**2).astype(np.float32)
        measured = _pooled(measured, lift.pool, np.logical_and)
        valid = _pooled(valid, lift.pool, np.logical_or)
    return y, (measured * MEASURED | valid * VALID).astype(np.uint8)


def lifts_complete(fine: Observation, lift: Lift) -> bool:
    """Whether the next coarser level is complete because this one is, and no target mask is folded into it."""
    return fine.complete and (lift.fold == 1 or fine.read_visible is None)


def _pooled(values: NDArray[Any], size: int, combine: np.ufunc) -> NDArray[Any]:
    """Every block of ``size`` x ``size`` values combined into one.

    Pixel by pixel of the block: a reduction along two short axes takes several times as long.
    """
    pixels: Iterator[NDArray[Any]] = (values[..., row::size, col::size] for row in range(size) for col in range(size))
    return reduce(combine, pixels)

"""How near a result comes to what it should have been, where somebody knows that."""

from __future__ import annotations

from functools import partial
from math import sqrt

import numpy as np

from ..cluster.agenda import Chores
from ..tiling.box import Box
from ..tiling.errors import InputError
from ..tiling.inputs import TASK, boxes
from ..tiling.observe import is_nodata
from ..tiling.pyramid import PyramidSpec
from ..tiling.source import open_source
from .compile import Compiled
from .phases import Phase


def check_reference(reference: str, result: PyramidSpec) -> None:
    """Refuse a reference that is not of the size that a result will have."""
    found = open_source(reference)
    theirs, ours = (found.bands, found.height, found.width), result.shape(0)
    if theirs != ours:
        raise InputError(
            f"reference {reference} has {_size(theirs)}, and the result {_size(ours)}: give an image of that size"
        )


def rmse_course(compiled: Compiled, reference: str) -> Phase[float | None]:
    """The root of the mean squared error of a published result, in its own units, of all pixels that both have."""
    result, output = compiled.image.result, compiled.spec.output
    chores = [partial(_squares, output, reference, box) for box in boxes(result.height, result.width, TASK)]
    found: list[tuple[float, int]] = yield Chores(chores, anywhere=True)
    squares, count = sum(one for one, _ in found), sum(other for _, other in found)
    return sqrt(squares / count) if count else None


def _squares(output: str, reference: str, box: Box) -> tuple[float, int]:
    """The sum of squared differences in a box, and how many values it is of."""
    ours, theirs = open_source(output, level=0), open_source(reference)
    a, b = ours.read(box), theirs.read(box)
    there = np.ones(box.shape, np.bool_)
    for source, pixels in ((ours, a), (theirs, b)):
        if source.nodata is not None:
            there &= ~is_nodata(pixels, source.nodata)
    there &= np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    difference = a[:, there].astype(np.float64) - b[:, there].astype(np.float64)
    return float(np.square(difference).sum()), difference.size


def _size(shape: tuple[int, ...]) -> str:
    bands, height, width = shape
    return f"{height}x{width} pixels and {bands} bands"

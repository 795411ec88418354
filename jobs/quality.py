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
from ..tiling.source import Source, open_source
from .compile import Compiled
from .phases import Phase


def rmse_course(compiled: Compiled, reference: str) -> Phase[float]:
    """The root of the mean squared error of a published result, in its own units; missing pixels do not count."""
    result, output = compiled.image.result, compiled.spec.output
    chores = [partial(_squares, output, reference, box) for box in boxes(result.height, result.width, TASK)]
    found: list[tuple[float, int]] = yield Chores(chores)
    squares, count = sum(one for one, _ in found), sum(other for _, other in found)
    return sqrt(squares / count) if count else 0.0


def _squares(output: str, reference: str, box: Box) -> tuple[float, int]:
    """The sum of squared differences in a box, and how many values it is of."""
    ours, theirs = open_source(output, level=0), open_source(reference)
    if (ours.bands, ours.height, ours.width) != (theirs.bands, theirs.height, theirs.width):
        raise InputError(
            f"reference {reference} has {_size(theirs)}, and the result {_size(ours)}: give an image of that size"
        )
    a, b = ours.read(box), theirs.read(box)
    there = np.ones(box.shape, np.bool_)
    for source, pixels in ((ours, a), (theirs, b)):
        if source.nodata is not None:
            there &= ~is_nodata(pixels, source.nodata)
    difference = (a.astype(np.float64) - b.astype(np.float64))[:, there]
    return float(np.square(difference).sum()), difference.size


def _size(source: Source) -> str:
    return f"{source.height}x{source.width} pixels and {source.bands} bands"

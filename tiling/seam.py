"""The one measure of seams: how much steeper an image is across tile borders than elsewhere.

A border at position b is the step from pixel b-1 to pixel b::

    pixel   ...  b-2   b-1 | b   b+1  ...        step b = |x[b] - x[b-1]|, mean over bands

A measurement made of ``block`` x ``block`` means leaves its own pattern in the image, so a border is
compared only with inner lines of the same phase, ``position % block``, and of the same direction:

    ratio = sum of the border steps / sum over the border steps of the mean inner step of their kind

Where all borders have one phase and the image no preferred direction, this is the mean border step
over the mean inner step. 1 is no seam; the truth itself is seldom exactly 1, hence the excess.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .errors import InputError
from .grid import Axis

Bools = NDArray[np.bool_]
Image = NDArray[Any]


def borders(axis: Axis) -> tuple[int, ...]:
    """Where ownership changes along an axis: the first pixel of every tile but the first."""
    return tuple(axis.near(j) for j in range(1, axis.count))


def seam_ratio(
    image: Image, rows: Sequence[int], cols: Sequence[int], *, block: int, region: Box | Bools | None = None
) -> float:
    """Mean |gradient| across the borders over that across inner lines of the same phase.

    ``image`` is (band, row, column); ``rows`` and ``cols`` are border positions, those outside the
    image are left out. With a ``region`` (a box or a mask of pixels) a step counts only if both its
    pixels are inside.
    """
    inside = _inside(region, image.shape[1:])
    steps = []
    for axis, positions in ((0, rows), (1, cols)):
        lines = np.isin(np.arange(1, image.shape[1 + axis]), positions)
        lines = lines[:, None] if axis == 0 else lines[None, :]
        both = _before(inside, axis) & _after(inside, axis)
        steps.append((both & lines, both & ~lines))
    return _ratio(image, steps, block=block)


def seam_excess(
    image: Image,
    truth: Image,
    rows: Sequence[int],
    cols: Sequence[int],
    *,
    block: int,
    region: Box | Bools | None = None,
) -> float:
    """How much more of a seam the image has than the truth: the difference of their ratios."""
    return seam_ratio(image, rows, cols, block=block, region=region) - seam_ratio(
        truth, rows, cols, block=block, region=region
    )


def edge_ratio(image: Image, unknown: Bools, *, block: int, reach: int = 16) -> float:
    """The same figure across the border of a hole: steps between known and unknown pixels.

    ``image`` is (band, row, column), ``unknown`` (row, column), True where pixels were restored. Inner
    lines are the other steps between pixels at most ``reach`` from the border, on either side of it.
    """
    jumps = [_before(unknown, axis) != _after(unknown, axis) for axis in (0, 1)]
    border = np.zeros(unknown.shape, bool)
    for axis, jump in enumerate(jumps):
        _before(border, axis)[jump] = True
        _after(border, axis)[jump] = True
    close = _grown(border, reach)
    steps = [(jump, _before(close, axis) & _after(close, axis) & ~jump) for axis, jump in enumerate(jumps)]
    return _ratio(image, steps, block=block)


def _ratio(image: Image, steps: Sequence[tuple[Bools, Bools]], *, block: int) -> float:
    """The ratio, given for each axis which steps are borders and which are inner, as masks of steps."""
    across, expected, found = 0.0, 0.0, False
    pixels = image.astype(np.float64)
    for axis, (border, inner) in enumerate(steps):
        gradient = np.abs(_after(pixels, axis) - _before(pixels, axis)).mean(axis=0)
        phases = np.arange(1, image.shape[1 + axis]) % block
        for phase in np.unique(phases):
            lines = (slice(None),) * axis + (phases == phase,)
            at_border, at_inner = gradient[lines][border[lines]], gradient[lines][inner[lines]]
            if at_border.size and at_inner.size:
                across += float(at_border.sum())
                expected += float(at_inner.mean()) * at_border.size
                found = True
    if not found:
        raise InputError("no seam can be measured: no border has an inner line of its own phase inside the region")
    if expected == 0:
        return inf if across else 1.0
    return across / expected


def _before(pixels: NDArray[Any], axis: int) -> NDArray[Any]:
    """The pixel before each step, along rows (0) or columns (1) of the last two axes; a view."""
    return pixels[..., :-1, :] if axis == 0 else pixels[..., :-1]


def _after(pixels: NDArray[Any], axis: int) -> NDArray[Any]:
    """The pixel after each step; a view."""
    return pixels[..., 1:, :] if axis == 0 else pixels[..., 1:]


def _inside(region: Box | Bools | None, shape: tuple[int, ...]) -> Bools:
    if region is None:
        return np.ones(shape, bool)
    if isinstance(region, Box):
        inside = np.zeros(shape, bool)
        inside[region.intersect(Box(0, 0, *shape)).slices] = True
        return inside
    return region


def _grown(mask: Bools, reach: int) -> Bools:
    """Every pixel at most ``reach`` rows and columns from one of the mask."""
    for axis in (0, 1):
        ahead = np.cumsum(np.pad(mask, [(reach + 1, reach) if k == axis else (0, 0) for k in (0, 1)]), axis=axis)
        width, length = 2 * reach + 1, mask.shape[axis]
        until, before = np.take(ahead, range(width, width + length), axis), np.take(ahead, range(length), axis)
        mask = np.not_equal(until, before)
    return mask

"""What restores pictures without learning from any: interpolation, and membranes and plates over holes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import comb

import numpy as np
from numpy.linalg import matrix_power
from numpy.typing import NDArray

from benchmarks._damage import BANDS, MIDDLE, Damaged, Image, Mask

Places = NDArray[np.int64]
Method = Callable[[Damaged], Image]


def methods(scene: Damaged) -> Mapping[str, Method]:
    """The methods that suit a task, by name."""
    task = scene.task
    if task.scale > 1:
        return {"A+ y": spread, "bicubic": lambda one: enlarged(one, bicubic, 2), "Lanczos": _lanczos_enlarged}
    if task.gray:
        return {"A+ y": spread}
    return {"harmonic": lambda one: _filled(one, order=1), "biharmonic": lambda one: _filled(one, order=2)}


def spread(scene: Damaged) -> Image:
    """A+ y: every measured value all over its block and bands."""
    k = scene.task.scale
    seen = _completed(scene, order=0)
    return _all_bands(seen.repeat(k, axis=1).repeat(k, axis=2))


def enlarged(scene: Damaged, kernel: Callable[[Image], Image], reach: int) -> Image:
    """What was averaged down, interpolated; lost pixels are filled in first."""
    seen = _completed(scene, order=2)
    for axis in (1, 2):
        weights = _weights(seen.shape[axis], scene.task.scale, kernel, reach)
        seen = np.moveaxis(np.tensordot(weights, seen, (1, axis)), 0, axis)
    return _all_bands(seen.astype(np.float32))


def bicubic(x: Image) -> Image:
    """Keys' cubic convolution, a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def lanczos(x: Image) -> Image:
    """Lanczos' window of three lobes."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def _lanczos_enlarged(scene: Damaged) -> Image:
    return enlarged(scene, lanczos, 3)


def fill(image: Image, hidden: Mask, *, order: int) -> Image:
    """Lost pixels as the surface through all others that bends least: order 1 a membrane, 2 a thin plate.

    Where pixels are lost ``laplacian^order x`` is 0, borders being free. Rows that lie further than ``order`` apart
    know nothing of each other, so that lost pixels are eliminated a few rows at a time.
    """
    stiff = _Stiffness(*hidden.shape, order)
    filled = np.where(hidden, 0.0, image).astype(np.float64)
    wanted = -stiff.of(filled)
    lost = [np.add(np.argwhere(hidden[top : top + order]), (top, 0)).T for top in range(0, len(hidden), order)]
    before, carried, guess = np.zeros((2, 0), int), np.zeros((0, lost[0].shape[1])), np.zeros((0, len(image)))
    reduced = []
    for here, after in zip(lost, [*lost[1:], before], strict=True):
        ahead = stiff.between(before, here)
        block, told = stiff.between(here, here) - ahead.T @ carried, wanted[:, *here].T - ahead.T @ guess
        solved = np.linalg.solve(block, np.concatenate([stiff.between(here, after), told], axis=1))
        before, carried, guess = here, solved[:, : after.shape[1]], solved[:, after.shape[1] :]
        reduced.append((carried, guess))
    found = np.zeros((0, len(image)))
    for here, (carried, guess) in zip(reversed(lost), reversed(reduced), strict=True):
        found = guess - carried @ found
        filled[:, *here] = found.T
    return filled.astype(np.float32)


class _Stiffness:
    """``laplacian^order`` of a rectangle with free borders, a matrix of which any part is made when it is needed."""

    def __init__(self, rows: int, cols: int, order: int) -> None:
        """Second differences along both axes, and their powers."""
        down, along = _bending(rows), _bending(cols)
        self._terms = [
            (comb(order, k), matrix_power(down, k), matrix_power(along, order - k)) for k in range(order + 1)
        ]

    def of(self, image: Image) -> Image:
        """Applied to every band of an image."""
        return np.asarray(sum(times * (down @ image @ along) for times, down, along in self._terms))

    def between(self, ours: Places, theirs: Places) -> Image:
        """What some pixels, (row, column) by pixel, have to do with others."""
        (rows, cols), (others, columns) = ours, theirs
        parts = (
            times * down[np.ix_(rows, others)] * along[np.ix_(cols, columns)] for times, down, along in self._terms
        )
        return np.asarray(sum(parts))


def _bending(length: int) -> Image:
    """Minus the second difference along a line whose ends are free."""
    step = np.diff(np.eye(length), axis=0)
    return np.asarray(step.T @ step)


def _filled(scene: Damaged, *, order: int) -> Image:
    assert scene.hidden is not None
    return fill(scene.measured, scene.hidden, order=order)


def _completed(scene: Damaged, *, order: int) -> Image:
    """The measured means, of what was seen in each block alone; where nothing was, filled in (order 0: not at all)."""
    if scene.hidden is None:
        return scene.measured
    k = scene.task.scale
    rows, cols = scene.hidden.shape
    share = (~scene.hidden).reshape(rows // k, k, cols // k, k).mean(axis=(1, 3))
    means = MIDDLE + (scene.measured - MIDDLE) / np.maximum(share, 1 / k**2).astype(np.float32)
    return fill(means, share == 0, order=order) if order else means


def _all_bands(image: Image) -> Image:
    return np.broadcast_to(image, (BANDS, *image.shape[1:]))


def _weights(length: int, scale: int, kernel: Callable[[Image], Image], reach: int) -> Image:
    """The share of each measured value in each pixel of an axis, (pixels, values); ends are repeated."""
    at = (np.arange(length * scale) + 0.5) / scale - 0.5
    first = np.floor(at).astype(int) - reach + 1
    weights = np.zeros((length * scale, length))
    for tap in range(2 * reach):
        value = first + tap
        np.add.at(weights, (np.arange(len(at)), np.clip(value, 0, length - 1)), kernel(at - value))
    return weights / weights.sum(axis=1, keepdims=True)

"""What restores pictures without learning from any: interpolation, and membranes and plates over holes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks._damage import BANDS, MIDDLE, Damaged, Image, Mask

_ENOUGH, _ROUNDS = 1e-6, 4000
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

    Minimises ``|laplacian^(order / 2) x|^2`` by conjugate gradients, from a mean of what is near.
    """
    x = np.where(hidden, _from_near(image, hidden), image).astype(np.float64)

    def stiff(field: Image) -> Image:
        for _ in range(order):
            field = _laplacian(field)
        return np.where(hidden, field, 0.0)

    residual = -stiff(x)
    way, power = residual.copy(), float((residual**2).sum())
    least = _ENOUGH**2 * power
    for _ in range(_ROUNDS):
        if power <= least:
            break
        pulled = stiff(way)
        step = power / float((way * pulled).sum())
        x += step * way
        residual -= step * pulled
        power, before = float((residual**2).sum()), power
        way = residual + power / before * way
    return x.astype(np.float32)


def _laplacian(field: Image) -> Image:
    """Minus the sum of second differences, the borders free."""
    out = np.zeros_like(field)
    for axis in (1, 2):
        step = np.diff(field, axis=axis)
        ahead = [(0, 1) if k == axis else (0, 0) for k in range(3)]
        behind = [(1, 0) if k == axis else (0, 0) for k in range(3)]
        out += np.pad(step, behind) - np.pad(step, ahead)
    return out


def _from_near(image: Image, hidden: Mask) -> Image:
    """Every lost pixel as the mean of the smallest block around it that is not lost entirely."""
    if not hidden.any() or min(hidden.shape) < 2:
        return np.where(hidden, MIDDLE, image)
    rows, cols = hidden.shape
    grown = np.pad(hidden, ((0, rows % 2), (0, cols % 2)), constant_values=True)
    values = np.pad(image, ((0, 0), (0, rows % 2), (0, cols % 2)))
    blocks = (grown.shape[0] // 2, 2, grown.shape[1] // 2, 2)
    there = (~grown).reshape(blocks).sum(axis=(1, 3))
    sums = np.where(grown, 0, values).reshape(len(image), *blocks).sum(axis=(2, 4))
    coarse = _from_near(sums / np.maximum(there, 1), there == 0)
    return np.where(hidden, coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :rows, :cols], image)


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

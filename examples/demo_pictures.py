"""What the demo compares with, and how it shows what is wrong; images are (band, row, column), pictures 8-bit RGB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Picture = NDArray[np.uint8]

ERROR_SHOWN, STEP_SHOWN = 64, 24
"""Gray levels that have the brightest colour: of an error, and of a step across a border that the truth lacks."""
_LINE = 15
_RAMP = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
_GAP = 6


def bicubic(image: Image, scale: int) -> Floats:
    """An image so many times as large, by cubic interpolation (Keys, a = -1/2)."""
    return _stretched(_stretched(image.astype(np.float32), scale, axis=1), scale, axis=2)


def _stretched(image: Floats, scale: int, *, axis: int) -> Floats:
    size = image.shape[axis]
    at = (np.arange(size * scale) + 0.5) / scale - 0.5
    low = np.floor(at).astype(int)
    total = np.float32(0)
    for tap in (-1, 0, 1, 2):
        far = np.abs(at - low - tap)
        near = 1.5 * far**3 - 2.5 * far**2 + 1
        weight = np.where(far < 1, near, -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2).astype(np.float32)
        taken = np.take(image, np.clip(low + tap, 0, size - 1), axis)
        total = total + taken * (weight[:, None] if axis == 1 else weight)
    return np.asarray(total, np.float32)


def filled(image: Image, hole: Bools) -> Floats:
    """An image whose hole is filled smoothly from around it: from means of ever larger squares."""
    pixels = image.astype(np.float32)
    if not hole.any():
        return pixels
    odd = [(0, size % 2) for size in hole.shape]
    known = np.pad((~hole).astype(np.float32), odd, mode="edge")
    padded = np.pad(pixels, [(0, 0), *odd], mode="edge") * known
    weight, total = _halved(known), _halved(padded)
    coarse = filled(total / np.maximum(weight, 1), weight == 0)
    rows, cols = hole.shape
    return np.where(hole, bicubic(coarse, 2)[:, :rows, :cols], pixels)


def _halved(pixels: Floats) -> Floats:
    rows, cols = pixels.shape[-2:]
    summed: Floats = pixels.reshape(*pixels.shape[:-2], rows // 2, 2, cols // 2, 2).sum(axis=(-3, -1))
    return summed


def rgb(image: Image) -> Picture:
    """The first three bands, as they are seen."""
    seen = np.clip(np.rint(image[:3].astype(np.float32)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(seen.transpose(1, 2, 0))


def error_map(image: Image, truth: Image) -> Picture:
    """The mean absolute error of a pixel's bands."""
    error = np.abs(image.astype(np.float32) - truth).mean(axis=0)
    return _ramp(error / ERROR_SHOWN)


def seam_map(
    image: Image, truth: Image, rows: Sequence[int], cols: Sequence[int], inside: Bools, *, block: int
) -> Picture:
    """How much steeper an image is across its tiles' borders than a ``block`` beside them, where the truth is not.

    Drawn on the borders, over the dimmed image.
    """
    excess = np.zeros(inside.shape, np.float32)
    for axis, borders in ((0, rows), (1, cols)):
        steps = [np.abs(np.diff(one.astype(np.float32), axis=1 + axis)).mean(axis=0) for one in (image, truth)]
        steeper = np.moveaxis(steps[0] - steps[1], axis, 0)
        lines, within = np.moveaxis(excess, axis, 0), np.moveaxis(inside, axis, 0)
        for at in borders:
            if not block < at < len(lines) - block:
                continue
            beside = (steeper[at - 1 - block] + steeper[at - 1 + block]) / 2
            along = np.convolve(steeper[at - 1] - beside, np.full(_LINE, 1 / _LINE), mode="same")
            seen = np.where(within[at - 1] & within[at], along, 0)
            lines[at - 2 : at + 2] = np.maximum(lines[at - 2 : at + 2], seen)
    dimmed = image[:3].mean(axis=0)[..., None] * np.float32(0.3)
    share = np.clip(excess / (STEP_SHOWN / 4), 0, 1)[..., None]
    shown = dimmed * (1 - share) + _ramp(excess / STEP_SHOWN) * share
    return np.ascontiguousarray(np.rint(shown).astype(np.uint8))


def _ramp(share: Floats) -> Picture:
    at = np.clip(share, 0, 1) * (len(_RAMP) - 1)
    bands = [np.interp(at, np.arange(len(_RAMP)), band) for band in _RAMP.T]
    return np.ascontiguousarray(np.rint(np.stack(bands, axis=-1)).astype(np.uint8))


def halved(picture: Picture, side: int) -> Picture:
    """A picture, halved until it is no wider than so many pixels."""
    while picture.shape[1] > side:
        rows, cols = (size // 2 for size in picture.shape[:2])
        whole = picture[: 2 * rows, : 2 * cols].astype(np.float32)
        picture = np.rint(whole.reshape(rows, 2, cols, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
    return np.ascontiguousarray(picture)


def sheet(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Pictures of one size in rows, white between them."""
    strips = [_joined(row, axis=1) for row in rows]
    return _joined(strips, axis=0)


def _joined(pictures: Sequence[Picture], *, axis: int) -> Picture:
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.ascontiguousarray(np.concatenate(parts, axis=axis))

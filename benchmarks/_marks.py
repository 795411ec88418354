"""How near a restored picture comes to the truth, by the pixel and to the eye.

``texture`` is the perceptual figure, and needs no network: by how many decibels local contrast is off. Steps between
neighbouring pixels in four directions, of the picture and of its halves and quarters, are sorted within windows of 8 by
8 pixels, and the figure is the mean of ``|20 log10 (ours / theirs)|``, the smallest step beside the smallest and the
largest beside the largest. So it does not ask where each leaf lies, but whether there are as many and as distinct ones
as there should be: what is smooth lacks contrast, noise has too much, blocks have it in the wrong places, and all of
these cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log10, nan

import numpy as np

from benchmarks._damage import Damaged, Image, Mask
from tileloom.tiling.seam import edge_ratio, seam_excess

Borders = tuple[tuple[int, ...], tuple[int, ...]]
"""Where tiles meet, along rows and along columns."""
PHASES = 8
"""Borders are compared with lines of their own phase: the coarsest measurement's block."""
_OCTAVES, _WINDOW = 3, 8
_FEWEST = 32
"""Steps across borders that a seam is measured in at least."""
_FAINT = 1 / 255
"""What is added to a step: less than one of 8 bits nobody sees."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Of the pixels that were to be restored: PSNR in dB, SSIM, texture in dB, excess of seams and of the hole's edge.

    ``seam`` is no number where too few of the pixels lie at borders; ``edge`` is 0 where there is no hole; ``misfit``
    is the largest ``|A x - y|``, of a data range of 1.
    """

    psnr: float
    ssim: float
    texture: float
    seam: float
    edge: float
    misfit: float

    @classmethod
    def of(cls, image: Image, scene: Damaged, borders: Borders, *, phases: int = PHASES) -> Marks:
        """The marks of a restored scene, whose borders are compared with lines of their own of so many phases."""
        truth, unknown = scene.truth, scene.unknown
        seen = np.clip(image, 0, 1)
        again = scene.task.measure(image, scene.hidden) - scene.measured
        holed = scene.task.exact and scene.hidden is not None
        return cls(
            psnr=psnr(seen, truth, unknown),
            ssim=ssim(seen, truth, unknown),
            texture=texture(seen, truth, unknown),
            seam=seam_excess(seen, truth, *borders, block=phases, region=unknown) if _seen(borders, unknown) else nan,
            edge=edge_ratio(seen, unknown, block=1) - edge_ratio(truth, unknown, block=1) if holed else 0.0,
            misfit=float(np.abs(again).max()),
        )


def _seen(borders: Borders, where: Mask) -> bool:
    """Whether a seam in these pixels would tell itself from chance."""
    rows, cols = (list(found) for found in borders)
    down = where[rows] & where[np.subtract(rows, 1)]
    along = where[:, cols] & where[:, np.subtract(cols, 1)]
    return int(down.sum() + along.sum()) >= _FEWEST


def psnr(image: Image, truth: Image, where: Mask) -> float:
    """Peak signal to noise, in dB."""
    error = float(np.square(image.astype(np.float64) - truth)[:, where].mean())
    return -10 * log10(error) if error else inf


def ssim(image: Image, truth: Image, where: Mask) -> float:
    """Structural similarity (Wang et al., 2004), windows of standard deviation 1.5, mean over bands."""
    x, y = image.astype(np.float64), truth.astype(np.float64)
    mx, my = _blurred(x, 1.5), _blurred(y, 1.5)
    vx, vy, both = (_blurred(a * b, 1.5) - ma * mb for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my)))
    light = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
    return float((light * (2 * both + 0.03**2) / (vx + vy + 0.03**2))[:, where].mean())


def texture(image: Image, truth: Image, where: Mask) -> float:
    """Decibels by which local contrast is off, as the module says; windows count by what of them is ``where``."""
    x, y, weight = image.astype(np.float64), truth.astype(np.float64), where[None].astype(np.float64)
    found = []
    for _ in range(_OCTAVES):
        share = _windows(weight).mean(axis=-1)
        for ours, theirs in zip(_contrasts(x), _contrasts(y), strict=True):
            off = np.abs(20 * np.log10((ours + _FAINT) / (theirs + _FAINT))).mean(axis=-1)
            found.append(float((off * share).sum() / (share.sum() * len(off))))
        x, y, weight = (pooled(part) for part in (x, y, weight))
    return float(np.mean(found))


def _contrasts(x: Image) -> list[Image]:
    """The steps from every pixel to the next, sorted in each window, for four directions."""
    padded = np.pad(x, ((0, 0), (0, 1), (1, 1)), mode="edge")
    here = padded[:, :-1, 1:-1]
    steps = (padded[:, :-1, 2:], padded[:, 1:, 1:-1], padded[:, 1:, 2:], padded[:, 1:, :-2])
    return [np.sort(_windows(np.abs(there - here)), axis=-1) for there in steps]


def _windows(x: Image) -> Image:
    """The values of every whole window, (band, row, column, value)."""
    bands, rows, cols = x.shape
    down, right = rows // _WINDOW, cols // _WINDOW
    cut = x[:, : down * _WINDOW, : right * _WINDOW].reshape(bands, down, _WINDOW, right, _WINDOW)
    return cut.swapaxes(2, 3).reshape(bands, down, right, _WINDOW**2)


def pooled(x: Image) -> Image:
    """Every 2 x 2 pixels as one."""
    bands, rows, cols = x.shape
    return x.reshape(bands, rows // 2, 2, cols // 2, 2).mean(axis=(2, 4))


def _blurred(x: Image, width: float) -> Image:
    """Every band smoothed by a Gaussian, its ends mirrored."""
    reach = int(3.5 * width + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        length = x.shape[axis]
        padded = np.pad(x, [(reach, reach) if k == axis else (0, 0) for k in range(3)], mode="symmetric")
        x = sum(weight * np.take(padded, range(k, k + length), axis) for k, weight in enumerate(kernel))
    return x

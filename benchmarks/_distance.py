"""How far filled holes are from true ones as a whole: how often what is seen in them, not what lies where.

A sliced Wasserstein distance of patches, with neither a network nor a judge that learns (as Karras et al., 2018, took
for whole pictures). A picture is split into what each halving loses, three times, and what is left::

    x_0 = x,    x_k+1 = means of 2 x 2 pixels of x_k,    d_k = x_k - x_k+1 repeated;    d_0, d_1, d_2, x_3

Of each part 3 x 3 values around some lost pixels are looked at, the same places in both pictures, in units of the
truth's standard deviation. They are projected on fixed random directions; sorted along each, the mean difference of
the two sets is their Wasserstein distance there. The figure is the mean over directions and parts: 0 for equal sets; a
fill without contrast is as far away as one with too much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks._damage import Image, Mask
from benchmarks._marks import pooled

Patches = Sequence[NDArray[np.float64]]
"""Of each part of a picture (place, band, value)."""

_HALVINGS, _DIRECTIONS, _PLACES = 3, 64, 2048
_AROUND = [(row, col) for row in (0, 1, 2) for col in (0, 1, 2)]
_FAINT = 1e-3
"""A standard deviation below which nothing is seen."""


def patches(image: Image, lost: Mask) -> Patches:
    """The patches around some of the lost pixels of a picture, always the same ones; its sides are multiples of 8."""
    rows, cols = np.nonzero(lost)
    some = np.random.default_rng(0).permutation(len(rows))[:_PLACES]
    rows, cols = rows[some], cols[some]
    found = []
    for halving, part in enumerate(_parts(image.astype(np.float64))):
        padded = np.pad(part, ((0, 0), (1, 1), (1, 1)), mode="edge")
        up, left = rows >> halving, cols >> halving
        found.append(np.stack([padded[:, up + row, left + col].T for row, col in _AROUND], axis=-1))
    return found


def distance(ours: Sequence[Patches], theirs: Sequence[Patches]) -> float:
    """Between the patches of some pictures and those of their truths."""
    return float(np.mean([_sliced(*pair) for pair in zip(_together(ours), _together(theirs), strict=True)]))


def _parts(x: Image) -> list[Image]:
    parts = []
    for _ in range(_HALVINGS):
        coarser = pooled(x)
        parts.append(x - coarser.repeat(2, axis=1).repeat(2, axis=2))
        x = coarser
    return [*parts, x]


def _together(pictures: Sequence[Patches]) -> list[NDArray[np.float64]]:
    return [np.concatenate(part) for part in zip(*pictures, strict=True)]


def _sliced(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    scale = np.maximum(theirs.std(axis=(0, 2), keepdims=True), _FAINT)
    flat = [(part / scale).reshape(len(part), -1) for part in (ours, theirs)]
    directions = np.random.default_rng(0).standard_normal((flat[0].shape[1], _DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    first, second = (np.sort(part @ directions, axis=0) for part in flat)
    return float(np.abs(first - second).mean())

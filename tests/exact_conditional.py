"""Exact draws of a Gaussian field given what was measured: the floor that no way of restoring it can beat.

The field's covariance is a product over rows and columns, and so is what it takes to condition on
block means or on everything around a rectangular hole: matrices of one axis do all of it, at any size.
A conditional draw is Matheron's rule: an unconditional one plus the best estimate of what it lacks.
Arrays are (band, row, column), float64.
"""

import numpy as np
from numpy.linalg import solve

from tileloom.models.gaussian import axis_covariance


def draw(spec, shape, *, seed):
    """An unconditional draw, like ``sample_field`` but in float64 and of independent bands."""
    rows, cols = (_root(axis_covariance(spec, size)) for size in shape[1:])
    return spec.std * rows @ np.random.default_rng(seed).standard_normal(shape) @ cols.T


def given_block_means(spec, y, scale, *, seed):
    """A draw of the field whose ``scale`` x ``scale`` block means are ``y``."""
    unconditional = draw(spec, (len(y), *(scale * size for size in y.shape[1:])), seed=seed)
    lacking = y - spec.mean - block_means(unconditional, scale)
    rows, cols = (_from_means(spec, size, scale) for size in y.shape[1:])
    return spec.mean + unconditional + rows @ lacking @ cols.T


def around_hole(spec, x, hole, *, seed):
    """``x`` with the pixels of a box drawn anew, given all the others."""
    known = x.astype(np.float64) - spec.mean
    known[:, *hole.slices] = 0
    rows, cols = (_beyond_estimate(spec, size, gap) for size, gap in zip(x.shape[1:], hole.slices, strict=True))
    # The inverse covariance is a product over the axes, and so is its part inside the hole. What the pixels
    # around the hole leave open is therefore what each axis alone leaves open, one after the other.
    known[:, *hole.slices] = rows @ (draw(spec, x.shape, seed=seed) - known) @ cols.T
    return spec.mean + known


def block_means(x, scale):
    """Means of ``scale`` x ``scale`` blocks."""
    bands, height, width = x.shape
    return x.reshape(bands, height // scale, scale, width // scale, scale).mean(axis=(2, 4))


def _root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(min=0))


def _from_means(spec, blocks, scale):
    """The best estimate of a line of pixels from the means of its blocks, a matrix (pixels, blocks)."""
    covariance = axis_covariance(spec, blocks * scale)
    pooled = covariance.reshape(blocks * scale, blocks, scale).mean(axis=2)
    return solve(axis_covariance(spec, blocks, scale), pooled.T).T


def _beyond_estimate(spec, size, gap):
    """What takes from the pixels of a gap their best estimate by those outside it, a matrix (gap, pixels)."""
    covariance = axis_covariance(spec, size)
    inside = np.zeros(size, bool)
    inside[gap] = True
    rows = np.eye(size)[inside]
    rows[:, ~inside] = -solve(covariance[np.ix_(~inside, ~inside)], covariance[np.ix_(~inside, inside)]).T
    return rows

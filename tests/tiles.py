"""Small tiles of every kind, for the tests of what restores them."""

from dataclasses import replace

import numpy as np

from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.measurement import MaskSite, Measurement
from tileloom.tiling.work import TileInputs

TILE, BANDS, LEVELS = 8, 2, 3


def tile(at, **changes):
    """One of many tiles of several images, levels and tasks."""
    rng = np.random.default_rng(at)
    measurement = [Measurement(2), Measurement(mask=MaskSite.MEASURED), Measurement(gray=True, sigma=0.1)][at % 3]
    y_shape = 1 if measurement.gray else BANDS, TILE // measurement.scale, TILE // measurement.scale
    context = rng.standard_normal((BANDS, TILE, TILE)).astype(np.float32) if at % 2 else None
    inputs = TileInputs(
        image=f"scene-{at % 4}",
        key=TileKey(at % LEVELS, at, 1),
        box=Box(4 * at, 4, 4 * at + TILE, 4 + TILE),
        measurement=measurement,
        y=rng.standard_normal(y_shape).astype(np.float32),
        measured=rng.random(y_shape) < 0.6 if measurement.mask is MaskSite.MEASURED else np.ones(y_shape, bool),
        context=context,
        context_mask=None if context is None else np.arange(TILE)[None, :] < np.full((TILE, 1), 3),
    )
    return replace(inputs, **changes)


def run(work, state, steps=None):
    """A state after some steps, or all, without any company."""
    for _ in range(work.calls_per_tile if steps is None else steps):
        (state,) = work.step([state])
    return state

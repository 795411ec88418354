"""Scenes that no model was trained on, and what is done to them: all that the quality benchmark restores.

Pictures are float32 in [0, 1], (band, row, column); ``hidden`` is (row, column), True where pixels are lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tileloom.tiling.box import Box
from tileloom.tiling.terra.scene import Cover, Terra

Image = NDArray[Any]
Mask = NDArray[np.bool_]

SEEDS = (102, 120, 104, 109, 122, 115, 118, 103)
"""A town, fields, a coast, woods, all of them again: `examples/terra/train.yaml` learns from other seeds."""
BANDS = 4
MIDDLE = np.float32(0.5)
"""What a lost pixel counts as in a mean: 0 of the model's range of [-1, 1]."""
_SOME_CLOUDS = 0.15, 0.35


def rgb8(picture: Image) -> Image:
    """The first three bands as they are looked at: (row, column, band), 8 bits."""
    seen = np.clip(np.rint(picture[:3] * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(seen.transpose(1, 2, 0))


def _stripes(seed: int, box: Box) -> Mask:
    return _covered(Cover(seed, stripes=0.15), box)


def _scratches(seed: int, box: Box) -> Mask:
    return _covered(Cover(seed, stripes=0.05), box)


def _clouds(seed: int, box: Box) -> Mask:
    """The first clouds from the scene's seed on that hide neither too little nor too much of it."""
    low, high = _SOME_CLOUDS
    covers = (_covered(Cover(1000 * seed + further, clouds=0.25), box) for further in count())
    return next(cover for cover in covers if low <= cover.mean() <= high)


def _scattered(seed: int, box: Box) -> Mask:
    hidden: Mask = np.random.default_rng(seed).random(box.shape) < 0.3
    return hidden


def _covered(cover: Cover, box: Box) -> Mask:
    return cover.hide(np.zeros((1, *box.shape), np.float32), box)[1]


@dataclass(frozen=True)
class Task:
    """One way to damage a picture: pixels are lost, bands averaged, then ``scale`` x ``scale`` pixels."""

    name: str
    hides: Callable[[int, Box], Mask] | None = None
    gray: bool = False
    scale: int = 1

    @property
    def job(self) -> str:
        """The task that a job is given."""
        parts = ["inpaint"] * bool(self.hides) + ["colorize"] * self.gray + [f"sr:{self.scale}"] * (self.scale > 1)
        return ", ".join(parts)

    @property
    def exact(self) -> bool:
        """Whether what is measured are pixels themselves."""
        return not self.gray and self.scale == 1

    def measure(self, picture: Image, hidden: Mask | None) -> Image:
        """What is left of a picture."""
        seen = picture if hidden is None else np.where(hidden, MIDDLE, picture)
        if self.gray:
            seen = seen.mean(axis=0, keepdims=True)
        bands, rows, cols = seen.shape
        k = self.scale
        blocks = seen.reshape(bands, rows // k, k, cols // k, k).astype(np.float64)
        return blocks.mean(axis=(2, 4)).astype(np.float32)


TASKS = {
    task.name: task
    for task in (
        Task("sr:2", scale=2),
        Task("sr:4", scale=4),
        Task("sr:8", scale=8),
        Task("stripes", _stripes),
        Task("clouds", _clouds),
        Task("scattered", _scattered),
        Task("colorize", gray=True),
        Task("old-photo", _scratches, gray=True, scale=2),
    )
}


@dataclass(frozen=True)
class Damaged:
    """A scene, what was done to it, and what is left."""

    seed: int
    task: Task
    truth: Image
    measured: Image
    hidden: Mask | None

    @classmethod
    def of(cls, task: Task, seed: int, side: int) -> Damaged:
        """The corner of a scene, damaged."""
        box = Box(0, 0, side, side)
        truth = Terra(seed, BANDS, "float32").look(box)[0]
        hidden = task.hides(seed, box) if task.hides else None
        return cls(seed, task, truth, task.measure(truth, hidden), hidden)

    @property
    def unknown(self) -> Mask:
        """Which pixels are to be restored."""
        if self.hidden is not None and self.task.exact:
            return self.hidden
        return np.ones(self.truth.shape[1:], np.bool_)

    @property
    def name(self) -> str:
        """What the image is called by in a job."""
        return f"scene-{self.seed}"

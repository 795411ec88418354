"""Holes of every kind in scenes that no model was trained on: few or many pixels of them, and one wider than a tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count

import numpy as np

from benchmarks._damage import SEEDS, Damaged, Mask, Task
from tileloom.models.training import holes
from tileloom.models.training.holes import Random
from tileloom.tiling.box import Box

Kind = Callable[[int, Random], Mask]
Share = tuple[float, float]

KINDS: Mapping[str, tuple[Kind, Share, Share]] = {
    "strokes": (holes.free_form, (0.03, 0.12), (0.35, 0.55)),
    "stripes": (holes.stripes, (0.1, 0.2), (0.4, 0.5)),
    "clouds": (holes.clouds, (0.03, 0.12), (0.3, 0.5)),
    "scratches": (holes.scratches, (0.002, 0.01), (0.02, 0.04)),
    "scattered": (holes.scattered, (0.02, 0.12), (0.55, 0.7)),
}
"""Each kind as training draws it, and which share of a scene is lost where it is small and where it is large."""
LAKE = "a hole wider than a tile"


@dataclass(frozen=True)
class Case:
    """Holes of one kind and size, in some scenes; of some cases a second seed is drawn as well."""

    name: str
    hides: Callable[[int, Box], Mask]
    side: int
    seeds: tuple[int, ...]
    twice: bool = False

    @cached_property
    def scenes(self) -> list[Damaged]:
        """The scenes, with their holes."""
        return [Damaged.of(Task(self.name, self.hides), seed, self.side) for seed in self.seeds]


def cases(side: int, wide: int, *, scenes: int) -> list[Case]:
    """All cases: scenes of one side for every kind and size, and a wider one."""
    found = []
    for kind, (draw, small, large) in KINDS.items():
        for size, share in (("small", small), ("large", large)):
            hides = partial(_hidden, draw, share)
            found.append(Case(f"{size} {kind}", hides, side, SEEDS[:scenes], twice=kind == "strokes"))
    return [*found, Case(LAKE, _lake, wide, SEEDS[:1], twice=True)]


def depth(lost: Mask) -> float:
    """How many pixels a lost one lies from the nearest known one, in rows or columns, on average."""
    apart, left = 0, lost
    while inside := int(left.sum()):
        apart += inside
        left = np.pad(left, 1, mode="edge")
        left = left[:-2] & left[1:-1] & left[2:]
        left = left[:, :-2] & left[:, 1:-1] & left[:, 2:]
    return apart / int(lost.sum())


def _hidden(draw: Kind, share: Share, seed: int, box: Box) -> Mask:
    """The first holes of a scene's own that lose such a share of it."""
    low, high = share
    drawn = (draw(box.height, np.random.default_rng((seed, further))) for further in count())
    return next(lost for lost in drawn if low <= lost.mean() <= high)


def _lake(seed: int, box: Box) -> Mask:
    """A disc in the middle, a little over half as wide as the scene."""
    rows, cols = np.ogrid[: box.height, : box.width]
    middle = (box.height - 1) / 2
    return np.asarray(np.hypot(rows - middle, cols - middle) < 0.27 * box.height)

"""What the synthesis benchmark draws: pictures of what maps of labels say, in several ways, each kept once it is there.

Pictures are float32 in [0, 1], (scene, band, row, column); maps are (scene, row, column).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._damage import BANDS, SEEDS, Image
from benchmarks._kept import keep
from benchmarks._study import NAIVE, ONE_LEVEL, OURS, PUBLISHED, SAMPLE, digest
from benchmarks._weaving import Borders, Options, run_images
from tileloom.models.device import CPU, best_device
from tileloom.models.kinds import contract_of, identity_of
from tileloom.tiling.box import Box
from tileloom.tiling.errors import InputError
from tileloom.tiling.terra.land import Kinds, Use
from tileloom.tiling.terra.scene import Terra

CLASSES = len(Use)
SCALES = (1.0, 1.5, 2.0, 3.0)
SHUFFLED, AGAIN = "shuffled labels", "another seed"
SWAPPED = {number: (number + CLASSES // 2) % CLASSES for number in range(CLASSES)}
"""Each class is drawn as the one half of them further on, none of which it is like: water as wood, crops as roofs."""


def scale_name(scale: float) -> str:
    """What pictures of a guidance scale are called by."""
    return f"scale {scale:g}"


BASE = scale_name(SCALES[0])
"""What a job draws that asks for nothing else."""


@dataclass(frozen=True)
class Size:
    """The side in tiles of the scenes that are read, those in pixels of the ones looked at for seams; steps; scenes.

    All ways to lay tiles are compared on the first of the large ones, naive ones and a job's own on any others.
    """

    side: float = 3.25
    large: tuple[int, ...] = (512,)
    steps: int = SAMPLE["steps"]
    seeds: tuple[int, ...] = SEEDS


@dataclass(frozen=True)
class Way:
    """Some scenes, of so many pixels a side, drawn by jobs with these options."""

    options: Options
    seeds: tuple[int, ...]
    side: int


@dataclass(frozen=True)
class Drawn:
    """Pictures of one way, the borders of their tiles, and network calls of each."""

    pictures: Image
    borders: Borders
    calls: int


class Drawings:
    """All pictures of a size by one model; those that are in ``out`` are not drawn again."""

    def __init__(self, model: Mapping[str, Any], size: Size, out: Path) -> None:
        """Refuse a model of other pictures; nothing is drawn yet."""
        contract = contract_of(model)
        if (contract.bands, contract.label_classes) != (BANDS, CLASSES):
            raise InputError(
                f"model {contract.name} draws {contract.bands} bands of {contract.label_classes or 'no'} classes, and "
                f"scenes have {BANDS} bands and {CLASSES} classes: name one that was trained on scenes"
            )
        self.model, self.size, self.out, self.tile = model, size, out, contract.native_tile

    def ways(self) -> dict[str, Way]:
        """Of the scenes that are read, all ways to draw them."""

        def way(**options: Any) -> Way:  # noqa: ANN401  the keys of a job
            return Way(options, self.size.seeds, round(self.size.side * self.tile))

        scales = {scale_name(scale): way(model={**self.model, "guidance_scale": scale}) for scale in SCALES[1:]}
        others = {ONE_LEVEL: way(levels=1), AGAIN: way(seed=1), SHUFFLED: way(classes=SWAPPED)}
        return {BASE: way(), **scales, **others}

    def weaves(self) -> dict[int, dict[str, Way]]:
        """By the side of a large scene, all ways that tiles lie in it."""
        options: dict[str, Options] = {
            NAIVE: {"weave": "naive"},
            PUBLISHED: {"stride": self.tile // 2, "guard": 0, "levels": 1},
            OURS: {},
            ONE_LEVEL: {"levels": 1},
        }
        seeds, first = self.size.seeds[:1], self.size.large[0]
        return {
            side: {name: Way(options[name], seeds, side) for name in (options if side == first else (NAIVE, OURS))}
            for side in self.size.large
        }

    def drawn(self, way: Way) -> Drawn:
        """The pictures of a way, from where they are kept, or else drawn now."""
        told = self._told(way)
        identity = identity_of(told.pop("model", self.model))
        file = self.out / f"{digest([told, way.seeds, way.side, identity])}.npz"
        if not file.exists():
            self._draw(way, file)
        with np.load(file) as kept:
            borders = tuple(kept["rows"].tolist()), tuple(kept["cols"].tolist())
            return Drawn(kept["pictures"].astype(np.float32) / np.float32(255), borders, int(kept["calls"]))

    def _draw(self, way: Way, file: Path) -> None:
        maps = scenes(way.seeds, way.side)[1]
        rows = [
            {"id": f"scene-{seed}", "input": f"blank:{way.side}x{way.side}", "labels": labels[None]}
            for seed, labels in zip(way.seeds, maps, strict=True)
        ]
        # An accelerator takes as many tiles at once as it finds to be best.
        shape = {"batch": 4, "lanes": len(os.sched_getaffinity(0))} if best_device() == CPU else {}
        usual = {"task": "generate", "dtype": "uint8", "model": self.model, **shape}
        found = run_images(rows, {**usual, **self._told(way)})
        pictures, (rows_at, cols_at) = np.stack([one.image for one in found]), found[0].borders

        def write(begun: Path) -> None:
            with begun.open("wb") as kept:
                np.savez_compressed(kept, pictures=pictures, rows=rows_at, cols=cols_at, calls=found[0].calls)

        keep(file, write)

    def _told(self, way: Way) -> dict[str, Any]:
        """What decides a way's pictures besides its maps."""
        return {**SAMPLE, "steps": self.size.steps, **way.options}


@cache
def scenes(seeds: tuple[int, ...], side: int) -> tuple[Image, Kinds]:
    """The corners of scenes, as pictures and as maps."""
    seen, shown = zip(*(Terra(seed, BANDS, "float32").look(Box(0, 0, side, side)) for seed in seeds), strict=True)
    return np.stack(seen), np.stack(shown)

"""The cells of the quality benchmark, and the file that remembers those that are done.

A cell is one task restored in one way, for a few scenes at a time. All ways of the first scenes come before any of the
next, so that a study that was stopped compares all of them, on fewer scenes.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from benchmarks import _classical
from benchmarks._damage import TASKS, Damaged, Image, rgb8
from benchmarks._marks import Marks
from benchmarks._weaving import Woven, feathered, usual_axis, woven
from tileloom.jobs import drawing
from tileloom.models.kinds import contract_of, identity_of
from tileloom.tiling.seam import borders
from tileloom.tiling.weave_picture import write_png

LOW_NOISE: Mapping[str, Any] = {"sampler": "ddnm", "eta": 0.0, "spacing": "fine", "steps": drawing.LOW_NOISE_STEPS}
SURFACE: Mapping[str, Any] = {
    **{"sampler": "ddnm", "eta": drawing.SURFACE_ETA, "spacing": "fine", "steps": drawing.SURFACE_STEPS},
    "begin": drawing.SURFACE,
}
SAMPLE: Mapping[str, Any] = {"sampler": "ddim-ddnm", "eta": 1.0, "steps": 25}
OURS, SAMPLED, SMOOTH = "tileloom", "tileloom, a sample", "tileloom, low noise"
NAIVE_SURFACE, MORE = "naive tiles, from a surface", "tileloom, 25 steps"
ONE_LEVEL, SINGLE = "tileloom, one level", "tileloom, float32"
NAIVE, FEATHERED, PUBLISHED, JOINT, WHOLE = "naive tiles", "feathered tiles", "published MSR", "joint", "whole image"
SWEPT = ("sr:4", "clouds")
SWEEP = ((1 / 2, 1 / 8), (5 / 8, 1 / 8), (3 / 4, 1 / 16), (3 / 4, 3 / 16))
"""Strides and guards beside the default's (3/4, 1/8), in tiles."""
PICTURED = {"sr:4": 102, "stripes": 120, "clouds": 109}
"""Tasks of which pictures are kept, of one scene each."""


@dataclass(frozen=True)
class Sampling:
    """How a task is drawn: by ``others``, by us, and by us in ``another`` way, which ``beside`` is the name of."""

    others: Mapping[str, Any]
    ours: Mapping[str, Any]
    beside: str
    another: Mapping[str, Any]

    @classmethod
    def of(cls, task: str) -> Sampling:
        """As jobs are by themselves, but for lone pixels, which are drawn without fresh noise."""
        if task == "scattered":
            return cls(LOW_NOISE, {**SURFACE, "eta": 0.0}, SAMPLED, SURFACE)
        if TASKS[task].exact:
            return cls(SAMPLE, SURFACE, SAMPLED, SAMPLE)
        if task.startswith("sr:"):
            return cls(LOW_NOISE, LOW_NOISE, SAMPLED, SAMPLE)
        return cls(SAMPLE, SAMPLE, SMOOTH, LOW_NOISE)


@dataclass(frozen=True)
class Size:
    """A side in tiles, steps (None: as many as suit a task), tasks, scenes, and how many of them at a time."""

    side: float = 4.0
    steps: int | None = None
    tasks: Sequence[str] = tuple(TASKS)
    seeds: Sequence[int] = ()
    group: int = 4
    sweeps: bool = True


@dataclass(frozen=True)
class Cell:
    """Some scenes of one task, restored in one way; options None: without a network."""

    task: str
    way: str
    seeds: tuple[int, ...]
    options: Mapping[str, Any] | None


@dataclass(frozen=True)
class Record:
    """What one scene came to in one way."""

    key: str
    task: str
    way: str
    seed: int
    marks: Marks
    calls: int


class Study:
    """All cells of a size for one model; what is done is in ``out/cells.jsonl``, and is not done again."""

    def __init__(self, model: Mapping[str, Any], size: Size, out: Path) -> None:
        """Read what is done."""
        self.model, self.size, self.out = model, size, out
        out.mkdir(parents=True, exist_ok=True)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        told = [json.loads(line) for line in lines]
        self._records = {one["key"]: Record(**{**one, "marks": Marks(**one["marks"])}) for one in told}

    @property
    def _file(self) -> Path:
        return self.out / "cells.jsonl"

    @cached_property
    def tile(self) -> int:
        """Pixels along a side of the model's tile."""
        return contract_of(self.model).native_tile

    @property
    def side(self) -> int:
        """Pixels along a side of a scene."""
        return round(self.size.side * self.tile)

    @cached_property
    def _identity(self) -> Mapping[str, Any]:
        return identity_of(self.model)

    def cells(self) -> Iterator[Cell]:
        """All cells, in the order in which they are run."""
        seeds, group = tuple(self.size.seeds), self.size.group
        for at in range(0, len(seeds), group):
            for task in self.size.tasks:
                scene = Damaged.of(TASKS[task], seeds[0], self.tile)
                for way in _classical.methods(scene):
                    yield Cell(task, way, seeds[at : at + group], None)
                for way, options in self.ways(task).items():
                    yield Cell(task, way, seeds[at : at + group], options)

    def ways(self, task: str) -> dict[str, Mapping[str, Any]]:
        """The ways to restore a task with the network: the options of their jobs."""
        tile = self.tile
        drawn, steps = Sampling.of(task), {} if self.size.steps is None else {"steps": self.size.steps}
        theirs, ours = {**drawn.others, **steps}, {**drawn.ours, **steps}
        ways: dict[str, Mapping[str, Any]] = {
            NAIVE: {"weave": "naive", **theirs},
            FEATHERED: theirs,
            PUBLISHED: {"stride": tile // 2, "guard": 0, "levels": 1, **theirs},
            JOINT: {"weave": "joint", "levels": 1, **theirs},
            WHOLE: {"weave": "naive", "tile": self.side, "batch": 1, **theirs},
            OURS: ours,
            ONE_LEVEL: {"levels": 1, **ours},
            drawn.beside: {**drawn.another, **steps},
        }
        if "begin" in ours:
            ways[NAIVE_SURFACE] = {"weave": "naive", **ours}
        if self.size.sweeps and task in SWEPT:
            if task == "sr:4":
                ways[MORE] = {**ours, "steps": 25}
            ways[SINGLE] = {**ours, "model": {**self.model, "precision": "fp32"}}
            for stride, guard in SWEEP:
                ways[swept(stride, guard)] = {"stride": int(stride * tile), "guard": int(guard * tile), **ours}
        return ways

    def run(self, *, until: float) -> bool:
        """Run what is not done, beginning nothing after ``until``; whether all is done."""
        for cell in self.cells():
            left = tuple(seed for seed in cell.seeds if self._key(cell, seed) not in self._records)
            if not left:
                continue
            if monotonic() > until:
                return False
            self._run(Cell(cell.task, cell.way, left, cell.options))
        return True

    def records(self) -> dict[tuple[str, str], list[Record]]:
        """Of every task and way the records of this study, of the scenes that all ways of the task have."""
        found: dict[str, dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
        for cell in self.cells():
            for seed in cell.seeds:
                ways = found[cell.task][cell.way]
                if record := self._records.get(self._key(cell, seed)):
                    ways[seed] = record
        common = {task: set.intersection(*(set(of_way) for of_way in ways.values())) for task, ways in found.items()}
        return {
            (task, way): [of_way[seed] for seed in self.size.seeds if seed in common[task]]
            for task, ways in found.items()
            for way, of_way in ways.items()
            if common[task]
        }

    def picture(self, task: str, name: str) -> Path:
        """Where the picture of a task's scene lies, by the name of a way, or of what was given, or the truth."""
        file = f"{task} {name}.png".replace(":", "").replace(", ", " ").replace(" ", "-")
        # What no network has made is there whichever network is looked at.
        return self.out / (digest(self._identity) if name in self.ways(task) else "without") / file

    def _run(self, cell: Cell) -> None:
        scenes = [Damaged.of(TASKS[cell.task], seed, self.side) for seed in cell.seeds]
        restored = self._restored(cell, scenes)
        axis = usual_axis(self.side, self.tile)
        for scene, found in zip(scenes, restored, strict=True):
            # A whole has no borders: it is looked at where guarded tiles have theirs.
            rows, cols = found.borders if any(found.borders) else (borders(axis),) * 2
            marks = Marks.of(found.image, scene, (rows, cols))
            key = self._key(cell, scene.seed)
            if PICTURED.get(cell.task) == scene.seed:
                self._show(cell, scene, found.image)
            self._note(Record(key, cell.task, cell.way, scene.seed, marks, found.calls))

    def _restored(self, cell: Cell, scenes: Sequence[Damaged]) -> list[Woven]:
        if cell.options is None:
            method = _classical.methods(scenes[0])[cell.way]
            return [Woven(method(scene), ((), ()), 0) for scene in scenes]
        lanes = len(os.sched_getaffinity(0))
        options = {"model": self.model, "batch": 4, "lanes": lanes, **cell.options}
        return feathered(scenes, options, tile=self.tile) if cell.way == FEATHERED else woven(scenes, options)

    def _show(self, cell: Cell, scene: Damaged, image: Image) -> None:
        k = scene.task.scale
        given = scene.measured.repeat(k, axis=1).repeat(k, axis=2)
        shown = given if scene.hidden is None else np.where(scene.hidden, np.float32(1), given)
        for name, pixels in (("truth", scene.truth), ("given", shown), (cell.way, image)):
            file = self.picture(cell.task, name)
            file.parent.mkdir(exist_ok=True)
            write_png(file, rgb8(pixels))

    def _note(self, record: Record) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        self._records[record.key] = record

    def _key(self, cell: Cell, seed: int) -> str:
        """What a record is known by: all that decides it."""
        with_network = None
        if cell.options is not None:
            model = cell.options.get("model")
            with_network = [cell.options, identity_of(model) if model else self._identity]
        return digest([cell.task, cell.way, seed, self.side, with_network])


def digest(told: object) -> str:
    """A name for what can be written as JSON."""
    return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=8).hexdigest()


def swept(stride: float, guard: float) -> str:
    """The name of a way with another stride and guard, in tiles."""
    return f"stride {stride:g}, guard {guard:g}"


def model_of(name: str) -> dict[str, Any]:
    """A model as the study takes it: convolutions in bfloat16, as it was trained."""
    return {"name": name, "precision": "bf16"}

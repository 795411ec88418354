"""Holes filled in every way, and the files that remember what is done: one of each scene that one way filled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from math import isnan, nan
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from benchmarks._classical import fill
from benchmarks._damage import Damaged, Image
from benchmarks._distance import distance, patches
from benchmarks._hole_cases import Case, depth
from benchmarks._kept import keep
from benchmarks._marks import Marks
from benchmarks._study import SAMPLE, SURFACE, digest
from benchmarks._weaving import Options, Woven, usual_axis, woven
from tileloom.models.kinds import contract_of, identity_of
from tileloom.tiling.seam import borders

Model = Mapping[str, Any]
BIHARMONIC, DDNM, REPAINT, ONE, FILLED = "biharmonic", "DDNM", "RePaint", "one iteration", "tileloom"
BENT = "DDNM from a surface"
AGAIN = "tileloom, another seed"
WAYS = (BIHARMONIC, DDNM, BENT, REPAINT, ONE, FILLED)
DENOISING = (DDNM, BENT, REPAINT)
STEPS = 25


@dataclass(frozen=True)
class Filled:
    """A scene that was filled: its hole's pixels (band, pixel), marks, and network calls."""

    values: Image
    marks: Marks
    calls: int

    @classmethod
    def read(cls, file: Path) -> Filled:
        """What was written."""
        with np.load(file) as told:
            marks = Marks(**{own.name: float(told[own.name]) for own in fields(Marks)})
            return cls(told["values"], marks, int(told["calls"]))

    def write(self, file: Path) -> None:
        """Write it, whole or not at all."""

        def write(begun: Path) -> None:
            with begun.open("wb") as out:
                np.savez(out, values=self.values, calls=self.calls, **asdict(self.marks))

        keep(file, write)

    def image(self, scene: Damaged) -> Image:
        """The scene as it was filled."""
        image = scene.measured.copy()
        image[:, scene.unknown] = self.values
        return image


@dataclass(frozen=True)
class Result:
    """What one way came to in one case: mean marks of its scenes, and ``distance``, of all of them together.

    ``calls`` are those of a scene; ``thousand`` so many as come on a thousand pixels that were filled, and ``seen`` how
    many pixels networks were shown for each of these.
    """

    psnr: float
    ssim: float
    seam: float
    edge: float
    distance: float
    calls: float
    thousand: float
    seen: float
    scenes: int


Results = Mapping[tuple[str, str], Result]


def per_pixel(calls: int, tile: int, filled: int) -> tuple[float, float]:
    """Network calls for a thousand filled pixels, and pixels that a network was shown for one: tiles differ in size."""
    return 1000 * calls / filled, calls * tile**2 / filled


class HoleStudy:
    """All cases in all ways, for a model that fills holes and one that draws noise away; files lie in ``out``."""

    def __init__(self, filler: Model, denoiser: Model, cases: Sequence[Case], out: Path, *, steps: int = STEPS) -> None:
        """Where denoisers take so many steps; what is done is looked for as it is needed."""
        self.steps = steps
        self.filler, self.denoiser, self.cases, self.out = filler, denoiser, cases, out
        out.mkdir(parents=True, exist_ok=True)

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """Pixels along a side of a tile of either model."""
        filler, denoiser = (contract_of(model).native_tile for model in (self.filler, self.denoiser))
        return filler, denoiser

    @cached_property
    def _identities(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return identity_of(self.filler), identity_of(self.denoiser)

    def options(self, way: str) -> Options:
        """What a way's jobs are told."""
        return {
            DDNM: {"model": self.denoiser, **SAMPLE, "steps": self.steps},
            BENT: {"model": self.denoiser, **SURFACE, "steps": min(self.steps, int(SURFACE["steps"]))},
            REPAINT: {"model": self.denoiser, "sampler": "repaint", "steps": self.steps},
            ONE: {"model": self.filler, "steps": 1},
            FILLED: {"model": self.filler},
            AGAIN: {"model": self.filler, "seed": 1},
        }[way]

    def run(self, *, until: float) -> bool:
        """Fill what is not filled, beginning nothing after ``until``; whether all is."""
        for case in self.cases:
            left = [way for way in self._ways(case) if not self._done(case, way)]
            if not left:
                continue
            scenes = case.scenes
            for way in left:
                if monotonic() > until:
                    return False
                for scene, found in zip(scenes, self._filled(way, scenes), strict=True):
                    marks = Marks.of(found.image, scene, found.borders, phases=1)
                    Filled(found.image[:, scene.unknown], marks, found.calls).write(self._file(case, way, scene.seed))
        return True

    def results(self) -> Results:
        """Of every case that all ways have done, what each came to."""
        return {found: result for case in self._whole() for found, result in self._judged(case)}

    def holes(self) -> dict[str, tuple[float, float]]:
        """Of these cases the mean share that is lost, and how deep within holes lost pixels lie."""
        lost = {case.name: [scene.unknown for scene in case.scenes] for case in self._whole()}
        return {
            name: (float(np.mean([one.mean() for one in found])), float(np.mean([depth(one) for one in found])))
            for name, found in lost.items()
        }

    def seeds_apart(self) -> float:
        """The root mean square, over holes, of what two seeds make different; the least of all scenes."""
        apart = [
            float(np.sqrt(np.square(one.values - other.values).mean()))
            for case in self._whole()
            if case.twice
            for one, other in zip(self.filled(case, FILLED), self.filled(case, AGAIN), strict=True)
        ]
        return min(apart, default=nan)

    def changed_outside(self) -> float:
        """The largest change of a known pixel."""
        done = (self.filled(case, way) for case in self._whole() for way in self._ways(case))
        return max((one.marks.misfit for scenes in done for one in scenes), default=nan)

    def filled(self, case: Case, way: str) -> list[Filled]:
        """A case's scenes, as a way filled them."""
        return [Filled.read(self._file(case, way, seed)) for seed in case.seeds]

    def _ways(self, case: Case) -> Sequence[str]:
        return (*WAYS, AGAIN) if case.twice else WAYS

    def _whole(self) -> list[Case]:
        return [case for case in self.cases if all(self._done(case, way) for way in self._ways(case))]

    def _done(self, case: Case, way: str) -> bool:
        return all(self._file(case, way, seed).exists() for seed in case.seeds)

    def _tile(self, way: str) -> int:
        filler, denoiser = self.tiles
        return denoiser if way in DENOISING else filler

    def _filled(self, way: str, scenes: Sequence[Damaged]) -> list[Woven]:
        if way != BIHARMONIC:
            return woven(scenes, {"batch": 4, "lanes": len(os.sched_getaffinity(0)), **self.options(way)})
        # It has no tiles, and is looked at where those of the network that fills have theirs.
        axis = usual_axis(scenes[0].truth.shape[-1], self._tile(way))
        return [Woven(fill(one.measured, one.unknown, order=2), (borders(axis),) * 2, 0) for one in scenes]

    def _judged(self, case: Case) -> Iterator[tuple[tuple[str, str], Result]]:
        scenes = case.scenes
        truths = [patches(scene.truth, scene.unknown) for scene in scenes]
        lost = sum(int(scene.unknown.sum()) for scene in scenes)
        for way in WAYS:
            found = self.filled(case, way)
            seen = [np.clip(one.image(scene), 0, 1) for one, scene in zip(found, scenes, strict=True)]
            drawn = [patches(image, scene.unknown) for image, scene in zip(seen, scenes, strict=True)]
            calls = sum(one.calls for one in found)
            thousand, shown = per_pixel(calls, self._tile(way), lost)
            yield (
                (case.name, way),
                Result(
                    *(_mean([getattr(one.marks, mark) for one in found]) for mark in ("psnr", "ssim", "seam", "edge")),
                    distance=distance(drawn, truths),
                    calls=calls / len(found),
                    thousand=thousand,
                    seen=shown,
                    scenes=len(found),
                ),
            )

    def _file(self, case: Case, way: str, seed: int) -> Path:
        """Where a scene is remembered, by the name of all that decides it."""
        told: list[object] = [case.name, case.side, seed, way]
        if way != BIHARMONIC:
            told += [self._identities[way in DENOISING], {**self.options(way), "model": None}]
        return self.out / f"{digest(told)}.npz"


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are numbers, if any is."""
    known = [value for value in values if not isnan(value)]
    return float(np.mean(known)) if known else nan

"""What a study of quality found: means over scenes, and how they stand to what is aimed at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import nan

import numpy as np

from benchmarks._damage import TASKS
from benchmarks._marks import Marks
from benchmarks._report import Limit
from benchmarks._study import FEATHERED, MORE, NAIVE, OURS, PUBLISHED, SINGLE, Record

HOLES = ("stripes", "clouds")
UNSEEN = 0.03
"""An excess of seams that nobody sees, whatever others leave."""

_FILLED: Mapping[str, Limit] = {
    "dB over the best classical": (">=", -1.0),
    "texture of the best classical's": ("<=", 1.0),
    "edge of the best classical's": ("<=", 1.0),
    "dB over published": (">=", 0.0),
    "calls of published's": ("<=", 0.99),
    "edge of naive's": ("<=", 0.2),
    "edge of published's": ("<=", 0.5),
}


@dataclass(frozen=True)
class Mean:
    """The mean marks of a task restored in one way, network calls of a scene, and how many scenes there were."""

    marks: Marks
    calls: float
    scenes: int


Means = Mapping[tuple[str, str], Mean]


def means_of(records: Mapping[tuple[str, str], Sequence[Record]]) -> Means:
    """The means of every task and way; of misfits the largest."""

    def mean(found: Sequence[Record]) -> Mean:
        columns = {own.name: [getattr(one.marks, own.name) for one in found] for own in fields(Marks)}
        marks = {name: float(np.mean(values)) for name, values in columns.items()} | {"misfit": max(columns["misfit"])}
        return Mean(Marks(**marks), float(np.mean([one.calls for one in found])), len(found))

    return {cell: mean(found) for cell, found in records.items() if found}


def misfit(means: Means) -> float:
    """The largest disagreement with what was measured, of all ways that promise none; no number before any was run."""
    return max((mean.marks.misfit for (_, way), mean in means.items() if mean.calls and way != FEATHERED), default=nan)


LIMITS: Mapping[str, Limit] = {"misfit": ("<=", 1e-4)}
"""What holds for every network: one that has learned nothing draws large numbers, which are rounded more."""
TARGETS: Mapping[str, Limit] = {
    "misfit": ("<=", 1e-5),
    "sr:4 dB over bicubic": (">=", 1.0),
    "sr:4 dB over bicubic in 25 steps": (">=", 1.0),
    "sr:4 dB over published": (">=", 0.0),
    "sr:4 calls of published's": ("<=", 0.99),
    "sr:4 seam of naive's": ("<=", 0.2),
    "sr:4 seam of published's": ("<=", 0.5),
    "sr:4 dB changed by bf16": ("<=", 0.1),
    **{f"{task} {what}": limit for task in HOLES for what, limit in _FILLED.items()},
    "scattered dB over the best classical": (">=", 0.0),
}
"""What is aimed at; a share of what published MSR leaves counts as none where no more than 0.03 is left."""


def standing(means: Means) -> Iterator[tuple[str, float]]:
    """How it stands to each target, as far as it was measured."""
    for task in dict.fromkeys(task for task, _ in means):
        if task == "sr:4":
            yield from _enlarged(task, means)
        elif TASKS[task].exact:
            yield from _filled(task, means)


def _enlarged(task: str, means: Means) -> Iterator[tuple[str, float]]:
    ours = means[task, OURS].marks
    bicubic = means[task, "bicubic"].marks
    yield f"{task} dB over bicubic", ours.psnr - bicubic.psnr
    if (task, MORE) in means:
        yield f"{task} dB over bicubic in 25 steps", means[task, MORE].marks.psnr - bicubic.psnr
    yield from _over_published(task, means)
    yield from _left(task, "seam", means)
    if (task, SINGLE) in means:
        yield f"{task} dB changed by bf16", abs(ours.psnr - means[task, SINGLE].marks.psnr)


def _filled(task: str, means: Means) -> Iterator[tuple[str, float]]:
    ours = means[task, OURS].marks
    classical = [mean.marks for (name, _), mean in means.items() if name == task and not mean.calls]
    yield f"{task} dB over the best classical", ours.psnr - max(one.psnr for one in classical)
    yield f"{task} texture of the best classical's", ours.texture / min(one.texture for one in classical)
    yield f"{task} edge of the best classical's", abs(ours.edge) / min(abs(one.edge) for one in classical)
    yield from _over_published(task, means)
    yield from _left(task, "edge", means)


def _over_published(task: str, means: Means) -> Iterator[tuple[str, float]]:
    ours, published = means[task, OURS], means[task, PUBLISHED]
    yield f"{task} dB over published", ours.marks.psnr - published.marks.psnr
    yield f"{task} calls of published's", ours.calls / published.calls


def _left(task: str, mark: str, means: Means) -> Iterator[tuple[str, float]]:
    """What is left of the excess that other ways have."""
    ours, naive, published = (abs(getattr(means[task, way].marks, mark)) for way in (OURS, NAIVE, PUBLISHED))
    yield f"{task} {mark} of naive's", ours / naive
    yield f"{task} {mark} of published's", 0.0 if ours <= UNSEEN else ours / published

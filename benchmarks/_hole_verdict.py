"""How a network that fills holes stands to its rivals: what always holds, what is aimed at, and who is better where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isfinite
from statistics import fmean

from benchmarks._hole_cases import KINDS, LAKE
from benchmarks._hole_study import BENT, BIHARMONIC, DDNM, FILLED, ONE, REPAINT, Results
from benchmarks._report import Limit

RIVALS = (DDNM, BENT, REPAINT, BIHARMONIC, ONE)
BETTER: Mapping[str, tuple[str, int]] = {
    "by distance": ("distance", -1),
    "by PSNR": ("psnr", 1),
    "by SSIM": ("ssim", 1),
}
"""What a rival may be better by, and whether more of it is better."""

LIMITS: Mapping[str, Limit] = {"changed outside": ("<=", 0.0), "two seeds apart": (">=", 1e-6)}
"""What holds for every network: known pixels come back bit for bit, and two seeds fill a hole otherwise."""
TARGETS: Mapping[str, Limit] = {
    **{
        f"{case} distance of one iteration's": ("<=", 1.0)
        for case in (*(f"{size} {kind}" for kind in KINDS for size in ("small", "large")), LAKE)
    },
    "pixels seen of DDNM's": ("<=", 0.5),
    "mean seam": ("<=", 0.1),
}
"""What is aimed at; few borders lie in small holes, so that only the mean of all cases tells a seam from chance."""


def standing(results: Results) -> Iterator[tuple[str, float]]:
    """How it stands to each target, as far as it was measured."""
    ours = {case: result for (case, way), result in results.items() if way == FILLED}
    for case, result in ours.items():
        yield f"{case} distance of one iteration's", result.distance / results[case, ONE].distance
    if ours:
        yield "pixels seen of DDNM's", fmean(result.seen / results[case, DDNM].seen for case, result in ours.items())
    if seams := [result.seam for result in ours.values() if isfinite(result.seam)]:
        yield "mean seam", fmean(seams)


def better(results: Results, rival: str, by: str) -> list[str]:
    """The cases in which a rival is better than tileloom."""
    mark, sign = BETTER[by]
    marks = {cell: sign * asdict(result)[mark] for cell, result in results.items()}
    return [case for case, way in results if way == FILLED and marks[case, rival] > marks[case, FILLED]]

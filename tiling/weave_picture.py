"""A picture of the weave: which slot worked on which tile, and when; of a simulated run or of a real one.

Time runs from left to right, one band a slot, a dark seam between workers, and below them the share
of slots that were busy::

    w0 slot 0  |tile |tile |tile |...
       slot 1  |     |tile |tile |...
    ------------------------------
    w1 slot 0  |           |tile |...

An image has its own range of hues. Within it a tile's hue and lightness follow the longest chain behind
it, so that a wavefront is one colour, and neighbouring wavefronts differ. Coarse levels are pale, tiles
lost with their worker are red, idle slots are dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import cos, radians, sin

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .place import Located, place
from .plan import Plan, WeavePlan
from .simulate import Interval

_IDLE = (17, 19, 26)
_SEAM = (38, 42, 54)
_LOST = (214, 40, 57)
_BUSY = (120, 132, 160)
_MARGIN = 12
_PROFILE = 40


def weave_picture(
    intervals: Sequence[Interval], plans: Sequence[Plan], *, width: int = 1600, height: int = 900
) -> NDArray[np.uint8]:
    """Draw the intervals; axes (row, column, red-green-blue).

    Args:
        intervals: slots' times with tiles, in any order.
        plans: for each image number of the intervals its plan.
        width: columns of the whole picture.
        height: rows to fit the bands into; with very many slots a band is one row and the picture grows.
    """
    if not intervals:
        raise InputError("there is nothing to draw: the run worked on no tile")
    rows, bottom, band = _bands(intervals, height)
    picture = np.full((bottom + 2 * _MARGIN + _PROFILE, width, 3), _IDLE, np.uint8)
    busy = np.zeros((len(rows), width), np.bool_)
    begin = min(interval.start for interval in intervals)
    per_second = (width - 2 * _MARGIN) / max(max(interval.end for interval in intervals) - begin, 1e-9)
    for interval in sorted(intervals):
        left = _MARGIN + int((interval.start - begin) * per_second)
        right = max(left + 1, _MARGIN + int((interval.end - begin) * per_second))
        number, top = rows[interval.worker, interval.slot]
        busy[number, left:right] = True
        edge = right - 1 if right - left > 4 else right
        picture[top : top + band, left:edge] = _colour(interval, plans)
    _draw_seams(picture, rows)
    _draw_profile(picture, busy.mean(axis=0))
    return picture


def in_slots(times: Iterable[tuple[float, float, int, int]]) -> list[Interval]:
    """Intervals of one worker from (start, end, image, tile) on any clock, each in the first slot that is free."""
    ordered = sorted(times)
    ends: list[float] = []
    intervals = []
    for start, end, image, tile in ordered:
        slot = next((slot for slot, free_at in enumerate(ends) if free_at <= start), len(ends))
        ends[slot : slot + 1] = [end]
        intervals.append(Interval(0, slot, start - ordered[0][0], end - ordered[0][0], image, tile))
    return intervals


def write_png(path: Located, picture: NDArray[np.uint8]) -> None:
    """Write a picture, axes (row, column, red-green-blue); the file appears whole or not at all."""
    place(path).write(bytes(imagecodecs.png_encode(picture)))


def _bands(intervals: Sequence[Interval], height: int) -> tuple[dict[tuple[int, int], tuple[int, int]], int, int]:
    """For each (worker, slot) its number and top row, the row below the last band, and a band's rows."""
    slots = sorted({(interval.worker, interval.slot) for interval in intervals})
    pitch = max(1, min(24, (height - 3 * _MARGIN - _PROFILE) // len(slots)))
    gap = 1 if pitch >= 4 else 0
    seam = 3 if pitch >= 2 else 0
    rows, top, last = {}, _MARGIN, slots[0][0]
    for number, (worker, slot) in enumerate(slots):
        top += seam if worker != last else 0
        rows[worker, slot] = number, top
        top, last = top + pitch, worker
    return rows, top, pitch - gap


def _colour(interval: Interval, plans: Sequence[Plan]) -> tuple[int, int, int]:
    if interval.lost:
        return _LOST
    plan = plans[interval.image]
    rank = plan.rank(interval.tile)
    level = plan.key(interval.tile).level if isinstance(plan, WeavePlan) else 0
    progress = 1 - rank / max(1, plan.critical_path - 1)
    hue = 205 + 360 * interval.image / len(plans) + (progress - 0.5) * max(60, 250 / len(plans))
    lightness = 0.56 + 0.24 * progress + 0.06 * (rank % 2)
    pale = 1 - 0.6**level
    return _oklch(lightness + (0.95 - lightness) * pale, 0.15 * (1 - pale), hue)


def _oklch(lightness: float, chroma: float, hue: float) -> tuple[int, int, int]:
    """A colour of equal steps to the eye (Ottosson's OKLCH, hue in degrees) as 8-bit sRGB."""
    a, b = chroma * cos(radians(hue)), chroma * sin(radians(hue))
    long, medium, short = (
        (lightness + u * a + v * b) ** 3
        for u, v in ((0.3963377774, 0.2158037573), (-0.1055613458, -0.0638541728), (-0.0894841775, -1.2914855480))
    )
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (round(255 * _gamma(min(1.0, max(0.0, value)))) for value in linear)
    return red, green, blue


def _gamma(value: float) -> float:
    return 12.92 * value if value <= 0.0031308 else 1.055 * float(value ** (1 / 2.4)) - 0.055


def _draw_seams(picture: NDArray[np.uint8], rows: dict[tuple[int, int], tuple[int, int]]) -> None:
    """A line where a worker's bands begin, in the gap that was left for it."""
    last = None
    for (worker, _), (_, top) in rows.items():
        if last is not None and worker != last:
            picture[top - 2, _MARGIN:-_MARGIN] = _SEAM
        last = worker


def _draw_profile(picture: NDArray[np.uint8], share: NDArray[np.float64]) -> None:
    """The share of busy slots over time, at the foot of the picture."""
    foot = picture.shape[0] - _MARGIN
    for column in np.flatnonzero(share):
        picture[foot - max(1, round(float(share[column]) * _PROFILE)) : foot, column] = _BUSY

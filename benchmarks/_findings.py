"""What is found in pictures that were drawn of label maps: how they are read, how they look, what tiles left there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks._damage import Image, Mask
from benchmarks._drawing import AGAIN, BASE, CLASSES, SHUFFLED, Drawings, Drawn, scenes
from benchmarks._marks import PHASES, texture
from benchmarks._segmenter import Segmenter, confusion, ious, mean_iou
from benchmarks._study import NAIVE, OURS, PUBLISHED
from benchmarks._verdict import UNSEEN
from tileloom.tiling.seam import seam_excess
from tileloom.tiling.terra.land import Kinds

TRUE, OTHERS = "true scenes", "other maps"
ROUNDED = 4
"""Of 255: what differs by less may be the same but for rounding."""


@dataclass(frozen=True)
class Reading:
    """What is read off the pictures of one way, beside what maps say, and how they look; network calls of each.

    ``texture`` is how many decibels local contrast is off, ``variety`` how much the values of a class differ, of what
    they do in true scenes.
    """

    counts: NDArray[np.int64]
    texture: float
    variety: float
    calls: int

    @property
    def ious(self) -> dict[int, float]:
        """Intersection over union of each class."""
        return ious(self.counts)

    @property
    def miou(self) -> float:
        """Their mean."""
        return mean_iou(self.counts)


@dataclass(frozen=True)
class Seam:
    """How much steeper a picture is across tiles' borders than elsewhere, less the same of the truth; network calls.

    ``chance`` is the same along lines a quarter of a tile from the borders, where no tile leaves anything.
    """

    seam: float
    chance: float
    calls: int


@dataclass(frozen=True)
class Findings:
    """Readings by the names of ways, and seams by side, too; shares of pixels that another seed or labels change."""

    readings: Mapping[str, Reading]
    weaves: Mapping[int, Mapping[str, Seam]]
    reseeded: float
    relabelled: float


def find(drawings: Drawings, judge: Segmenter) -> Findings:
    """Draw what is not there yet, and read all of it."""
    ways = drawings.ways()
    truth, maps = scenes(ways[BASE].seeds, ways[BASE].side)
    drawn = {name: drawings.drawn(way) for name, way in ways.items()}
    read = {name: [judge.read(picture) for picture in found.pictures] for name, found in drawn.items()}
    true = [judge.read(picture) for picture in truth]

    def look(readings: list[Kinds], told: Kinds, found: Drawn | None) -> Reading:
        pictures, calls = (found.pictures, found.calls) if found else (truth, 0)
        return Reading(confusion(readings, told), _texture(pictures, truth), variety(pictures, truth, maps), calls)

    readings = {TRUE: look(true, maps, None), OTHERS: look(read[BASE], np.roll(maps, 1, axis=0), drawn[BASE])}
    return Findings(
        {**readings, **{name: look(read[name], maps, found) for name, found in drawn.items()}},
        {
            side: {
                name: seam_of(drawings.drawn(way), scenes(way.seeds, side)[0], drawings.tile)
                for name, way in ways.items()
            }
            for side, ways in drawings.weaves().items()
        },
        changed(drawn[BASE].pictures, drawn[AGAIN].pictures),
        changed(drawn[BASE].pictures, drawn[SHUFFLED].pictures),
    )


def standing(found: Findings) -> Iterator[tuple[str, float]]:
    """How it stands to each target."""
    true, drawn, shuffled, others = (found.readings[name].miou for name in (TRUE, BASE, SHUFFLED, OTHERS))
    weaves = list(found.weaves.values())
    ours, published = (abs(weaves[0][name].seam) for name in (OURS, PUBLISHED))
    yield "mIoU of true scenes", true
    yield "true scenes' mIoU over other maps'", true - others
    yield "share of the way from shuffled to true", _share(drawn - shuffled, true - shuffled)
    # The largest, and no number where any share is none.
    yield "seam of naive's", float(np.max([_share(abs(one[OURS].seam), abs(one[NAIVE].seam)) for one in weaves]))
    yield "seam of published's", 0.0 if ours <= UNSEEN else _share(ours, published)
    yield "pixels that another seed changes", found.reseeded
    yield "pixels that other labels change", found.relabelled


def _share(part: float, whole: float) -> float:
    """Of nothing there is no share, which keeps no limit."""
    return part / whole if whole else float("nan")


def changed(pictures: Image, others: Image) -> float:
    """The share of pixels of which some band differs by more than rounding does, (scene, band, row, column)."""
    return float((np.abs(pictures - others) > ROUNDED / 255).any(axis=1).mean())


def variety(pictures: Image, truth: Image, maps: Kinds) -> float:
    """How far the values of pixels of one class spread over all scenes, of how far they do in the truth.

    The root of the ratio of variances, each summed over bands and classes.
    """
    present = np.flatnonzero(np.bincount(maps.ravel(), minlength=CLASSES))
    ours, theirs = (
        sum(float(seen.swapaxes(0, 1)[:, maps == number].var(axis=1, dtype=np.float64).sum()) for number in present)
        for seen in (pictures, truth)
    )
    return (ours / theirs) ** 0.5


def _texture(pictures: Image, truth: Image) -> float:
    everywhere = np.ones(truth.shape[2:], np.bool_)
    pairs = zip(pictures, truth, strict=True)
    return float(np.mean([texture(picture, true, everywhere) for picture, true in pairs]))


def seam_of(found: Drawn, truth: Image, tile: int) -> Seam:
    """The mean over scenes; borders are compared with lines of their own phase, since a network has a pattern too."""
    rows, cols = found.borders
    inside = np.ones(truth.shape[2:], np.bool_)
    inside[list(rows)] = inside[:, list(cols)] = False

    def excess(off: int, region: Mask | None) -> float:
        lines = [tuple(at + off for at in along) for along in (rows, cols)]
        pairs = zip(found.pictures, truth, strict=True)
        return float(np.mean([seam_excess(*pair, *lines, block=PHASES, region=region) for pair in pairs]))

    return Seam(excess(0, None), excess(tile // 4, inside), found.calls)

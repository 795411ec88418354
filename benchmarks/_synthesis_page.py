"""The part of the page about quality that tells of pictures drawn from maps of labels, and its picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks._damage import Image
from benchmarks._drawing import AGAIN, BASE, SCALES, SHUFFLED, Drawings, scale_name, scenes
from benchmarks._findings import OTHERS, ROUNDED, TRUE, Findings, Seam, standing
from benchmarks._quality_page import DOCS, PAGE, listed, options_told, targets_told
from benchmarks._report import Limit
from benchmarks._study import NAIVE, ONE_LEVEL, OURS, SAMPLE
from docs.sections import put_section
from tileloom.tiling.terra.land import Kinds, Use

PICTURE = DOCS / "images" / "synthesis.jpg"
SCALED = tuple(map(scale_name, SCALES))
COLOURS: Mapping[Use, str] = {
    Use.WATER: "2b6cb0",
    Use.SAND: "f2dd9b",
    Use.MEADOW: "a3cc6b",
    Use.CROP: "e0b13c",
    Use.SOIL: "8a5a33",
    Use.WOOD: "1f6b3a",
    Use.GARDEN: "cfe8b5",
    Use.ROAD: "8d8d8d",
    Use.ROOF: "c0392b",
    Use.ROCK: "d8d4e0",
}
"""What each class is painted with, red, green and blue."""
_SHOWN, _ROWS = 144, 4


def write_page(drawings: Drawings, found: Findings, targets: Mapping[str, Limit]) -> None:
    """Write the section and its picture."""
    PICTURE.write_bytes(imagecodecs.jpeg8_encode(strips(drawings), level=88))
    put_section(PAGE, "python -m benchmarks.synthesis", section(drawings, found, targets))


def section(drawings: Drawings, found: Findings, targets: Mapping[str, Limit]) -> str:
    """The section's text."""
    size, tile, model = drawings.size, drawings.tile, drawings.model
    told = {"model": model["name"], "precision": model.get("precision", "fp32"), "tile": tile}
    told |= {"scenes": len(size.seeds), "seeds": listed(size.seeds), "side": round(size.side * tile)}
    told |= {"first": size.seeds[0], "larger": "".join(f" --larger {side}" for side in size.large[1:])}
    told |= {"sampler": options_told({**SAMPLE, "steps": size.steps})}
    parts = [ABOUT.format(**told), *targets_told(dict(standing(found)), targets), ""]
    parts += ["### What is read", "", READ, *_readings(found), "", BY_CLASS, *_classes(found), ""]
    parts += ["### What tiles leave", "", WOVEN.format(**told)]
    for side, weaves in found.weaves.items():
        parts += [f"{side} x {side} pixels:", "", *_weaves(weaves), ""]
    parts += ["### Another seed", "", RESEEDED.format(share=found.reseeded, rounded=ROUNDED)]
    return "\n".join(parts)


def strips(drawings: Drawings) -> NDArray[np.uint8]:
    """The middles of some scenes, a row each: map, drawn at every scale, truth; (row, column, colour)."""
    ways = drawings.ways()
    truth, maps = scenes(ways[BASE].seeds, ways[BASE].side)
    drawn = [_rgb(drawings.drawn(ways[name]).pictures) for name in SCALED]
    low = max(0, (ways[BASE].side - _SHOWN) // 2)
    middle = slice(low, low + _SHOWN)
    columns = [column[:_ROWS, middle, middle] for column in (painted(maps), *drawn, _rgb(truth))]
    return np.concatenate([np.concatenate(list(column)) for column in columns], axis=1)


def painted(maps: Kinds) -> NDArray[np.uint8]:
    """Maps in colours, which are the last axis."""
    colours = np.array([list(bytes.fromhex(COLOURS[use])) for use in Use], np.uint8)
    return np.asarray(colours[maps])


def _rgb(pictures: Image) -> NDArray[np.uint8]:
    return np.rint(pictures[:, :3] * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _readings(found: Findings) -> Iterator[str]:
    yield "| pictures | mIoU | texture | variety | calls |"
    yield "|---|---|---|---|---|"
    for name in (TRUE, *SCALED, ONE_LEVEL, AGAIN, SHUFFLED, OTHERS):
        one = found.readings[name]
        cells = f"{one.miou:.3f} | {one.texture:.2f} | {one.variety:.2f} | {one.calls or ''}"
        yield f"| {_called(name)} | {cells} |"


def _called(name: str) -> str:
    told = {ONE_LEVEL: "one level", AGAIN: AGAIN, SHUFFLED: SHUFFLED, OTHERS: "beside other scenes' maps"}
    return f"{BASE}, {told[name]}" if name in told else name


def _classes(found: Findings) -> Iterator[str]:
    names = (TRUE, *SCALED, SHUFFLED)
    yield " | ".join(["| class", *names]) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for number in found.readings[TRUE].ious:
        cells = [f"{found.readings[name].ious[number]:.2f}" for name in names]
        yield " | ".join([f"| {Use(number).name.lower()}", *cells]) + " |"


def _weaves(weaves: Mapping[str, Seam]) -> Iterator[str]:
    yield "| way | seam | of naive tiles' | by chance | calls |"
    yield "|---|---|---|---|---|"
    naive = abs(weaves[NAIVE].seam)
    for name, one in weaves.items():
        way = f"**{name}**" if name == OURS else name
        yield f"| {way} | {one.seam:.3f} | {abs(one.seam) / naive:.2f} | {one.chance:.3f} | {one.calls} |"


ABOUT = """## Synthesis from a map of labels

How well pictures show what a map of labels says, and what tiles leave in them: the maps of {scenes} scenes of {side} x
{side} pixels, seeds {seeds} of `tileloom terra`, none of which the model was trained on, and of each
scene nothing but its map is told. The model is `{model}`, of tiles with {tile} pixels a side, convolutions in
{precision}; every way is drawn by the same sampler (`{sampler}`), and the scale of guidance is 1 unless a table says
another.

![Maps, and what is drawn of them](images/synthesis.jpg)

*From left to right: the map; pictures at guidance scales of 1, 1.5, 2 and 3; the scene that the map belongs to, which
nobody has told them.*
"""

READ = """\
A small segmenter, which has learned from scenes of other seeds and their maps, reads what each pixel shows. mIoU is
intersection over union of what it reads and what the map says, pixels of all scenes together, as the mean over the
classes that the maps have. What it makes of true scenes is as much as a picture can come to. The least is told in two
ways: pictures of the same outlines from shuffled labels, where each class is drawn as another that is unlike it (water
as wood, crops as roofs), read beside the map as it was; and pictures read beside the map of another scene. One that
shows what it is told comes to less from shuffled labels than beside a map of elsewhere, and one that ignores classes to
as much as from true ones.

With one level, tiles are drawn of the map as it is. With several, as jobs have them unless they say otherwise, each
fixes what the finer one comes to on average, and the coarser ones see every other pixel of the map alone.

`texture` is that of restored scenes: how many dB local contrast is off, beside the scene of the same map. `variety` is
how far the values of pixels of one class spread over all scenes, of how far they do in true scenes: below 1 pictures
are more alike than scenes are. `calls` are network calls of a picture, each of a tile; with guidance a call has twice
the rows.
"""

BY_CLASS = """\
Intersection over union by class:
"""

WOVEN = """\
The scene of seed {first}. `seam` is how much steeper the picture is across tiles' borders
than elsewhere, less the same of the true scene: 0 is no seam. By chance is the same figure along lines a quarter of a
tile off, where tiles leave nothing: a seam that is no larger is none. Published MSR has tiles half a tile apart without
guard bands. All of it is drawn by `python -m benchmarks.synthesis{larger}`.
"""

RESEEDED = """\
Of pictures that were told the same but for the seed, {share:.1%} of the pixels differ by more than {rounded} of 255 in
some band.
"""

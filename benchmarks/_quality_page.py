"""The page about quality: how it stands to what is aimed at, a picture, and all tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import imagecodecs
import numpy as np

from benchmarks._damage import SEEDS, Image
from benchmarks._report import Limit
from benchmarks._study import LOW_NOISE, NAIVE, OURS, PICTURED, PUBLISHED, SAMPLE, SURFACE, WHOLE, Study
from benchmarks._verdict import Mean, Means, standing
from docs.sections import put_section

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "quality.md", DOCS / "images" / "quality.jpg"
_SHOWN = 144
_COLUMNS = ("PSNR", "SSIM", "texture", "seam", "edge", "misfit", "calls", "scenes")


def write_page(study: Study, means: Means, limits: Mapping[str, Limit], *, whole: bool) -> None:
    """Write the page and its picture."""
    rows = [_strip(study, task, ways) for task, ways in _pictured().items() if (task, OURS) in means]
    if rows:
        PICTURE.write_bytes(imagecodecs.jpeg8_encode(np.concatenate(rows), level=88))
    put_section(PAGE, "python -m benchmarks.quality", page(study, means, limits, whole=whole))


def page(study: Study, means: Means, limits: Mapping[str, Limit], *, whole: bool) -> str:
    """The page's text."""
    told = {"side": study.side, "tile": study.tile, "scenes": len(study.size.seeds), "seeds": listed(SEEDS)}
    told |= {"model": study.model["name"], "precision": study.model.get("precision", "fp32")}
    told |= {"low": options_told(LOW_NOISE), "sample": options_told(SAMPLE), "surface": options_told(SURFACE)}
    parts = [ABOUT.format(**told)]
    if not whole:
        parts.append("The command was stopped before all was done: what is missing below was not measured.\n")
    parts += ["### What is aimed at", "", *targets_told(dict(standing(means)), limits), "", AFTER_TARGETS]
    for task in dict.fromkeys(task for task, _ in means):
        found = {way: mean for (name, way), mean in means.items() if name == task}
        parts += [f"### {task}", "", TOLD[task], "", *_table(found), ""]
    return "\n".join(parts)


def targets_told(found: Mapping[str, float], limits: Mapping[str, Limit]) -> Iterator[str]:
    """A table of all targets that something was found of."""
    yield "| figure | measured | aimed at | |"
    yield "|---|---|---|---|"
    for name, (sense, bound) in limits.items():
        if name in found:
            kept = found[name] <= bound if sense == "<=" else found[name] >= bound
            words = "at most" if sense == "<=" else "at least"
            yield f"| {name} | {found[name]:.3g} | {words} {bound:g} | {'' if kept else 'missed'} |"


def _table(found: Mapping[str, Mean]) -> Iterator[str]:
    holed = any(mean.marks.edge for mean in found.values())
    columns = [column for column in _COLUMNS if holed or column != "edge"]
    yield " | ".join(["| way", *columns]) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for way, mean in found.items():
        marks = mean.marks
        cells = {
            "PSNR": f"{marks.psnr:.2f}",
            "SSIM": f"{marks.ssim:.3f}",
            "texture": f"{marks.texture:.2f}",
            # Without tiles there are no borders.
            "seam": f"{marks.seam:.3f}" if mean.calls and way != WHOLE else "",
            "edge": f"{marks.edge:.3f}",
            "misfit": f"{marks.misfit:.0e}" if marks.misfit else "0",
            "calls": f"{mean.calls:.0f}" if mean.calls else "",
            "scenes": str(mean.scenes),
        }
        yield " | ".join([f"| {f'**{way}**' if way == OURS else way}", *(cells[column] for column in columns)]) + " |"


def _pictured() -> dict[str, tuple[str, ...]]:
    """The columns of the picture, a row for each task."""
    best = {"sr:4": "bicubic", "stripes": "biharmonic", "clouds": "biharmonic"}
    return {task: ("given", best[task], NAIVE, PUBLISHED, OURS, "truth") for task in PICTURED}


def _strip(study: Study, task: str, names: tuple[str, ...]) -> Image:
    """The middle of a task's scene, in several ways side by side."""
    low = (study.side - _SHOWN) // 2
    shown = [imagecodecs.png_decode(study.picture(task, name).read_bytes()) for name in names]
    return np.concatenate([one[low : low + _SHOWN, low : low + _SHOWN] for one in shown], axis=1)


def options_told(options: Mapping[str, object]) -> str:
    """Options as a job file has them."""
    return ", ".join(f"{name}: {value}" for name, value in options.items())


def listed(values: Sequence[object]) -> str:
    """Some things in a sentence."""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


ABOUT = """## Restoration

How near restored pictures come to the truth, and what tiles leave in them: {scenes} scenes of {side} x {side} pixels
with four bands, seeds {seeds} of `tileloom terra`, none of which `terra` was
trained on. The model is `{model}`, of tiles with {tile} pixels a side, convolutions in {precision}. Figures are means
over so many scenes as the last column says, of the pixels that were to be restored.

A sample from all that fits a measurement is further from the truth than the mean of what fits. So where means of pixels
were measured all ways draw with low noise (`{low}`), and elsewhere samples (`{sample}`). In holes tileloom goes on from
a surface bent over them (`{surface}`), with `eta: 0` where lone pixels are missing; the others begin with noise alone,
as their methods are published, and `naive tiles, from a surface` tells how much of the gain that is. But for the `eta`
of lone pixels jobs draw like tileloom's rows by themselves. Samplers, steps and `begin` were chosen on the first four
scenes.

![Four times the resolution; stripes and clouds filled](images/quality.jpg)

*From left to right: what was given; the best of bicubic or biharmonic; independent tiles; mask-shift restoration as
published; tileloom; the truth. From above: `sr:4`, stripes, clouds.*

| column | what it is |
|---|---|
| PSNR | in dB, of values clipped to the data range |
| SSIM | structural similarity, windows of standard deviation 1.5, mean over bands |
| texture | how many dB local contrast is off: at 0 a picture is as rough and as sharp as the truth |
| seam | how much steeper it is across tiles' borders than elsewhere, less the same of the truth: 0 is no seam |
| edge | the same across the edge of a hole |
| misfit | the largest difference of its measurement to what was measured, of a data range of 1 |
| calls | network calls of a scene, each of a tile; of the whole image, each of all of it |

For `texture` steps between neighbouring pixels in four directions, of the picture and of its halves and quarters, are
sorted within windows of 8 x 8 pixels, and the smallest is held against the truth's smallest, the largest against its
largest: the mean of `|20 log10|` of their ratios, a step of 8 bits added to both. Blurred pictures lack contrast, noisy
ones have too much, blocks have it in the wrong places. It needs no network, and whatever lies a few pixels off costs
little, as to the eye.
"""

AFTER_TARGETS = """Shares are of absolute means. Beside published MSR an excess of at most 0.03 counts as none.
"""

TOLD = {
    "sr:2": "Every 2 x 2 pixels were averaged into one.",
    "sr:4": "Every 4 x 4 pixels were averaged into one. Strides and guards are in tiles: usual are 0.75 and 0.125.",
    "sr:8": "Every 8 x 8 pixels were averaged into one.",
    "stripes": "Slanting stripes of about ten pixels are missing, 15 % of the scene.",
    "clouds": "Clouds hide 15 to 35 % of the scene.",
    "scattered": "30 % of the pixels are missing, each alone.",
    "colorize": "The four bands were averaged into one.",
    "old-photo": "Stripes of a few pixels were lost, then the bands averaged, then every 2 x 2 pixels.",
}

"""The part of the page about quality that tells of holes: words, who is better where, a picture, and all tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

import imagecodecs
import numpy as np

from benchmarks._damage import Image, rgb8
from benchmarks._hole_cases import LAKE
from benchmarks._hole_study import BENT, BIHARMONIC, DDNM, FILLED, ONE, REPAINT, HoleStudy, Result, Results
from benchmarks._hole_verdict import BETTER, RIVALS, better, standing
from benchmarks._marks import pooled
from benchmarks._quality_page import DOCS, PAGE, listed, options_told, targets_told
from benchmarks._report import Limit
from docs.sections import put_section
from tileloom.models.spatial_config import ITERATIONS

COMMAND = "python -m benchmarks.holes"
PICTURE = DOCS / "images" / "holes.jpg"
_PICTURED = ("large strokes", "large clouds", LAKE)
_SHOWN = 144
_COLUMNS = ("PSNR", "SSIM", "distance", "seam", "edge", "calls", "calls a thousand", "seen", "scenes")


def write_section(study: HoleStudy, results: Results, limits: Mapping[str, Limit], *, whole: bool) -> None:
    """Write the part of the page and its picture."""
    if rows := [_strip(study, name) for name in _PICTURED if (name, FILLED) in results]:
        PICTURE.write_bytes(imagecodecs.jpeg8_encode(np.concatenate(rows), level=88))
    put_section(PAGE, COMMAND, section(study, results, limits, whole=whole))


def section(study: HoleStudy, results: Results, limits: Mapping[str, Limit], *, whole: bool) -> str:
    """The text."""
    filler, denoiser = study.tiles
    side, wide = study.cases[0].side, study.cases[-1].side
    told = {"side": side, "wide": wide, "scenes": len(study.cases[0].seeds), "tile": filler, "small": denoiser}
    told |= {"model": study.filler["name"], "denoiser": study.denoiser["name"]}
    told |= {"iterations": ITERATIONS, "changed": f"{study.changed_outside():g}"}
    told |= {"apart": f"{study.seeds_apart():.3f}"}
    for name, way in (("ddnm", DDNM), ("bent", BENT), ("repaint", REPAINT)):
        told[name] = options_told({key: value for key, value in study.options(way).items() if key != "model"})
    parts = [ABOUT.format(**told)]
    if not whole:
        parts.append("The command was stopped before all was done: what is missing below was not measured.\n")
    parts += ["### Who is better where", "", *_verdict(results), ""]
    parts += ["### What is aimed at in holes", "", *targets_told(dict(standing(results)), limits), "", AFTER_TARGETS]
    for name, (share, deep) in study.holes().items():
        found = {way: result for (case, way), result in results.items() if case == name}
        parts += [f"### Holes: {name}", "", f"{share:.1%} is lost; a lost pixel lies {deep:.1f} from a known one.", ""]
        parts += [*_table(found), ""]
    return "\n".join(parts)


def _verdict(results: Results) -> Iterator[str]:
    """Of every rival the cases in which it is better, by each figure."""
    total = len({case for case, _ in results})
    for rival in RIVALS:
        cases = {by: better(results, rival, by) for by in BETTER}
        yield (
            f"- **{rival}** is better than tileloom "
            + "; ".join(f"{by} {_counted(found, total)}" for by, found in cases.items())
            + "."
        )


def _counted(cases: Sequence[str], total: int) -> str:
    if not cases:
        return "nowhere"
    return "everywhere" if len(cases) == total else f"for {listed(cases)}"


def _table(found: Mapping[str, Result]) -> Iterator[str]:
    yield " | ".join(["| way", *_COLUMNS]) + " |"
    yield "|---" * (len(_COLUMNS) + 1) + "|"
    for way, result in found.items():
        cells = [
            f"{result.psnr:.2f}",
            f"{result.ssim:.3f}",
            f"{result.distance:.3f}",
            f"{result.seam:.3f}" if isfinite(result.seam) else "",
            f"{result.edge:.3f}",
            *([f"{result.calls:.0f}", f"{result.thousand:.2g}", f"{result.seen:.3g}"] if result.calls else [""] * 3),
            str(result.scenes),
        ]
        yield " | ".join([f"| {f'**{way}**' if way == FILLED else way}", *cells]) + " |"


def _strip(study: HoleStudy, name: str) -> Image:
    """The middle of a case's first scene, in several ways side by side; a wide one at half its size."""
    [case] = (one for one in study.cases if one.name == name)
    scene = case.scenes[0]
    given = np.where(scene.unknown, np.float32(1), scene.measured)
    ways = [study.filled(case, way)[0].image(scene) for way in (BIHARMONIC, BENT, ONE, FILLED)]
    shown = [given, *ways, scene.truth]
    if case.side > study.cases[0].side:
        shown = [pooled(one) for one in shown]
    low = (shown[0].shape[-1] - _SHOWN) // 2
    return np.concatenate([rgb8(one[:, low : low + _SHOWN, low : low + _SHOWN]) for one in shown], axis=1)


ABOUT = """## Holes filled in few calls

Holes of five kinds, small and large, in {scenes} scenes of {side} x {side} pixels with four bands, and one hole wider
than a tile in a scene of {wide} x {wide}; the scenes are of those above. They are filled by `{model}`, a network of
[spatial diffusion](models.md#spatial-diffusion) with tiles of {tile} pixels: as it comes, in {iterations} iterations
(*tileloom*), and in one (`steps: 1`). Beside it are *DDNM* (`{ddnm}`), the same *from a surface*
(`{bent}`, as jobs of `inpaint` are by themselves) and *RePaint*
(`{repaint}`, without jumps), which fill the same holes with `{denoiser}`, a denoiser with tiles of {small}
pixels that has learned of no holes; and the *biharmonic* plate, which has no network. Holes are drawn as those that
`{model}` learned from, but other ones.

![Large strokes; large clouds; a hole wider than a tile](images/holes.jpg)

*From left to right: what was given; biharmonic; DDNM from a surface; one iteration; tileloom; the truth. From above:
large strokes, large clouds, and at half its size a hole wider than a tile.*

Known pixels change by {changed} of the data range at most, whatever fills the others. Two seeds of tileloom differ by
{apart} inside a hole (root mean square, the least of all scenes that were filled twice) and by nothing outside.

| column | what it is, of lost pixels |
|---|---|
| PSNR | in dB, of values clipped to the data range |
| SSIM | structural similarity, windows of standard deviation 1.5, mean over bands |
| distance | of patches to the true ones as a whole, in standard deviations of the truth: 0 is the same as often |
| seam | how much steeper it is across tiles' borders than elsewhere in holes, less the same of the truth |
| edge | the same across the edges of holes |
| calls | network calls of a scene, each of a tile |
| calls a thousand | network calls for each thousand pixels that were filled |
| seen | pixels that the network was shown in all these calls, for each that was filled: tiles differ in size |

`distance` is a sliced Wasserstein distance and asks no network. What each of three halvings of a picture loses, and
what is left, is looked at in patches of 3 x 3 values around up to 2048 lost pixels of a scene, the same places in the
truth. They are projected on 64 fixed directions, sorted along each, and the mean difference is taken, over all scenes
of a table, directions and sizes. So it does not ask what lies where, as PSNR does, which prefers a blur to any texture
that is not certain: it asks whether as much is bright, dark, smooth and sharp as there should be. `seam` is empty where
hardly a border lies in any hole, and below 0 where it is flatter across borders than elsewhere. The plate, which has
none, is looked at where tileloom's are: what it has is chance.
"""

AFTER_TARGETS = """Pixels seen, and the seam, are means over all kinds and sizes: in the seam of one, chance has
its part.
"""

"""How well pictures show what their map of labels says, what guidance changes, and what tiles leave in them.

Scenes from the air that no model was trained on are drawn anew from their label maps alone, and a segmenter that has
learned from other scenes reads them. The command writes its part of ``docs/quality.md``; it may be stopped and run
again, since pictures and segmenter lie in ``--out``. Of changed code or another device it knows nothing: name another
``--out`` then. With ``--larger 2048`` seams are looked for in a scene of that side, too, which an accelerator can draw.
With ``--smoke`` a tiny network that knows nothing draws tiny scenes, to see that everything runs; judged is then only
what holds for any network.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._damage import BANDS
from benchmarks._drawing import CLASSES, Drawings, Size
from benchmarks._findings import Findings, find, standing
from benchmarks._report import Benchmark, Figures, Limit
from benchmarks._segmenter import Course, segmenter
from benchmarks._study import model_of
from benchmarks._synthesis_page import write_page
from benchmarks.denoising import LEARNED_FROM
from tests.nets import SEMANTIC, weights
from tileloom.tiling.errors import InputError

FULL, COURSE = Size(), Course(LEARNED_FROM)
SMALL = Size(side=2.5, large=(48, 64), steps=2, seeds=FULL.seeds[:2])
SHORT = Course(LEARNED_FROM, places=2, steps=30, width=16)
_SMALL_NET = replace(
    SEMANTIC, in_channels=BANDS, out_channels=BANDS, num_classes=CLASSES, edges=False, channel_mult=(1,)
)

LIMITS: Mapping[str, Limit] = {
    "pixels that another seed changes": (">=", 0.5),
    "pixels that other labels change": (">=", 0.02),
    "true scenes' mIoU over other maps'": (">=", 0.0),
}
TARGETS: Mapping[str, Limit] = {
    "mIoU of true scenes": (">=", 0.6),
    "share of the way from shuffled to true": (">=", 0.5),
    "seam of naive's": ("<=", 0.2),
}


def figures_of(found: Findings) -> Figures:
    """How it stands to what is aimed at, and all that was found."""
    figures = dict(standing(found))
    for name, reading in found.readings.items():
        figures |= {f"{name}: mIoU": reading.miou, f"{name}: texture": reading.texture}
        figures |= {f"{name}: variety": reading.variety, f"{name}: calls": reading.calls}
    for side, weaves in found.weaves.items():
        for name, woven in weaves.items():
            figures |= {
                f"{name}, {side} pixels: seam": woven.seam,
                f"{name}, {side} pixels: seam by chance": woven.chance,
                f"{name}, {side} pixels: calls": woven.calls,
            }
    return figures


def measure(smoke: bool, *, model: str, out: Path, larger: int) -> Figures:
    """Do what is left to do, and write the page; or the smallest of it, by a random net."""
    if smoke:
        with TemporaryDirectory() as name:
            folder = Path(name)
            small = {"name": weights(folder, _SMALL_NET), "image_size": 16}
            return figures_of(find(Drawings(small, SMALL, folder), segmenter(SHORT, folder)))
    if larger and larger <= FULL.large[0]:
        raise InputError(f"larger is {larger}; give more than the {FULL.large[0]} pixels that are drawn anyway, or 0")
    size = replace(FULL, large=(*FULL.large, larger)) if larger else FULL
    drawings = Drawings(model_of(model), size, out)
    found = find(drawings, segmenter(COURSE, out))
    write_page(drawings, found, TARGETS)
    return figures_of(found)


BENCHMARK = Benchmark(
    "synthesis",
    measure,
    LIMITS,
    TARGETS,
    {
        "model": {"default": "terra-semantic", "help": "a model of labels, by its name or file"},
        "larger": {"type": int, "default": 0, "help": "look for seams in a scene of so many pixels a side, too"},
        "out": {"type": Path, "default": Path("synthesis"), "help": "where what was done is kept, to go on with"},
    },
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

"""How good restored pictures are: eight scenes from the air, eight ways to damage them, and who restores them best.

Classical methods, the same network woven in other ways, and tileloom as it comes. The command writes
``docs/quality.md``; it may be stopped and run again, since what is done lies in ``--out``, and another model or setting
does only what that changes. Of changed code it knows nothing: name another ``--out`` then. With ``--smoke`` a tiny
network that knows nothing restores a tiny scene, to see that everything runs; judged is then only what holds for any
network.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from benchmarks._damage import BANDS, SEEDS
from benchmarks._marks import Marks
from benchmarks._quality_page import write_page
from benchmarks._report import Benchmark, Figures
from benchmarks._study import Size, Study, model_of
from benchmarks._verdict import LIMITS, TARGETS, Means, means_of, misfit, standing
from tests.nets import UNET, weights

FULL = Size(seeds=SEEDS)
SMALL = Size(side=2.5, steps=2, tasks=("sr:4", "stripes"), seeds=SEEDS[:1], sweeps=False)
_SMALL_NET = replace(UNET, in_channels=BANDS, out_channels=BANDS)


def figures_of(means: Means) -> Figures:
    """How it stands to what is aimed at, and all marks."""
    figures = {"misfit": misfit(means), **dict(standing(means))}
    for (task, way), mean in means.items():
        figures |= {f"{task} {way} {own.name}": getattr(mean.marks, own.name) for own in fields(Marks)}
        figures[f"{task} {way} calls"] = mean.calls
    return figures


def small_net(folder: Path) -> dict[str, Any]:
    """A tiny network of random weights, as a model."""
    return {"name": weights(folder, _SMALL_NET), "image_size": 32}


def measure(smoke: bool, *, model: str, out: Path, minutes: float) -> Figures:
    """Do what is left to do, as far as the time allows, and write the page; or the smallest of it, by a random net."""
    if smoke:
        with TemporaryDirectory() as folder:
            study = Study(small_net(Path(folder)), SMALL, Path(folder) / "out")
            study.run(until=float("inf"))
            return figures_of(means_of(study.records()))
    study = Study(model_of(model), FULL, out)
    whole = study.run(until=monotonic() + 60 * minutes)
    means = means_of(study.records())
    write_page(study, means, TARGETS, whole=whole)
    return figures_of(means)


BENCHMARK = Benchmark(
    "quality",
    measure,
    LIMITS,
    TARGETS,
    {
        "model": {"default": "terra", "help": "a model by its name or file"},
        "out": {"type": Path, "default": Path("quality"), "help": "where what was done is kept, to go on with"},
        "minutes": {"type": float, "default": 60, "help": "how long it may take before it stops until next time"},
    },
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

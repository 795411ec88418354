"""Seams that a trained Patch-DM leaves between its patches, against the same patches drawn each on its own.

One network draws an image twice from the same noise: ``together``, as a job of such a network does, and ``apart``,
every patch an image of its own, with nothing beyond its edges. ``seam`` is how much steeper the image is across borders
of patches than elsewhere, less 1, and ``half-way`` the same across the borders of encoder patches, which lie half a
patch off: both of its pixels, and as ``coarse ...`` of means of an eighth of a patch, in which noise and the pattern of
a stem do not count.

The full size draws by a model, the small one by a tiny network that it trains first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks._report import Benchmark, Figures
from tests.trainings import PATCHES, archive, crops_of, learner
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import from_options
from tileloom.models.kinds import contract_of
from tileloom.models.training.loop import MODEL, train
from tileloom.models.training.recipe import Course
from tileloom.tiling.place import place
from tileloom.tiling.seam import seam_ratio

STEPS = 100
EIGHTHS = 8
SEAMS = ("seam", "coarse seam")


def tiny_model(folder: Path) -> str:
    """A network that has learned for some seconds what borders of fields and woods look like."""
    crops = crops_of(archive(folder, size=384), size=4 * PATCHES.patch, held_out=0, flips=True, turns=True)
    small = learner(crops, PATCHES, predicts="v", rate=2e-3, warmup=20, ema=0.98)
    whole = {"log": STEPS, "check": STEPS, "sheet": STEPS, "checkpoint": STEPS}
    train(small, crops, Course(steps=STEPS, batch=16, **whole), place(folder / "run"), seed=0)
    return str(folder / "run" / MODEL)


def drawn(model: str, patch: int, folder: Path, side: int, steps: int, **options: object) -> dict[str, float]:
    """The marks of an image that a job draws."""
    spec = from_options(
        {
            "input": f"blank:{side}x{side}",
            "output": str(folder / "out.zarr"),
            "task": "generate",
            "dtype": "float32",
            "range": [0, 1],
            "model": model,
            "sampler": "ddim",
            "steps": steps,
            "batch": 16,
            "lanes": 1,
            **options,
        }
    )
    run_job(spec, Silent())
    image = np.asarray(zarr.open_array(f"{spec.output}/0", mode="r")[...])
    coarse = image.reshape(len(image), *(side * EIGHTHS // patch, patch // EIGHTHS) * 2).mean(axis=(2, 4))
    return {**marks(image, patch), **{f"coarse {name}": mark for name, mark in marks(coarse, EIGHTHS).items()}}


def marks(image: NDArray[Any], patch: int) -> dict[str, float]:
    """How much steeper an image is across borders of patches, and half-way between them."""
    side = image.shape[-1]
    lines = {"seam": range(patch, side, patch), "half-way": range(patch // 2, side, patch)}
    return {name: seam_ratio(image, at, at, block=1) - 1 for name, at in lines.items()}


def measure(smoke: bool, *, model: str) -> Figures:
    """Both ways of drawing, and what exchanging features leaves of the seams of patches alone."""
    side, steps = (192, 10) if smoke else (512, 25)
    figures: dict[str, float] = {}
    with TemporaryDirectory() as where:
        folder = Path(where)
        name = tiny_model(folder) if smoke else model
        patch = contract_of(name).patch
        assert patch is not None
        for way, options in {"together": {}, "apart": {"weave": "naive", "tile": patch}}.items():
            found = drawn(name, patch, folder / way, side, steps, **options)
            figures |= {f"{way} {name}": mark for name, mark in found.items()}
    shares = {f"{name} of apart's": abs(figures[f"together {name}"] / figures[f"apart {name}"]) for name in SEAMS}
    return figures | shares


BENCHMARK = Benchmark(
    "patches_seams",
    measure,
    {f"{name} of apart's": ("<=", 0.9) for name in SEAMS},
    {"seam of apart's": ("<=", 0.7), "coarse seam of apart's": ("<=", 0.45)},
    options={"model": {"default": "terra-patches", "help": "a model by its name or file"}},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

"""Seams that each way of weaving leaves, in Gaussian fields whose exact denoiser is known.

Two tasks: ``sr`` (4 x 4 means) and ``hole`` (a square whose edges lie on tile edges of both weaves). ``seam`` and
``edge`` are what ``tileloom.tiling.seam`` measures less the truth's own figure, ``rmse`` is the error of restored
pixels, all as means over eight independent fields; ``calls`` are network calls. Beside the ways stand ``whole``, the
image in a single tile (what the sampler leaves of itself), and ``exact``, a draw from the true conditional
distribution, both measured on the lines of the guarded weave.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks._report import Benchmark, Figures
from tests.exact_conditional import around_hole, block_means, given_block_means
from tileloom.jobs.compile import compile_job
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import JobSpec, from_options
from tileloom.models.contract import GaussianSpec
from tileloom.models.gaussian import sample_field
from tileloom.tiling.box import Box
from tileloom.tiling.seam import borders, edge_ratio, seam_excess

Image = NDArray[Any]

TILE, SCALE = 32, 4
SEEDS = 8
"""Fields in one image, a band each: their values and their noise are independent."""
WAYS: Mapping[str, Mapping[str, Any]] = {
    "naive": {"weave": "naive"},
    "published": {"stride": TILE // 2, "guard": 0},
    "guarded": {},  # what a job gets that asks for nothing else: 3T/4, T/8
    "joint": {"weave": "joint"},
}
TRAVEL = {"length": 10, "repeat": 3}
"""Time travel as DDNM was released with: in the roughest fields, what the sampler leaves without it hides the tiles."""
SR_SIDE, HOLE_SIDE, HOLE = 96, 160, Box(48, 48, 128, 128)


@dataclass(frozen=True)
class Scene:
    """Eight fields of one covariance, seen as 4 x 4 means or, with a ``hole``, without the pixels in it."""

    field: GaussianSpec
    side: int
    hole: Box | None = None

    @cached_property
    def truth(self) -> Image:
        """The fields, one a band."""
        return sample_field(self.field, (SEEDS, self.side, self.side), seed=1)

    @cached_property
    def unknown(self) -> NDArray[np.bool_]:
        """Which pixels are to be restored."""
        unknown = np.full((self.side, self.side), self.hole is None)
        if self.hole:
            unknown[self.hole.slices] = True
        return unknown

    @cached_property
    def measured(self) -> Image:
        """What a job is given."""
        if self.hole:
            return np.where(self.unknown, np.float32(0), self.truth)
        return block_means(self.truth, SCALE).astype(np.float32)

    @property
    def block(self) -> int:
        """The measurement's block: borders are compared with lines of their own phase."""
        return 1 if self.hole else SCALE

    def exact(self) -> Image:
        """A draw from the true conditional distribution."""
        if self.hole:
            return around_hole(self.field, self.truth, self.hole, seed=2)
        return given_block_means(self.field, self.measured, SCALE, seed=2)

    def marks(self, image: Image, rows: tuple[int, ...], cols: tuple[int, ...], calls: int = 0) -> Marks:
        """How an image looks along these borders and, around a hole, along its edge."""

        def seam(one: Image, truth: Image) -> float:
            return seam_excess(one, truth, rows, cols, block=self.block, region=self.hole)

        def edge(one: Image, truth: Image) -> float:
            return edge_ratio(one, self.unknown, block=1) - edge_ratio(truth, self.unknown, block=1)

        error = (image - self.truth)[:, self.unknown]
        return Marks(self._mean(seam, image), self._mean(edge, image) if self.hole else 0.0, rms(error), calls)

    def _mean(self, mark: Callable[[Image, Image], float], image: Image) -> float:
        pairs = zip(image, self.truth, strict=True)
        return float(np.mean([mark(one[None], truth[None]) for one, truth in pairs]))


@dataclass(frozen=True, slots=True)
class Marks:
    """Means over the fields: excess of seam and edge, error of the restored pixels; network calls."""

    seam: float
    edge: float
    rmse: float
    calls: int


def rms(values: Image) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


def woven(scene: Scene, **options: Any) -> tuple[Image, tuple[int, ...], tuple[int, ...], int]:  # noqa: ANN401
    """The scene restored by a job: the image, its tiles' borders along rows and columns, network calls."""
    with TemporaryDirectory() as folder:
        spec = _job(scene, Path(folder), **options)
        image_plan = compile_job(spec).image
        grid = image_plan.lattices[0].windows if image_plan.lattices else image_plan.plan.levels[0]
        summary = run_job(spec, Silent())
        image = np.asarray(zarr.open_array(f"{spec.output}/0", mode="r")[...])
    return image, borders(grid.rows), borders(grid.cols), summary.calls


def _job(scene: Scene, folder: Path, **options: Any) -> JobSpec:  # noqa: ANN401
    field = scene.field
    names = ("covariance", "length", "std", "mean", "band_correlation")
    given = {
        "input": _written(folder / "measured", scene.measured),
        "output": str(folder / "out.zarr"),
        "task": "inpaint" if scene.hole else f"sr:{SCALE}",
        "mask": _written(folder / "mask", scene.unknown[None].astype(np.uint8)) if scene.hole else None,
        "model": {"name": "gaussian", **{name: getattr(field, name) for name in names}},
        "range": [-1.0, 1.0],
        "tile": TILE,
        "levels": 1,
        "lanes": 1,
    }
    return from_options({**given, **options})


def _written(path: Path, image: Image) -> str:
    zarr.create_array(str(path), shape=image.shape, chunks=image.shape, dtype=image.dtype)[...] = image
    return str(path)


def compare(scene: Scene, **options: Any) -> dict[str, Marks]:  # noqa: ANN401
    """The marks of every way, of the whole image in one tile, and of exact conditional sampling."""
    marks = {}
    for way, geometry in WAYS.items():
        image, rows, cols, calls = woven(scene, **options, **geometry)
        marks[way] = scene.marks(image, rows, cols, calls)
        if way == "guarded":
            lines = rows, cols
    whole, _, _, calls = woven(scene, **options, tile=scene.side, weave="naive")
    return {
        **marks,
        "whole": scene.marks(whole, *lines, calls),
        "exact": scene.marks(scene.exact(), *lines),
    }


def trials(smoke: bool) -> Iterator[tuple[str, Scene, Mapping[str, Any]]]:
    """(name, scene, options of its jobs) of every task and covariance."""
    for covariance in ("matern32",) if smoke else ("exponential", "matern32", "matern52"):
        for length in (8,) if smoke else (8, 16):
            field = GaussianSpec(covariance, float(length), band_correlation=0.0)
            steps = {"steps": 25 if smoke else 60}
            yield f"sr {covariance} {length}", Scene(field, SR_SIDE), steps
            yield f"hole {covariance} {length}", Scene(field, HOLE_SIDE, HOLE), steps
    if not smoke:
        field = GaussianSpec("exponential", 4.0, band_correlation=0.0)
        yield "hole exponential 4 travel", Scene(field, HOLE_SIDE, HOLE), {"steps": 30, "travel": TRAVEL}


def shares(scene: Scene, marks: Mapping[str, Marks]) -> Iterator[tuple[str, float]]:
    """What is left of other ways' excess: (name of the limit, share)."""
    task = "hole" if scene.hole else "sr"
    guarded, joint = marks["guarded"], marks["joint"]
    yield f"{task} seam of naive's", abs(guarded.seam) / marks["naive"].seam
    yield f"{task} seam of naive's, joint", abs(joint.seam) / marks["naive"].seam
    yield f"{task} rmse of guarded's, joint", joint.rmse / guarded.rmse
    if scene.hole:
        published, whole = marks["published"], marks["whole"]
        yield "hole edge of published's", guarded.edge / published.edge
        yield "the same beyond whole's", (guarded.edge - whole.edge) / (published.edge - whole.edge)
    else:
        yield "sr seam of published's", abs(guarded.seam) / marks["published"].seam


def measure(smoke: bool) -> Figures:
    """Every mark, and the largest shares of other ways' excess."""
    figures: dict[str, float] = {}
    for name, scene, options in trials(smoke):
        marks = compare(scene, **options)
        for way, found in marks.items():
            figures[f"{name} {way} seam"] = found.seam
            if scene.hole:
                figures[f"{name} {way} edge"] = found.edge
            figures[f"{name} {way} rmse"] = found.rmse
            figures[f"{name} {way} calls"] = found.calls
        for limit, share in shares(scene, marks):
            figures[limit] = max(figures.get(limit, 0.0), share)
    return figures


BENCHMARK = Benchmark(
    "seams",
    measure,
    {
        "sr seam of naive's": ("<=", 0.2),
        "sr seam of published's": ("<=", 0.5),
        "sr seam of naive's, joint": ("<=", 0.2),
        "sr rmse of guarded's, joint": ("<=", 1.02),
        "hole seam of naive's": ("<=", 0.2),
        "hole seam of naive's, joint": ("<=", 0.2),
        "hole rmse of guarded's, joint": ("<=", 1.02),
        "hole edge of published's": ("<=", 0.5),
        "the same beyond whole's": ("<=", 0.2),
    },
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

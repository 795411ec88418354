"""The demo: two scenes as from the air restored with the model terra, with pictures, figures and a page to look at.

One scene is averaged down to a sixteenth of its pixels, the other has clouds and stripes without data. tileloom
restores both whole, with guarded tiles under coarse passes; for comparison one window of each is restored with naive
tiles and with mask-shift restoration as published. Run it with ``make demo``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import imagecodecs
import numpy as np
import yaml
import zarr
from numpy.typing import NDArray
from rich.console import Console

from examples.demo_page import page
from examples.demo_pictures import (
    Bools,
    Image,
    bicubic,
    error_map,
    filled,
    halved,
    rgb,
    seam_map,
    sheet,
)
from tileloom.jobs.compile import Compiled, compile_job
from tileloom.jobs.forecast import Forecast, forecast, survey_image
from tileloom.jobs.progress import Silent, Terminal
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import JobSpec, from_options
from tileloom.models.device import knows_bf16
from tileloom.tiling.box import Box
from tileloom.tiling.chance import key
from tileloom.tiling.inputs import boxes
from tileloom.tiling.observe import repeat
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.pyramid import Pyramid
from tileloom.tiling.seam import borders, edge_ratio, seam_excess
from tileloom.tiling.terra.lattice import fractal, smoothstep
from tileloom.tiling.terra.scene import Cover, Terra
from tileloom.tiling.weave_picture import in_slots, weave_picture, write_png

# Not among the scenes that terra was trained on.
SEEDS = {"sr": 6, "clouds": 10}
SCALE, BATCH, TILE = 4, 4, 64
# In holes naive tiles and published MSR begin with noise alone, as published; with few steps as much fresh noise as
# there may be leaves the least in the result. All else is drawn as in jobs that leave it open.
PUBLISHED: dict[str, dict[str, Any]] = {"sr": {}, "clouds": {"sampler": "ddim-ddnm", "eta": 1.0, "steps": 18}}
WINDOW, SHOWN, WIDEST = 384, 160, 1024
CLOUD_SEED, CLOUDS, CLOUD_SIZE, STRIPES = 5, 0.0075, 64, 0.12
# A border is compared with lines of its own phase: the measurement's block, and the coarsest level's pixel.
PHASES = 8
# What an earlier run has left, and no other file, is thrown away.
LEFT = {*SEEDS, "figures.json", "index.html", "comparison.jpg"}
# Windows are three eighths of a scene, in whole blocks of what is measured.
SIZES = 32
OURS = "tileloom"
COLUMNS = ("given", "smooth", "naive-tiles", "published-msr", "tileloom", "truth")
"""Pictures of a window, from left to right."""
WAYS: dict[str, dict[str, Any]] = {
    "naive tiles": {"weave": "naive", "levels": 1},
    "published MSR": {"stride": TILE // 2, "guard": 0, "levels": 1},
    OURS: {},
}


@dataclass(frozen=True, eq=False)
class Scene:
    """A damaged image, what it was made from, and the window of it in which ways are compared; all in 8 bits.

    ``options`` are those of a job that restores it whole.
    """

    name: str
    title: str
    task: str
    measured: Image
    truth: Image
    window: Box
    hole: Bools | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> int:
        """Target pixels a measured value covers, along a side."""
        return int(self.truth.shape[-1] // self.measured.shape[-1])

    @property
    def region(self) -> Bools:
        """The pixels that are restored."""
        return np.ones(self.truth.shape[1:], bool) if self.hole is None else self.hole

    @cached_property
    def given(self) -> Image:
        """What is given, on the grid of the truth."""
        return repeat(self.measured, self.scale)

    @cached_property
    def smooth(self) -> Image:
        """What interpolation makes of it."""
        return bicubic(self.measured, self.scale) if self.hole is None else filled(self.measured, self.hole)

    @cached_property
    def cropped(self) -> Scene:
        """The window alone."""
        part, small = self.window.slices, self.window.coarsen(self.scale).slices
        return replace(
            self,
            measured=self.measured[:, *small],
            truth=self.truth[:, *part],
            window=Box(0, 0, *self.window.shape),
            hole=None if self.hole is None else self.hole[part],
            options={},
        )


@dataclass(frozen=True, eq=False)
class Trial:
    """A scene, or a window of one, restored in one way."""

    scene: Scene
    way: str
    folder: Path

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.way.replace(" ", "-").lower()

    @cached_property
    def compiled(self) -> Compiled:
        """Its job, which is written with all that it needs."""
        folder, scene = self.folder / self.name, self.scene
        write_zarr(folder / "input.zarr", scene.measured)
        options: dict[str, Any] = {
            "input": str(folder / "input.zarr"),
            "output": str(folder / "restored.zarr"),
            "task": scene.task,
            "model": {"name": "terra", "precision": "bf16" if knows_bf16() else "fp32"},
            **({} if self.way == OURS else PUBLISHED[scene.name]),
            "tile": TILE,
            "batch": BATCH,
            **scene.options,
            **WAYS[self.way],
        }
        if scene.hole is not None:
            write_zarr(folder / "mask.zarr", scene.hole[None].astype(np.uint8))
            options["mask"] = str(folder / "mask.zarr")
        spec = from_options(options)
        (folder / "job.yaml").write_text(yaml.safe_dump(spec.text(), sort_keys=False), encoding="utf-8")
        return compile_job(spec)

    @cached_property
    def planned(self) -> Forecast:
        """What it will do and cost."""
        return forecast(self.compiled, survey_image(self.compiled, Silent()))

    def run(self, console: Console) -> dict[str, Any]:
        """Restore it; what the page tells of it."""
        spec: JobSpec = self.compiled.spec
        console.print(f"\n[bold]{self.scene.title}[/bold], {self.way}", highlight=False)
        times: list[tuple[float, float, int, int]] = []
        with Terminal(console) as watcher:
            summary = run_job(
                spec,
                watcher,
                on_reports=lambda reports: times.extend((r.began, r.began + r.seconds, 0, r.tile) for r in reports),
            )
        result = Pyramid.open(spec.output, mode="r")
        image = np.asarray(result.read(0, result.box(0)))
        plan = self.compiled.image.plan
        write_png(self.folder / f"{self.name}-weave.png", weave_picture(in_slots(times), [plan], height=360))
        if self.way == OURS:
            write_png(self.folder / "whole.png", halved(rgb(image), WIDEST))
        return {
            **self.told(self.way, self.name),
            **self._drawn(image, plan),
            "network calls": summary.calls,
            "million pixels seen": round(summary.calls * TILE**2 / 1e6, 2),
            "seconds": round(summary.seconds, 1),
        }

    def told(self, way: str, files: str) -> dict[str, Any]:
        """What a row of the report is about."""
        return {"scene": self.scene.name, "title": self.scene.title, "way": way, "files": files}

    def _drawn(self, image: Image, plan: WeavePlan) -> dict[str, float]:
        """Figures of the window, whose pictures are written."""
        scene, grid, at = self.scene, plan.levels[0], self.scene.window
        part, truth, inside = image[:, *at.slices], scene.truth[:, *at.slices], scene.region[at.slices]
        rows = [near - at.top for near in borders(grid.rows)]
        cols = [near - at.left for near in borders(grid.cols)]
        write_png(self.folder / f"{self.name}.png", rgb(part))
        write_png(self.folder / f"{self.name}-error.png", error_map(part, truth))
        write_png(self.folder / f"{self.name}-seams.png", seam_map(part, truth, rows, cols, inside, block=PHASES))
        seam = seam_excess(part, truth, rows, cols, block=PHASES, region=inside)
        return {"seam excess": round(seam, 3), **figures(part, truth, scene, at)}


def figures(part: Image, truth: Image, scene: Scene, at: Box) -> dict[str, float]:
    """Of a window: how far it is from the truth and from what was measured, and what is to be seen of a hole's edge."""
    inside, given = scene.region[at.slices], scene.measured[:, *at.coarsen(scene.scale).slices]
    found = {"rmse": rms((part.astype(np.float64) - truth)[:, inside])}
    if scene.hole is None:
        rows, cols = given.shape[1:]
        means = part.astype(np.float64).reshape(-1, rows, scene.scale, cols, scene.scale).mean(axis=(2, 4))
        found["rms off the measured"] = rms(means - given)
    else:
        found["edge excess"] = edge_ratio(part, inside, block=1) - edge_ratio(truth, inside, block=1)
        found["rms off the measured"] = rms((part.astype(np.float64) - given)[:, ~inside])
    return {name: round(value, 3) for name, value in found.items()}


def rms(values: NDArray[np.float64]) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def main(words: Sequence[str] | None = None) -> None:
    """Restore both scenes and write the pictures and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for results, pictures and report")
    parser.add_argument("--size", type=int, default=1024, help="side of the first scene; the other has twice of it")
    arguments = parser.parse_args(words)
    if arguments.size % SIZES or arguments.size < 4 * TILE:
        parser.error(f"--size is {arguments.size}: give a multiple of {SIZES} from {4 * TILE} up")
    began, out, console = monotonic(), arguments.out, Console()
    if out.exists() and (others := {file.name for file in out.iterdir()} - LEFT):
        parser.error(f"--out is {out}, which holds {min(others)}, and would be emptied: name another folder")
    if out.exists():
        shutil.rmtree(out)
    console.print("drawing the scenes")
    trials = [
        Trial(scene if way == OURS else scene.cropped, way, out / scene.name)
        for scene in scenes(arguments.size)
        for way in WAYS
    ]
    planned = plan_of(trials)
    console.print("\n".join(planned["lines"]), highlight=False)
    rows = [trial.run(console) for trial in trials]
    rows += [interpolated(trial) for trial in trials if trial.way == OURS]
    told = {"rows": rows, "planned": planned, "seconds": round(monotonic() - began, 1)}
    (out / "figures.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    (out / "index.html").write_text(page(told, out), encoding="utf-8")
    (out / "comparison.jpg").write_bytes(imagecodecs.jpeg8_encode(comparison(out), level=90))
    console.print(f"\nPictures, figures and a page to look at: {out / 'index.html'}", highlight=False)


def scenes(size: int) -> list[Scene]:
    """The scene averaged down, and the scene under clouds, twice as large."""
    side = min(WINDOW, size * 3 // 8)
    truth = drawn(SEEDS["sr"], size)
    fine = truth.astype(np.float32).reshape(-1, size // SCALE, SCALE, size // SCALE, SCALE)
    small = np.rint(fine.mean(axis=(2, 4))).astype(np.uint8)
    top, left = (size // part // SCALE * SCALE for part in (32, 6))
    window = Box(top, left, top + side, left + side)
    first = Scene("sr", f"Four times the resolution: {size} x {size} pixels", f"sr:{SCALE}", small, truth, window)
    truth = drawn(SEEDS["clouds"], 2 * size)
    covered, hole, window = under_clouds(truth, CLOUD_SEED, side)
    # At half of the resolution the largest cloud fits into a tile.
    options = {"levels": 2}
    title = f"Clouds and stripes removed: {2 * size} x {2 * size} pixels"
    return [first, Scene("clouds", title, "inpaint", covered, truth, window, hole, options)]


def drawn(seed: int, size: int) -> Image:
    """The picture of a scene."""
    picture = np.empty((4, size, size), np.uint8)
    for box in boxes(size, size, 512):
        picture[:, *box.slices] = Terra(seed).look(box)[0]
    return picture


def under_clouds(truth: Image, seed: int, side: int) -> tuple[Image, Bools, Box]:
    """A scene under small clouds, with stripes without data beside the thickest one; its hole, and a window there."""
    size = truth.shape[-1]
    mass = fractal(key(seed, "small clouds"), Box(0, 0, size, size), CLOUD_SIZE, 4, fall=0.5)
    least = np.quantile(mass, 1 - CLOUDS)
    cloud = smoothstep(least, least + 0.4, mass)
    row, col = np.unravel_index(np.argmax(mass), mass.shape)
    top, left = (int(np.clip(at - side // 3, 0, size - side)) for at in (row, col))
    window = Box(top, left, top + side, left + side)
    covered = np.rint(truth + (np.float32(250) - truth) * cloud).astype(np.uint8)
    hole = cloud > 0
    swath = Box(window.bottom - side // 2, window.left, window.bottom, window.right)
    covered[:, *swath.slices], gaps = Cover(seed, stripes=STRIPES).hide(covered[:, *swath.slices], swath)
    hole[swath.slices] |= gaps
    return covered, hole, window


def plan_of(trials: Sequence[Trial]) -> dict[str, Any]:
    """What all of it will cost, in figures and in lines for people."""
    lines, calls, pixels, flops = [], 0, 0, 0.0
    for trial in trials:
        found = trial.planned
        tiles, effort = sum(found.bill.solve), found.effort
        calls, pixels = calls + found.bill.calls, pixels + effort.pixel_calls
        flops += effort.flops or 0.0
        lines.append(f"{trial.scene.name}, {trial.way}: at most {tiles} tiles, {found.bill.calls} network calls")
    lines.append(
        f"all: at most {calls} network calls, {pixels / 1e6:.3g} million pixels seen, {flops / 1e12:.3g} TFLOP"
    )
    return {"calls": calls, "pixel_calls": pixels, "flops": flops, "lines": lines}


def interpolated(trial: Trial) -> dict[str, Any]:
    """The row of what needs no network; also writes the pictures of a scene that are of no way."""
    scene, folder, at = trial.scene, trial.folder, trial.scene.window.slices
    for name, image in {"given": scene.given, "smooth": scene.smooth, "truth": scene.truth}.items():
        write_png(folder / f"{name}.png", rgb(image[:, *at]))
    write_png(folder / "smooth-error.png", error_map(scene.smooth[:, *at], scene.truth[:, *at]))
    write_png(folder / "whole-given.png", halved(rgb(scene.given), WIDEST))
    found = figures(scene.smooth[:, *at], scene.truth[:, *at], scene, scene.window)
    return {**trial.told("interpolated", "smooth"), **found}


def comparison(out: Path) -> NDArray[np.uint8]:
    """A part of both windows, twice as large, in one picture: a scene a row."""
    rows = []
    for scene in SEEDS:
        pictures = [imagecodecs.png_decode((out / scene / f"{name}.png").read_bytes()) for name in COLUMNS]
        edge = pictures[0].shape[0] // 6
        rows.append([picture[edge:, edge:][:SHOWN, :SHOWN].repeat(2, 0).repeat(2, 1) for picture in pictures])
    return sheet(rows)


def write_zarr(path: Path, image: NDArray[Any]) -> None:
    """An image (band, row, column) as a plain Zarr array."""
    chunks = (*image.shape[:-2], 256, 256)
    names = ("c", "y", "x")
    zarr.create_array(str(path), shape=image.shape, chunks=chunks, dtype=image.dtype, dimension_names=names)[:] = image


if __name__ == "__main__":
    main()

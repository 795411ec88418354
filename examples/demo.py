"""The demo: two large scenes restored, with pictures, figures and a page to look at.

A scene is drawn from a Gaussian field, then (a) averaged down to a sixteenth of its pixels and (b)
covered with clouds. tileloom restores it whole, with guarded tiles under a coarse pass; for comparison one
window of it is restored with independent tiles and with mask-shift restoration as published. Run it with
``make demo``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from rich.console import Console

from tileloom.jobs.compile import compile_job
from tileloom.jobs.progress import Terminal
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import JobSpec, from_options
from tileloom.models.contract import GaussianSpec
from tileloom.models.gaussian import sample_field
from tileloom.tiling.box import Box
from tileloom.tiling.observe import repeat
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.pyramid import Pyramid
from tileloom.tiling.seam import borders, edge_ratio, seam_excess
from tileloom.tiling.weave_picture import in_slots, weave_picture, write_png

FIELD = GaussianSpec(covariance="exponential", length=60, std=0.35, band_correlation=0.85)
MODEL = {"name": "gaussian", **asdict(FIELD)}
TILE, STEPS, SCALE = 64, 25, 4
WINDOW, SHOWN = 384, 256
OURS = "tileloom"
# Time travel lets a filled hole settle against its edge.
TRAVEL = {"clouds": {"length": 5, "repeat": 2}}
# A border is compared with lines of its own phase: the measurement's block, and the coarsest level's pixel.
PHASES = 8
WAYS: dict[str, dict[str, Any]] = {
    "naive tiles": {"weave": "naive", "levels": 1},
    "published MSR": {"stride": TILE // 2, "guard": 0, "levels": 1},
    OURS: {},
}
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A damaged image, what it was made from, and the window of it in which ways are compared."""

    name: str
    title: str
    task: str
    measured: Image
    shown: Image
    truth: Image
    window: Box
    hole: NDArray[np.bool_] | None = None

    def cropped(self) -> Scene:
        """The window alone."""
        part, small = self.window.slices, self.window.coarsen(self.scale).slices
        hole = None if self.hole is None else self.hole[part]
        whole = Box(0, 0, *self.window.shape)
        return Scene(
            self.name,
            self.title,
            self.task,
            self.measured[:, *small],
            self.shown[:, *part],
            self.truth[:, *part],
            whole,
            hole,
        )

    @property
    def scale(self) -> int:
        """Target pixels a measured value covers, along a side."""
        return self.truth.shape[-1] // self.measured.shape[-1]


def main() -> None:
    """Restore both scenes and write the pictures and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for results, pictures and report")
    parser.add_argument("--size", type=int, default=1024, help="side of the scenes in pixels")
    arguments = parser.parse_args()
    out: Path = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    console = Console()
    rows = [row for scene in scenes(arguments.size) for row in restore(scene, out, console)]
    (out / "figures.json").write_text(json.dumps(rows, indent=1))
    (out / "index.html").write_text(page(rows))
    (out / "comparison.jpg").write_bytes(comparison(rows, out))
    console.print(f"\nPictures, figures and a page to look at: {out / 'index.html'}", highlight=False)


def scenes(size: int) -> list[Scene]:
    """The scene averaged down, and the scene under clouds."""
    truth = sample_field(FIELD, (3, size, size), seed=7)
    small = truth.reshape(3, size // SCALE, SCALE, size // SCALE, SCALE).mean(axis=(2, 4))
    cover = sample_field(GaussianSpec(covariance="matern52", length=size / 16, std=1), (1, size, size), seed=3)[0]
    hole = cover > np.quantile(cover, 0.9)
    row, col = np.unravel_index(np.argmax(cover), cover.shape)
    top, left = (int(np.clip(at - WINDOW // 2, 0, size - WINDOW)) for at in (row, col))
    clouds = np.where(hole, np.float32(1), truth)
    return [
        Scene(
            "sr",
            "four times the resolution",
            f"sr:{SCALE}",
            small,
            repeat(small, SCALE),
            truth,
            Box(0, 0, WINDOW, WINDOW),
        ),
        Scene(
            "clouds",
            "clouds removed",
            "inpaint",
            clouds,
            clouds,
            truth,
            Box(top, left, top + WINDOW, left + WINDOW),
            hole,
        ),
    ]


def restore(scene: Scene, out: Path, console: Console) -> list[dict[str, Any]]:
    """Restore a scene in every way; a row of figures each."""
    folder = out / scene.name
    picture(folder / "degraded.png", scene.shown, scene.window)
    picture(folder / "truth.png", scene.truth, scene.window)
    return [restore_one(scene if way == OURS else scene.cropped(), way, folder, console) for way in WAYS]


def restore_one(scene: Scene, way: str, folder: Path, console: Console) -> dict[str, Any]:
    """One scene in one way: run the job, draw the result, measure it."""
    name = way.replace(" ", "-").lower()
    spec = job(scene, folder / name, WAYS[way])
    console.print(f"\n[bold]{scene.title}[/bold], {way}", highlight=False)
    plan = compile_job(spec).image.plan
    times: list[tuple[float, float, int, int]] = []
    with Terminal(console) as watcher:
        summary = run_job(
            spec,
            watcher,
            on_reports=lambda reports: times.extend((r.began, r.began + r.seconds, 0, r.tile) for r in reports),
        )
    result = Pyramid.open(spec.output, mode="r")
    image = np.asarray(result.read(0, result.box(0)), np.float32)
    picture(folder / f"{name}.png", image, scene.window)
    write_png(folder / f"{name}-weave.png", weave_picture(in_slots(times), [plan], height=360))
    return {
        "scene": scene.name,
        "title": scene.title,
        "way": way,
        "picture": f"{scene.name}/{name}.png",
        **figures(scene, image, plan),
        "network calls": summary.calls,
        "seconds": round(summary.seconds, 1),
    }


def job(scene: Scene, folder: Path, options: dict[str, Any]) -> JobSpec:
    """Write a scene's input, and the job that restores it."""
    write_zarr(folder / "input.zarr", scene.measured)
    mask = {}
    if scene.hole is not None:
        write_zarr(folder / "mask.zarr", scene.hole.astype(np.uint8))
        mask = {"mask": str(folder / "mask.zarr")}
    return from_options(
        {
            "input": str(folder / "input.zarr"),
            "output": str(folder / "restored.zarr"),
            "task": scene.task,
            "model": MODEL,
            "steps": STEPS,
            "travel": TRAVEL.get(scene.name),
            "tile": TILE,
            "range": [-1, 1],
            **mask,
            **options,
        }
    )


def figures(scene: Scene, image: Image, plan: WeavePlan) -> dict[str, float]:
    """In the window: how much of a seam is left, at tiles' borders and at the hole's edge, and the error."""
    grid, part = plan.levels[0], scene.window.slices
    image, truth = image[:, *part], scene.truth[:, *part]
    hole = None if scene.hole is None else scene.hole[part]
    rows = [at - scene.window.top for at in borders(grid.rows)]
    cols = [at - scene.window.left for at in borders(grid.cols)]
    inside = np.ones(image.shape[1:], bool) if hole is None else hole
    found = {
        "seam excess": seam_excess(image, truth, rows, cols, block=PHASES, region=inside),
        "rmse": float(np.sqrt(np.mean((image - truth)[:, inside] ** 2))),
    }
    if hole is not None:
        found["edge excess"] = edge_ratio(image, hole, block=1) - edge_ratio(truth, hole, block=1)
    return {name: round(float(value), 4) for name, value in found.items()}


def write_zarr(path: Path, image: NDArray[Any]) -> None:
    """An image as a plain Zarr array, (band, row, column) or (row, column)."""
    names = ("c", "y", "x")[-image.ndim :]
    chunks = (*image.shape[:-2], 256, 256)
    zarr.create_array(str(path), shape=image.shape, chunks=chunks, dtype=image.dtype, dimension_names=names)[:] = image


def picture(path: Path, image: Image, window: Box) -> None:
    """The middle of a window, as a picture."""
    part = window.pad((SHOWN - WINDOW) // 2).slices
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip((image[:, *part] + 1) * 127.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    write_png(path, np.ascontiguousarray(pixels))


def comparison(rows: list[dict[str, Any]], out: Path) -> bytes:
    """All pictures in one, a scene a row: degraded, then each way, then the truth."""
    strips = []
    for scene in dict.fromkeys(row["scene"] for row in rows):
        ways = [row["picture"] for row in rows if row["scene"] == scene]
        names = [f"{scene}/degraded.png", *ways, f"{scene}/truth.png"]
        strips.append(np.concatenate([imagecodecs.png_decode((out / name).read_bytes()) for name in names], axis=1))
    return bytes(imagecodecs.jpeg8_encode(np.concatenate(strips), level=88))


def page(rows: list[dict[str, Any]]) -> str:
    """The report."""
    parts = [PAGE_HEAD]
    for scene in dict.fromkeys(row["scene"] for row in rows):
        of_scene = [row for row in rows if row["scene"] == scene]
        parts.append(f"<h2>{escape(of_scene[0]['title'])}</h2><div class=row>")
        pictures = [("degraded", f"{scene}/degraded.png")]
        pictures += [(row["way"], row["picture"]) for row in of_scene] + [("truth", f"{scene}/truth.png")]
        parts += [
            f"<figure><img src='{src}'><figcaption>{escape(name)}</figcaption></figure>" for name, src in pictures
        ]
        columns = [name for name in of_scene[0] if name not in ("scene", "title", "picture")]
        parts.append("</div><table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in columns) + "</tr>")
        parts += ["<tr>" + "".join(f"<td>{escape(str(row[n]))}</td>" for n in columns) + "</tr>" for row in of_scene]
        weave = of_scene[-1]["picture"].replace(".png", "-weave.png")
        parts.append(f"</table><p>The weave over time: one band a tile in flight.</p><img class=weave src='{weave}'>")
    return "\n".join(parts)


PAGE_HEAD = """<!doctype html><meta charset=utf-8><title>tileloom: the demo</title>
<style>body{font:15px/1.5 system-ui;margin:2em auto;max-width:1360px;color:#222}.row{display:flex;gap:8px}
figure{margin:0}figcaption{text-align:center;color:#555}img{display:block}.weave{max-width:100%}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}</style>
<h1>Restored tile by tile</h1>
<p>Each picture is a window of 256 pixels; figures are of the 384 pixels around it, but calls and seconds of
tileloom are for the whole scene. Seam excess is how much steeper the image is across tile borders than
along inner lines, less the same figure of the truth: 0 is no seam.</p>"""

if __name__ == "__main__":
    main()

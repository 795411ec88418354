"""Scenes restored by jobs, many side by side, in any way of weaving; and tiles that are feathered, as most tools do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from csv import DictReader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import zarr

from benchmarks._damage import BANDS, Damaged, Image, Mask, Task
from benchmarks._marks import Borders
from tileloom.jobs.archive import REPORT, Archive
from tileloom.jobs.compile import compile_job
from tileloom.jobs.manifest import Manifest
from tileloom.jobs.progress import Silent
from tileloom.jobs.run_archive import run_archive
from tileloom.jobs.spec import JobSpec, from_options
from tileloom.tiling.errors import TileloomError
from tileloom.tiling.grid import Axis
from tileloom.tiling.seam import borders

Options = Mapping[str, Any]
Row = Mapping[str, str | Image]


class Woven(NamedTuple):
    """A restored picture, its tiles' borders along rows and columns, and network calls."""

    image: Image
    borders: Borders
    calls: int


def woven(scenes: Sequence[Damaged], options: Options) -> list[Woven]:
    """Scenes of one task, restored by one job."""
    rows = [_row(scene.name, scene.measured, scene.hidden) for scene in scenes]
    return run_images(rows, {**_job_of(scenes[0].task), **options})


def feathered(scenes: Sequence[Damaged], options: Options, *, tile: int) -> list[Woven]:
    """Tiles three quarters apart, each drawn alone, and blended by weights that fall off where they overlap.

    The tiles of a scene are laid side by side as one picture, of which a job draws every tile alone. Its borders are
    the middles of the overlaps, where guarded tiles have theirs.
    """
    task, axis = scenes[0].task, usual_axis(scenes[0].truth.shape[-1], tile)
    starts = [axis.start(j) for j in range(axis.count)]
    mosaics = [
        _row(
            scene.name,
            _cut(scene.measured, [start // task.scale for start in starts], tile // task.scale),
            None if scene.hidden is None else _cut(scene.hidden[None], starts, tile)[0],
        )
        for scene in scenes
    ]
    drawn = run_images(mosaics, {**_job_of(task), **options, "weave": "naive"})
    return [
        Woven(_agreeing(_blended(found.image, starts, tile), scene), (borders(axis),) * 2, found.calls)
        for found, scene in zip(drawn, scenes, strict=True)
    ]


def usual_axis(side: int, tile: int) -> Axis:
    """Tiles along a side as a job lays them that asks for nothing else."""
    return Axis(side, tile, 3 * tile // 4, tile // 8)


def _cut(image: Image, starts: Sequence[int], tile: int) -> Image:
    """All windows of an image, side by side."""
    rows = [np.concatenate([image[:, top : top + tile, at : at + tile] for at in starts], axis=2) for top in starts]
    return np.concatenate(rows, axis=1)


def _blended(mosaic: Image, starts: Sequence[int], tile: int) -> Image:
    """The image of which a mosaic has all windows, those that overlap averaged with weights like tents."""
    side = starts[-1] + tile
    slope = np.minimum(np.arange(tile) + 0.5, tile - 0.5 - np.arange(tile))
    tent = np.minimum(slope, tile - starts[1])
    weight = tent[:, None] * tent[None, :]
    total, weights = np.zeros((len(mosaic), side, side)), np.zeros((side, side))
    for i, top in enumerate(starts):
        for j, left in enumerate(starts):
            window = mosaic[:, i * tile : (i + 1) * tile, j * tile : (j + 1) * tile]
            total[:, top : top + tile, left : left + tile] += weight * window
            weights[top : top + tile, left : left + tile] += weight
    return (total / weights).astype(np.float32)


def _agreeing(image: Image, scene: Damaged) -> Image:
    """Pixels that were given, as they were: a blend of equal numbers rounds."""
    if scene.hidden is None or not scene.task.exact:
        return image
    return np.where(scene.hidden, image, scene.measured)


def _row(name: str, measured: Image, hidden: Mask | None) -> Row:
    masked = {} if hidden is None else {"mask": hidden[None].astype(np.uint8)}
    return {"id": name, "input": measured, **masked}


def _job_of(task: Task) -> Options:
    """What a job is told of a task."""
    return {"task": task.job, "range": [0, 1], **({"bands": BANDS} if task.gray else {})}


def run_images(rows: Sequence[Row], options: Options) -> list[Woven]:
    """The images of one job; a row has an ``id`` and whatever else a manifest lists, as texts or as arrays."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        archive = _archive(folder, rows, options)
        summary = run_archive(archive, Silent())
        if not summary.whole:
            raise TileloomError(f"{summary.failed + summary.degraded + summary.stopped} were not restored")
        with (folder / "out" / REPORT).open(newline="") as lines:
            calls = {row["id"]: int(row["calls"]) for row in DictReader(lines)}
        manifest = Manifest(archive.manifest)
        return [_read(archive.job_of(manifest[at]), calls[str(row["id"])]) for at, row in enumerate(rows)]


def _archive(folder: Path, rows: Sequence[Row], options: Options) -> Archive:
    manifest = folder / "list.jsonl"
    files = [{key: _text(value, folder / f"{row['id']}-{key}.zarr") for key, value in row.items()} for row in rows]
    manifest.write_text("\n".join(map(json.dumps, files)))
    # What each row has of its own, the job that they share has something in place of.
    instead = {key: value if isinstance(value, str) else str(manifest) for key, value in rows[0].items() if key != "id"}
    told = {"output": str(folder / "out"), "on_error": "stop", **instead, **options}
    return Archive(str(manifest), from_options(told))


def _text(value: str | Image, path: Path) -> str:
    return value if isinstance(value, str) else _written(path, value)


def _written(path: Path, image: Image) -> str:
    zarr.create_array(str(path), shape=image.shape, chunks=image.shape, dtype=image.dtype)[...] = image
    return str(path)


def _read(spec: JobSpec, calls: int) -> Woven:
    """What a job made."""
    image_plan = compile_job(spec).image
    grid = image_plan.lattices[0].windows if image_plan.lattices else image_plan.plan.levels[0]
    image = np.asarray(zarr.open_array(f"{spec.output}/0", mode="r")[...])
    return Woven(image, (borders(grid.rows), borders(grid.cols)), calls)

"""Small archives for tests: images, their list and their job file in one folder."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.commandline import written
from tests.images import write_zarr
from tests.pipeline import QUICK, measure, scene
from tileloom.jobs.archive import load
from tileloom.jobs.manifest import Manifest
from tileloom.jobs.progress import Silent
from tileloom.jobs.run_archive import run_archive

SIZES = {"a": (20, 24), "b": (32, 40), "c": (14, 18)}
JOB = {**QUICK, "task": "sr:2", "range": [-1, 1], "batch": 2}


@dataclass(frozen=True)
class Place:
    """An archive in a folder: job.yaml, list.csv, and the results in ``name``."""

    folder: Path
    name: str = "out"

    @property
    def job(self):
        return self.folder / f"{self.name}.yaml"

    @property
    def list(self):
        return self.folder / f"{self.name}.csv"

    @property
    def output(self):
        return self.folder / self.name

    @property
    def archive(self):
        return load(self.job)

    def result(self, image):
        return self.output / f"{image}.zarr"

    def rows(self, *rows):
        """Write the manifest anew: a mapping of columns a row, or an id alone, whose image has the same name."""
        table = [{"id": row, "input": f"{row}.zarr"} if isinstance(row, str) else row for row in rows]
        with self.list.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, sorted({column for row in table for column in row}))
            writer.writeheader()
            writer.writerows(table)

    def write_job(self, **keys):
        """Write the job file anew."""
        told = {"manifest": self.list.name, "output": self.name, **JOB, **keys}
        return written(self.folder, self.job.name, **told)

    def run(self, watcher=None, **options):
        return run_archive(self.archive, watcher or Silent(), **options)

    def spec(self, image):
        """The job of one image."""
        manifest = Manifest(str(self.list))
        return self.archive.job_of(manifest[manifest.number(image)])

    def report(self):
        """The rows of the report, by image, in the order in which they ended."""
        with (self.output / "report.csv").open(newline="", encoding="utf-8") as file:
            return {row["id"]: row for row in csv.DictReader(file)}

    def state(self):
        return json.loads((self.output / ".tileloom" / "archive.json").read_text())


def archive(folder, *, name="out", rows=tuple(SIZES), **keys):
    """An archive of small images that are named a, b, c and so on, and are made where they are not there yet."""
    place = Place(folder, name)
    for row in rows:
        image = row if isinstance(row, str) else row["id"]
        if not (folder / f"{image}.zarr").exists():
            write_image(folder, image)
    place.rows(*rows)
    place.write_job(**keys)
    return place


def write_image(folder, image, *, bands=1):
    """An image of its own for every name, measured."""
    height, width = SIZES.get(image[0], (12, 14))
    whole = scene(bands, height, width, seed=sum(map(ord, image)))
    return write_zarr(folder / f"{image}.zarr", measure(whole, "sr:2").astype(np.float32), chunk=(32, 32))


def snapshot(place, image):
    """Every file of an image's result: its bytes, and when it was written."""
    files = [path for path in place.result(image).rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(files)}

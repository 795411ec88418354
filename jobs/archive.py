"""An archive: many images restored by one job, their list in a manifest, their results side by side in one folder.

::

    OUTPUT/ID.zarr                       an image's result, as if it had been restored alone
    OUTPUT/report.csv                    a line for every image that has ended, written when a run ends
    OUTPUT/.tileloom/archive.json        the job, its manifest, the batches of its devices
    OUTPUT/.tileloom/journal/            which images have ended, and how

A redo of what is stale begins a new generation. What images came to in earlier ones counts no more, so that a redo that
was interrupted goes on to its end; what still holds of their tiles, each image knows itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from csv import DictWriter
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from io import StringIO
from os import PathLike, path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, ValidationError

from ..tiling.errors import InputError
from ..tiling.ledger import Journal
from ..tiling.place import Place, place
from ..tiling.store import write_json
from .manifest import Manifest, Row
from .refusal import refusal
from .spec import JobSpec, digest_of, job_from, rooted_path
from .state import ARCHIVE, HIDDEN, JOB, JOURNAL
from .task import parse_task
from .yamlfile import read_yaml

MANIFEST = "manifest"
REPORT = "report.csv"
# Keys of a job that each image has of its own.
OF_A_ROW = ("id", "input", "mask", "labels", "instances")


@dataclass(frozen=True)
class Archive:
    """A job with many images; ``job`` is what they share, its own input and mask standing for theirs."""

    manifest: str
    job: JobSpec

    @property
    def output(self) -> Place:
        """The folder of all results."""
        return place(self.job.output)

    def job_of(self, row: Row) -> JobSpec:
        """The job of one image."""
        told: dict[str, object] = {name: getattr(row, name) for name in OF_A_ROW}
        if row.task is not None:
            told["task"] = row.task
        if row.noise is not None:
            told["noise"] = row.noise
        output = f"{self.job.output}/{row.id}.zarr"
        try:
            return JobSpec.model_validate(self.job.model_dump() | told | {"output": output})
        except ValidationError as error:
            raise refusal(error, JobSpec, lambda key: f"{row.where}: {key}") from None

    @property
    def digest(self) -> str:
        """What the archive is known by: whatever decides the bytes of its results, and where they go."""
        return digest_of({**self.identity(), MANIFEST: self.manifest, "output": self.job.output})

    def text(self) -> dict[str, JsonValue]:
        """The archive as its job file has it, paths absolute."""
        own = self.job.text()
        return {MANIFEST: self.manifest} | {key: own[key] for key in own if key not in OF_A_ROW}

    def identity(self) -> dict[str, JsonValue]:
        """Whatever decides the bytes of all results."""
        identity = self.job.identity()
        for own in OF_A_ROW:
            del identity[own]
        return identity


def load(file: str | PathLike[str]) -> JobSpec | Archive:
    """The job of a YAML file: of one image, or with a manifest of many."""
    content, base = read_yaml(file), path.dirname(path.abspath(file))

    def named(key: str) -> str:
        return f"{path.basename(file)}: {key}"

    if MANIFEST not in content:
        return job_from(content, base=base, named=named)
    manifest = content.pop(MANIFEST)
    if not isinstance(manifest, str) or not manifest:
        raise InputError(f"{named(MANIFEST)} must be the path of a list of images, not {manifest!r}")
    for key in OF_A_ROW:
        if key in content:
            raise InputError(f"{named(key)} is given by each row of the manifest: drop it here")
    manifest = str(rooted_path(manifest, base))
    shared = content | _instead(manifest, content.get("task"), labelled="classes" in content)
    return Archive(manifest, job_from(shared, base=base, named=named))


def _instead(manifest: str, task: object, *, labelled: bool) -> dict[str, str]:
    """The files that stand for those of the rows, as a task needs them, as far as it can be read at all.

    ``labelled``: the job says something of labels, so that each row has some.
    """
    try:
        wanted = parse_task(task, noise=0) if isinstance(task, str | list) else None
    except (InputError, TypeError):
        wanted = None
    labels = {"labels": manifest} if labelled or (wanted and wanted.edit) else {}
    if wanted and wanted.blank:
        return {"input": "blank:1x1"} | labels
    return {"input": manifest} | labels | ({"mask": manifest} if wanted and wanted.masked else {})


class Ended(StrEnum):
    """How an image ended: whole, with tiles that were given up, not at all, or before a redo that looks at all."""

    DONE = "done"
    DEGRADED = "degraded"
    FAILED = "failed"
    STALE = "stale"


LEFT = ("", Ended.STALE)
"""How images stand that are to be run."""


@dataclass(frozen=True)
class ImageRecord:
    """One image that has ended; ``row`` is a digest of the row that it was told by."""

    id: str
    row: str
    generation: int
    ended: Ended
    reason: str = ""
    tiles: int = 0
    calls: int = 0
    seconds: float = 0.0
    rmse: float | None = None

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """The record of a journal's line."""
        return cls(**{**stored, "ended": Ended(stored["ended"])})


@dataclass(frozen=True)
class ArchiveState:
    """What stands in an archive's folder; ``parts`` is what decides the bytes of all results.

    ``batches`` are those that were found, by the devices' models. ``generation`` counts the redos of what is stale.
    """

    output: Place
    manifest: str
    spec: dict[str, Any]
    parts: dict[str, Any]
    batches: dict[str, int] = field(default_factory=dict)
    generation: int = 0

    @classmethod
    def load(cls, output: Place) -> Self | None:
        """The archive that a folder holds; None if it holds none yet."""
        file = output / HIDDEN / ARCHIVE
        if not file.is_file():
            # A run that was killed before its archive stood leaves its lock.
            unbegun = output.is_folder() and all(found.name == HIDDEN for found in output.children())
            if not output.exists() or (unbegun and not (output / HIDDEN / JOB).is_file()):
                return None
            raise InputError(f"{output} exists and is no archive of tileloom: choose another output or remove it")
        try:
            stored = json.loads(file.read())
            manifest, spec, parts, generation = (stored[name] for name in ("manifest", "spec", "parts", "generation"))
            return cls(output, manifest, spec, parts, stored.get("batches", {}), generation)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is damaged: run the job's own file again, into another output") from error

    def save(self) -> None:
        """Make this the folder's archive."""
        told = {own.name: getattr(self, own.name) for own in fields(self) if own.name != "output"}
        write_json(self.output / HIDDEN / ARCHIVE, told)

    def archive(self) -> Archive:
        """The archive as it was given, with its output where it lies now."""
        try:
            job = JobSpec.model_validate_json(json.dumps(self.spec | {"output": str(self.output)}))
        except ValidationError as error:
            file = self.output / HIDDEN / ARCHIVE
            raise InputError(f"{file} is damaged: run the job's own file again, into another output") from error
        return Archive(self.manifest, job)


def stored_archive(output: Place) -> ArchiveState:
    """The archive that a folder holds."""
    state = ArchiveState.load(output)
    if state is None:
        raise InputError(f"{output} holds no archive of tileloom: check the path")
    return state


def is_archive(output: Place) -> bool:
    """Whether a folder holds an archive."""
    return (output / HIDDEN / ARCHIVE).is_file()


@dataclass(frozen=True)
class ArchiveStatus:
    """How far an archive has come; ``begun`` counts the images to do of which there is something already."""

    output: str
    images: int
    done: int
    begun: int
    tiles: int
    calls: int
    ended_badly: tuple[ImageRecord, ...]

    @property
    def troubled(self) -> bool:
        """Whether something was given up."""
        return bool(self.ended_badly)

    def as_json(self) -> dict[str, Any]:
        """The status as plain JSON."""
        return asdict(self)


def archive_status(output: Place) -> ArchiveStatus:
    """How far an archive has come; a run may be going on."""
    state = stored_archive(output)
    manifest, register = Manifest(state.manifest), Register(output, state.generation)
    ended = register.ended(manifest)
    latest: dict[str, ImageRecord] = {}
    calls = 0
    for record in register.records():
        if manifest.number(record.id) is not None:
            latest[record.id] = record
            calls += record.calls
    left = [manifest[int(number)].id for number in np.flatnonzero(np.isin(ended, LEFT))]
    return ArchiveStatus(
        output=str(output),
        images=len(manifest),
        done=int(np.count_nonzero(ended == Ended.DONE.value)),
        begun=len({f"{image}.zarr" for image in left} & {result.name for result in output.children()}),
        tiles=sum(record.tiles for record in latest.values()),
        calls=calls,
        ended_badly=tuple(
            record
            for record in latest.values()
            if record.ended is not Ended.DONE and ended[manifest.number(record.id)] == record.ended.value
        ),
    )


class Register:
    """Which images of an archive have ended: a byte a row; what is known of each stays on disk."""

    def __init__(self, output: Place, generation: int) -> None:
        """Open the archive's journal in one of its generations."""
        self._journal = Journal(output / HIDDEN / JOURNAL)
        self.generation = generation

    def records(self) -> Iterator[ImageRecord]:
        """Every image that ended, in the order in which it did; a later record replaces an earlier one."""
        # What a damaged segment told is found out again from the image itself, which costs no network call.
        for segment in self._journal.segments(only_whole=True):
            yield from (ImageRecord.read(stored) for stored in segment["images"])

    def ended(self, manifest: Manifest) -> NDArray[np.str_]:
        """How each row's image ended, empty where it did not, or was told by another row then."""
        before = Ended.STALE if self.generation else ""
        found = np.full(len(manifest), before, f"U{max(map(len, Ended))}")
        for record in self.records():
            number = manifest.number(record.id)
            if number is None:
                continue
            if record.generation < self.generation:
                found[number] = Ended.STALE
            else:
                found[number] = record.ended if record.row == manifest[number].digest().hex() else ""
        return found

    def add(self, record: ImageRecord) -> None:
        """Record an image that has ended."""
        self._journal.append({"images": [asdict(record)]})


def write_report(output: Place, register: Register, manifest: Manifest) -> None:
    """Write a table of the manifest's images that have ended: how they did at last, and the calls of all their runs."""
    calls: Counter[str] = Counter()
    last: dict[str, int] = {}
    for at, record in enumerate(register.records()):
        if manifest.number(record.id) is not None:
            calls[record.id] += record.calls
            last[record.id] = at
    text = StringIO()
    columns = [own.name for own in fields(ImageRecord) if own.name not in ("row", "generation")]
    lines = DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for at, record in enumerate(register.records()):
        if last.get(record.id) == at:
            lines.writerow(asdict(record) | {"calls": calls[record.id]})
    (output / REPORT).write(text.getvalue().encode())

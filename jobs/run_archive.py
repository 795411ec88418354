"""An archive from beginning to end: every image's course, as many at a time as keep the workers busy."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from ..cluster.agenda import Chores, Course
from ..cluster.executor import Executor
from ..cluster.worker import Report
from ..models.contract import Contract
from ..tiling.errors import CorruptChunk, InputError, JobChanged, LedgerTaken, StoreError, TileloomError
from ..tiling.place import Place, place
from ..tiling.store import write_json
from .archive import Archive, ArchiveState, Ended, ImageRecord, Register, resumed
from .bill import affordable_memory
from .compile import Compiled, compile_job
from .course import Digests, Redo, Summary, digests_of, image_course
from .lookout import Lookout
from .manifest import Manifest, Row
from .phases import OnReports, Phase, new_frontier
from .progress import Silent, Watcher
from .quality import rmse_course
from .run import executor_of
from .spec import JobSpec, changed
from .state import HIDDEN, only_run
from .timeline import Timeline
from .workforce import Workforce, workforce

# Images that cannot be written one after the other, after which it is not their fault.
_STORE_IS_AWAY = 3


@dataclass(frozen=True)
class ArchiveSummary:
    """What a run of an archive came to; images by how they ended, those of earlier runs included.

    ``stopped`` are images that could not be written now and are left for the next run.
    """

    output: Place
    images: int
    done: int
    degraded: list[str]
    failed: list[str]
    stopped: list[str]
    tiles: int
    calls: int
    calls_saved: int
    fill: float
    seconds: float
    workforce: Workforce

    @property
    def whole(self) -> bool:
        """Whether every image is done, and every tile of it restored."""
        return self.done == self.images

    def as_json(self) -> dict[str, Any]:
        """The summary as plain JSON."""
        rounded = {"fill": round(self.fill, 4), "seconds": round(self.seconds, 3)}
        told = {**asdict(self), **self.workforce.as_json(), "output": str(self.output), **rounded}
        del told["workforce"]
        return told


def run_archive(
    archive: Archive,
    watcher: Watcher,
    *,
    redo: Redo = Redo.NOTHING,
    on_reports: OnReports = lambda _: None,
    timeline: Timeline | None = None,
    trusted: bool = False,
) -> ArchiveSummary:
    """Run the images that have not ended; for a redo also those that it concerns.

    ``on_reports`` is told of every settled tile, which the ``timeline`` shows.
    """
    began = perf_counter()
    archive.output.reach()
    manifest = Manifest(archive.manifest)
    state = _state(archive, redo)
    # Before anything is written or started: what can be known to be wrong.
    _check_rows(archive, manifest, state.output)
    first = _first_compiled(archive, manifest, trusted=trusted)
    with only_run(state.output), Lookout(watcher, state.output, timeline=timeline) as lookout:
        register = Register(state.output)
        before = register.ended(manifest)
        with executor_of(first, batch=state.batch, images=len(manifest), watcher=lookout) as executor:
            state = replace(state, batch=executor.description.batch)
            state.save()
            weave = _Weave(archive, manifest, register, executor, lookout, first, redo=redo)
            numbers = [int(number) for number in manifest.order() if _due(str(before[number]), redo)]
            lookout.begin("archive", len(numbers), unit="images")
            frontier = new_frontier(archive.job, priority=weave.priority if manifest.prefers else None)
            lookout.work_begins(executor, frontier)
            executor.run(weave.courses(numbers), frontier, on_reports=partial(weave.told, on_reports))
            summary = weave.summary(seconds=perf_counter() - began)
        write_json(state.output / HIDDEN / "report.json", summary.as_json())
    return summary


def _state(archive: Archive, redo: Redo) -> ArchiveState:
    """What the archive's folder will say; refuses a job that differs from the one that began it."""
    stored = ArchiveState.load(archive.output)
    state = resumed(archive, stored)
    if stored and redo is not Redo.STALE and (differences := changed(stored.parts, state.parts)):
        raise JobChanged(
            f"{archive.output} was begun by another job ({'; '.join(differences)}): "
            "add --redo stale to redo what this changes, or choose another output"
        )
    return state


def _check_rows(archive: Archive, manifest: Manifest, output: Place) -> None:
    """Refuse rows that no image can come of, the first of them by name."""
    ended = Register(output).ended(manifest)
    for number in np.flatnonzero(ended == ""):
        row = manifest[int(number)]
        archive.job_of(row)
        for name in ("input", "mask", "reference"):
            file = getattr(row, name)
            if file and "://" not in file and not place(file).exists():
                raise InputError(f"{row.where}: {name} {file} does not exist: mend the path, or take the row out")


def _due(ended: str, redo: Redo) -> bool:
    """Whether an image that ended so is run."""
    return not ended or redo is Redo.STALE or (redo is Redo.FAILED and ended != Ended.DONE)


def _first_compiled(archive: Archive, manifest: Manifest, *, trusted: bool) -> Compiled:
    """The first image that can be opened: all workers are made for images like it."""
    refused: InputError | None = None
    for number in range(len(manifest)):
        try:
            return compile_job(archive.job_of(manifest[number]), trusted=trusted)
        except (InputError, CorruptChunk) as error:
            refused = refused or InputError(str(error))
    raise refused or InputError(f"{archive.manifest} names no image")


def lay_out(spec: JobSpec, contract: Contract, *, trusted: bool) -> tuple[Compiled, Digests]:
    """Open an image and lay it out: a worker's task, since files may be far and slow."""
    return compile_job(spec, contract=contract, trusted=trusted), digests_of(spec)


class _Rest(Silent):
    """Learns what images have left to do, as it shows; what others have is taken to be as much."""

    def __init__(self) -> None:
        """No image has shown it yet."""
        self.images = self._tiles = 0

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """A phase of an image begins: that of its tiles tells."""
        if unit == "tiles":
            self.images += 1
            self._tiles += total

    @property
    def tiles_an_image(self) -> int:
        """Tiles that an image has left, in the mean of those that are known."""
        return self._tiles // max(1, self.images)


class _Weave:
    """The courses of an archive, and what became of them."""

    def __init__(
        self,
        archive: Archive,
        manifest: Manifest,
        register: Register,
        executor: Executor,
        lookout: Lookout,
        first: Compiled,
        *,
        redo: Redo,
    ) -> None:
        """Nothing is begun yet."""
        self._archive, self._manifest, self._register = archive, manifest, register
        self._executor, self._lookout, self._first, self._redo = executor, lookout, first, redo
        self._available = affordable_memory(archive.job.max_memory)
        self._away = 0
        self._priorities: list[int] = []
        self._stopped_images: list[str] = []
        self._saved = 0
        self._due = self._over = 0
        self._rest = _Rest()

    def priority(self, image: int) -> int:
        """The priority of an image under way, by its number in the run."""
        return self._priorities[image]

    def courses(self, numbers: list[int]) -> Iterator[Course]:
        """The courses of rows, each made when its turn comes."""
        self._due = len(numbers)
        for number in numbers:
            self._priorities.append(self._manifest.priority(number))
            yield self._course(number)

    def told(self, on_reports: OnReports, reports: list[Report]) -> None:
        """Show how far the workers have come."""
        self._saved += sum(report.spared for report in reports)
        unseen = self._due - max(self._rest.images, self._over)
        if pulse := self._lookout.look(reports, to_come=unseen * self._rest.tiles_an_image):
            self._lookout.advance(0, pulse)
        on_reports(reports)

    def _course(self, number: int) -> Generator[Any, Any, None]:
        """One image's way: whatever is wrong with it ends it alone, unless nothing can be written any more."""
        row, began = self._manifest[number], perf_counter()
        record = partial(ImageRecord, row.id, row.digest().hex())
        try:
            summary, rmse = yield from self._image(row)
        except Exception as error:
            own = isinstance(error, TileloomError) or not isinstance(error, OSError)
            if not own or isinstance(error, StoreError | LedgerTaken):
                self._stopped(row, error)
            else:
                self._ended(record(Ended.FAILED, reason=str(error), seconds=round(perf_counter() - began, 3)))
            return
        self._away = 0
        self._ended(
            record(
                Ended.DEGRADED if summary.degraded else Ended.DONE,
                reason="; ".join(map(str, summary.degraded[:3])),
                tiles=sum(summary.bill.solve) - len(summary.degraded),
                calls=summary.calls,
                seconds=round(summary.seconds, 3),
                rmse=rmse,
            )
        )

    def _image(self, row: Row) -> Phase[tuple[Summary, float | None]]:
        spec = self._archive.job_of(row)
        with only_run(spec.output):
            first = self._first
            [(compiled, digests)] = yield Chores([partial(lay_out, spec, first.contract, trusted=first.trusted)])
            self._refuse_unlike(row, compiled)
            summary = yield from image_course(
                compiled, digests, self._executor, self._rest, redo=self._redo, available=self._available
            )
            rmse = (yield from rmse_course(compiled, row.reference)) if row.reference else None
        return summary, rmse

    def _refuse_unlike(self, row: Row, compiled: Compiled) -> None:
        """Refuse an image for which the workers' batch has no room."""
        ours, theirs = (self._first.tile, self._first.image.bands), (compiled.tile, compiled.image.bands)
        if ours != theirs:
            raise InputError(
                f"{row.where}: it has tiles of {theirs[0]} pixels and {theirs[1]} bands, the archive's first image "
                f"tiles of {ours[0]} pixels and {ours[1]} bands: put it into an archive of its own kind"
            )

    def _ended(self, record: ImageRecord) -> None:
        self._over += 1
        self._register.add(record)
        self._lookout.advance(1)
        if record.ended is not Ended.DONE:
            self._lookout.say(f"image {record.id} {record.ended}: {record.reason}")

    def _stopped(self, row: Row, error: Exception) -> None:
        """An image that cannot be written is left for the next run; where several cannot, so is all."""
        self._over += 1
        self._away += 1
        self._stopped_images.append(f"{row.id}: {error}")
        self._lookout.say(f"image {row.id} stopped: {error}")
        if self._away >= _STORE_IS_AWAY:
            raise StoreError(
                f"{self._away} images one after the other could not be written, the last: {error}"
            ) from error

    def summary(self, *, seconds: float) -> ArchiveSummary:
        """What all of it came to."""
        ended = self._register.ended(self._manifest)
        timesheet = self._executor.timesheet
        usage = timesheet.usage

        def named(how: Ended) -> list[str]:
            return [self._manifest[int(number)].id for number in np.flatnonzero(ended == how.value)]

        return ArchiveSummary(
            output=self._archive.output,
            images=len(self._manifest),
            done=int(np.count_nonzero(ended == Ended.DONE.value)),
            degraded=named(Ended.DEGRADED),
            failed=named(Ended.FAILED),
            stopped=self._stopped_images,
            tiles=self._lookout.tiles,
            calls=usage.calls,
            calls_saved=self._saved,
            fill=usage.fill,
            seconds=seconds,
            workforce=workforce(timesheet, self._archive.job.cluster.prices, retries=self._lookout.retries),
        )

"""An archive from beginning to end: every image's course, as many at a time as keep the workers busy."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.agenda import Chores
from ..cluster.classes import Description
from ..cluster.executor import Executor
from ..cluster.timesheet import Timesheet
from ..cluster.worker import Report
from ..models.contract import Contract
from ..tiling.blank_source import is_blank
from ..tiling.errors import CorruptChunk, InputError, JobChanged, LedgerTaken, StoreAway, TileloomError
from ..tiling.place import Place, place
from ..tiling.store import write_json
from .archive import LEFT, Archive, ArchiveState, Ended, ImageRecord, Register, write_report
from .bill import affordable_memory
from .changes import changed
from .compile import Compiled, compile_job, refuse_unlike
from .course import Digests, Redo, Summary, digests_of, image_course, networks_of, told_of
from .holes import refuse_hopeless_mask, refuse_unfit
from .lookout import Lookout
from .manifest import FILES, Manifest, Row
from .phases import OnReports, Phase, new_frontier
from .progress import Silent, Watcher
from .quality import check_reference, rmse_course
from .run import executor_of, refuse_hopeless
from .spec import JobSpec
from .state import HIDDEN, only_run
from .timeline import Timeline
from .workforce import Workforce, workforce

# Images that cannot be written one after the other, after which it is not their fault.
_STORE_IS_AWAY = 3


@dataclass(frozen=True)
class ArchiveSummary:
    """What a run of an archive came to; images by how they ended, those of earlier runs included.

    ``stopped`` are images that could not be written now and are left for the next run, ``anew`` those that were begun
    anew since no worker of the numeric class before was there.
    """

    output: Place
    images: int
    done: int
    degraded: list[str]
    failed: list[str]
    stopped: list[str]
    anew: list[str]
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
        told = {**asdict(self), **self.workforce.as_json()}
        told |= {"output": str(self.output), "seconds": round(self.seconds, 3)}
        public = {"calls": "network_calls", "calls_saved": "network_calls_saved", "anew": "begun_anew"}
        told |= {name: told.pop(own) for own, name in public.items()}
        told["batch_fill"] = round(told.pop("fill"), 4)
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
    began, available = perf_counter(), affordable_memory(archive.job.max_memory)
    archive.output.reach()
    manifest = Manifest(archive.manifest)
    # Before anything is written or started: what can be known to be wrong.
    _refuse_own_results(archive, manifest)
    stored = ArchiveState.load(archive.output)
    generation = stored.generation + (Redo.STALE in redo) if stored else 0
    register = Register(archive.output, generation)
    stands = register.ended(manifest)
    _check_rows(archive, manifest, stands)
    first = _first_compiled(archive, manifest, trusted=trusted)
    state = _state(archive, stored, generation)
    if stored is None:
        refuse_hopeless(first)
    with only_run(state.output), Lookout(watcher, state.output, timeline=timeline) as lookout:
        (state.output / HIDDEN).sweep()
        # Read again: another run may have ended since, or be fenced off only now.
        stands = register.ended(manifest)
        weave = _Weave(archive, manifest, register, stands, lookout, first, state, redo=redo, available=available)
        if weave.due:
            with executor_of(first, batches=state.batches, images=len(weave.due), watcher=lookout) as executor:
                state.save()
                weave.run(executor, on_reports)
        else:
            state.save()
        summary = weave.summary(seconds=perf_counter() - began)
        write_report(state.output, register, manifest)
        write_json(state.output / HIDDEN / "report.json", summary.as_json())
    return summary


def _state(archive: Archive, stored: ArchiveState | None, generation: int) -> ArchiveState:
    """What the archive's folder will say; refuses a job that differs from the one that began its generation."""
    job = archive.job
    parts = {**archive.identity(), **networks_of(job)}
    if stored and stored.generation == generation and (differences := changed(stored.parts, parts)):
        raise JobChanged(
            f"{archive.output} was begun by another job ({told_of(differences)}): "
            "add --redo stale to redo what this changes, or choose another output"
        )
    return ArchiveState(
        archive.output,
        archive.manifest,
        job.model_dump(mode="json"),
        parts,
        stored.batches if stored else {},
        generation,
    )


def _refuse_own_results(archive: Archive, manifest: Manifest) -> None:
    """Refuse an archive whose results would be among its images the next time."""
    if manifest.lists(str(archive.output)) or manifest.lists(f"{archive.output}/image.zarr"):
        raise InputError(
            f"{archive.output} would be among the images that {archive.manifest} names: choose an output beside them"
        )


def _check_rows(archive: Archive, manifest: Manifest, ended: NDArray[np.str_]) -> None:
    """Refuse rows that no image can come of, the first of them by name."""
    for number in np.flatnonzero(np.isin(ended, LEFT)):
        row = manifest[int(number)]
        archive.job_of(row)
        if f"{row.input}/".startswith(f"{archive.output}/"):
            raise InputError(f"{row.where}: input {row.input} lies in the archive's own output: take the row out")
        for name in FILES:
            file = getattr(row, name)
            if file and "://" not in file and not is_blank(file) and not place(file).exists():
                raise InputError(f"{row.where}: {name} {file} does not exist: mend the path, or take the row out")


def _first_compiled(archive: Archive, manifest: Manifest, *, trusted: bool) -> Compiled:
    """The first image that can be opened: all workers are made for images like it."""
    refused: InputError | None = None
    for number in range(len(manifest)):
        try:
            return compile_job(archive.job_of(manifest[number]), trusted=trusted)
        except (InputError, CorruptChunk) as error:
            refused = refused or InputError(str(error))
    raise refused or InputError(f"{archive.manifest} names no image")


def lay_out(spec: JobSpec, reference: str | None, contract: Contract, *, trusted: bool) -> tuple[Compiled, Digests]:
    """Open an image and lay it out: a worker's task, since files may be far and slow."""
    compiled = compile_job(spec, contract=contract, trusted=trusted)
    refuse_unfit(spec, contract)
    refuse_hopeless_mask(spec, contract)
    if reference:
        check_reference(reference, compiled.image.result)
    return compiled, digests_of(spec)


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
    """The courses of the images that are due, and what became of all."""

    def __init__(
        self,
        archive: Archive,
        manifest: Manifest,
        register: Register,
        stands: NDArray[np.str_],
        lookout: Lookout,
        first: Compiled,
        state: ArchiveState,
        *,
        redo: Redo,
        available: int | None,
    ) -> None:
        """Nothing is begun yet; ``stands`` is how each image stands, which is brought up to date."""
        self._archive, self._manifest, self._register, self._stands = archive, manifest, register, stands
        self._lookout, self._first, self._redo, self._available = lookout, first, redo, available
        self._state = state
        self._anew: list[str] = []
        self.due = [int(number) for number in manifest.order() if self._is_due(int(number))]
        self._timesheet = Timesheet()
        self._away = 0
        self._stopped_images: list[str] = []
        self._saved = self._over = 0
        self._rest = _Rest()

    def _is_due(self, number: int) -> bool:
        ended = self._stands[number]
        return ended in LEFT or (Redo.FAILED in self._redo and ended != Ended.DONE)

    def run(self, executor: Executor, on_reports: OnReports) -> None:
        """Run the images that are due."""
        self._lookout.begin("archive", len(self.due), unit="images")
        self._timesheet = executor.timesheet

        def priority(image: int) -> int:
            return self._manifest.priority(self.due[image])

        def told(reports: list[Report]) -> None:
            self._saved += sum(report.spared for report in reports)
            unseen = len(self.due) - max(self._rest.images, self._over)
            if pulse := self._lookout.look(reports, to_come=unseen * self._rest.tiles_an_image):
                self._lookout.advance(0, pulse)
            on_reports(reports)

        frontier = new_frontier(self._archive.job, priority=priority if self._manifest.prefers else None)
        self._lookout.work_begins(executor, frontier)
        executor.run(map(partial(self._course, executor), self.due), frontier, on_reports=told)

    def _course(self, executor: Executor, number: int) -> Generator[Any, Any, None]:
        """One image's way: whatever is wrong with it ends it alone, unless nothing can be written any more."""
        row, began = self._manifest[number], perf_counter()
        record = partial(ImageRecord, row.id, row.digest().hex(), self._register.generation)
        try:
            summary, rmse = yield from self._image(executor, row, self._redo_of(number))
        except Exception as error:
            if isinstance(error, StoreAway | LedgerTaken):
                self._stopped(row, error)
                return
            reason = str(error) if isinstance(error, TileloomError) else f"{type(error).__name__}: {error}"
            self._ended(number, record(Ended.FAILED, reason=reason, seconds=round(perf_counter() - began, 3)))
            return
        if summary.anew:
            self._anew.append(row.id)
        self._ended(
            number,
            record(
                Ended.DEGRADED if summary.degraded else Ended.DONE,
                reason="; ".join([*map(str, summary.degraded[:3]), *summary.last_anew]),
                tiles=sum(summary.bill.solve) - len(summary.degraded),
                calls=summary.calls,
                seconds=round(summary.seconds, 3),
                rmse=rmse,
            ),
        )

    def _redo_of(self, number: int) -> Redo:
        """What of an image may be done again; of one that failed also what mending its files made stale."""
        stands = self._stands[number]
        if stands == Ended.STALE or (Redo.FAILED in self._redo and stands == Ended.FAILED):
            return self._redo | Redo.STALE
        # One that is half done just goes on: a new generation would begin what is saved of it anew.
        return self._redo if stands else self._redo & ~Redo.FAILED

    def _image(self, executor: Executor, row: Row, redo: Redo) -> Phase[tuple[Summary, float | None]]:
        spec = self._archive.job_of(row)
        with only_run(spec.output):
            first = self._first
            task = partial(lay_out, spec, row.reference, first.contract, trusted=first.trusted)
            [(compiled, digests)] = yield Chores([task], anywhere=True)
            refuse_unlike(first, compiled, row.where)
            summary = yield from image_course(
                compiled, digests, executor, self._rest, redo=redo, available=self._available, bound=self._keep_batch
            )
            rmse = (yield from rmse_course(compiled, row.reference)) if row.reference else None
        return summary, rmse

    def _keep_batch(self, work: Description) -> None:
        """What a device's batch was found to be stands before the first image that has it."""
        if self._state.batches.get(work.device) != work.batch:
            self._state = replace(self._state, batches={**self._state.batches, work.device: work.batch})
            self._state.save()

    def _ended(self, number: int, record: ImageRecord) -> None:
        self._over += 1
        self._away = 0
        self._register.add(record)
        self._stands[number] = record.ended
        self._lookout.advance(1)
        if record.ended is not Ended.DONE:
            self._lookout.say(f"image {record.id} {record.ended}: {record.reason}")

    def _stopped(self, row: Row, error: Exception) -> None:
        """An image whose store is away is left for the next run; where that is so of several, so is all."""
        self._over += 1
        self._away += 1
        self._stopped_images.append(f"{row.id}: {error}")
        self._lookout.say(f"image {row.id} stopped: {error}")
        if self._away >= _STORE_IS_AWAY:
            raise StoreAway(
                f"{self._away} images one after the other could not be gone on with, the last: {error}"
            ) from error

    def summary(self, *, seconds: float) -> ArchiveSummary:
        """What all of it came to."""
        usage = self._timesheet.usage

        def named(how: Ended) -> list[str]:
            return [self._manifest[int(number)].id for number in np.flatnonzero(self._stands == how.value)]

        return ArchiveSummary(
            output=self._archive.output,
            images=len(self._manifest),
            done=int(np.count_nonzero(self._stands == Ended.DONE.value)),
            degraded=named(Ended.DEGRADED),
            failed=named(Ended.FAILED),
            stopped=self._stopped_images,
            anew=self._anew,
            tiles=self._lookout.tiles,
            calls=usage.calls,
            calls_saved=self._saved,
            fill=usage.fill,
            seconds=seconds,
            workforce=workforce(self._timesheet, self._archive.job.cluster.prices, retries=self._lookout.retries),
        )

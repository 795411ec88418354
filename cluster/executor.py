"""Executors turn a frontier of tiles into committed results; every one of them must give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ..tiling.access import ImageAccess, ImagePlan
from ..tiling.frontier import Frontier, Item, Verdict
from ..tiling.ledger import Entry, Ledger, Status
from ..tiling.paused import drop_paused
from ..tiling.plan import WeavePlan
from ..tiling.work import TileWork
from .worker import Outcome, Prior, Report, Ticket, Usage, Worker

R = TypeVar("R")
Chore = Callable[[ImageAccess], R]
"""A task of an image that is no tile: checking, surveying, publishing. It is picklable, and may be done twice."""

WorkFor = Callable[[int | None], Callable[[], TileWork[Any]]]
"""What makes a worker's work with a batch, or with one that it finds where that is None."""


@dataclass(frozen=True)
class CrewSpec:
    """What a job asks of a cluster: how many workers, and what each has to itself.

    ``address`` None starts Ray on this machine, for this job alone. ``patience`` is the seconds that one call
    may take, ``capacity`` those that may pass without any worker; ``restarts`` is how often workers may die.
    Those beyond ``least`` (None: all stay) end after ``idle`` seconds without anything to do. A worker's machine
    that will be taken away says so at ``drain_url``; its tiles are saved within ``drain_seconds``.
    """

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None
    patience: float = 3600.0
    capacity: float = 600.0
    restarts: int = 20
    least: int | None = None
    idle: float = 60.0
    drain_url: str | None = None
    drain_seconds: float = 100.0


@dataclass
class ImageRun:
    """What the driver holds of one image while it runs: never a pixel."""

    plan: WeavePlan
    ledger: Ledger
    degraded: set[int] = field(default_factory=set)
    priors: Callable[[int], tuple[Prior, ...]] = lambda _: ()
    paused: dict[int, str] = field(default_factory=dict)

    @property
    def root(self):
        return self.ledger.folder.parent


@dataclass
class RunReport:
    """What a run did: tiles by how they ended, and failed tries."""

    done: int = 0
    inherited: int = 0
    degraded: int = 0
    failures: int = 0
    paused: int = 0


@dataclass(frozen=True)
class Description:
    """What a job has to know of its workers' work; bytes for all the slots of one worker."""

    numeric_class: Mapping[str, str]
    batch: int
    slots: int
    memory: int
    device_memory: int | None


class Executor(Protocol):
    """Has workers, and lets them do what a job asks for."""

    @property
    def description(self) -> Description:
        """What every one of its workers works with."""
        ...

    @property
    def usage(self) -> Usage:
        """What its workers did, added up."""
        ...

    def open(self, images: Mapping[int, ImagePlan], *, settings: bytes) -> None:
        """Tell the workers of the images to come; ``settings`` is what else decides a tile's bytes."""
        ...

    def each(self, image: int, chores: Iterable[Chore[R]]) -> Iterator[R]:
        """What chores of an image come to, in their order."""
        ...

    def run(
        self, frontier: Frontier, images: Mapping[int, ImageRun], *, on_reports: Callable[[list[Report]], None]
    ) -> RunReport:
        """Hand out tiles, commit what comes back, until nothing is left or an image was stopped."""
        ...


def describe(work: TileWork[Any]) -> Description:
    """What a job has to know of a worker's work."""
    return Description(work.numeric_class, work.batch_shape[0], work.slots, work.memory(work.slots), work.device_memory)


class LocalExecutor:
    """One worker in this process: the oracle that every other executor must equal."""

    def __init__(self, worker: Worker[Any]) -> None:
        """Drive ``worker``."""
        self._worker = worker

    @property
    def description(self) -> Description:
        """What the worker works with."""
        return describe(self._worker.work)

    @property
    def usage(self) -> Usage:
        """What the worker did."""
        return self._worker.usage

    def open(self, images: Mapping[int, ImagePlan], *, settings: bytes) -> None:
        """Tell the worker of the images to come; ``settings`` is what else decides a tile's bytes."""
        self._worker.open(images, settings=settings)

    def each(self, image: int, chores: Iterable[Chore[R]]) -> Iterator[R]:
        """What chores of an image come to, in their order."""
        access = self._worker.access(image)
        return (chore(access) for chore in chores)

    def run(
        self, frontier: Frontier, images: Mapping[int, ImageRun], *, on_reports: Callable[[list[Report]], None]
    ) -> RunReport:
        """Hand out tiles, commit what comes back, until nothing is left or an image was stopped."""
        report = RunReport()
        while not frontier.idle or frontier.leased:
            tickets = [ticket(item, images) for item in frontier.take(self._worker.free)]
            reports = self._worker.advance(tickets)
            settle(reports, frontier, images, report)
            on_reports(reports)
        return report


def ticket(item: Item, images: Mapping[int, ImageRun]) -> Ticket:
    """What a worker is told of a tile."""
    image, tile = item
    run = images[image]
    degraded = tuple(other for other in run.plan.reads(tile) if other in run.degraded) if run.degraded else ()
    return Ticket(image, tile, degraded, run.priors(tile), run.paused.get(tile, ""))


def settle(reports: Iterable[Report], frontier: Frontier, images: Mapping[int, ImageRun], total: RunReport) -> None:
    """Commit settled tiles, then let the frontier free their dependants, so that none starts on what could be lost."""
    entries: dict[int, list[Entry]] = {}
    finished: list[Item] = []
    for report in reports:
        item = (report.image, report.tile)
        run = images[report.image]
        if report.outcome in (Outcome.PAUSED, Outcome.RETURNED):
            frontier.give_back([item])
            if report.outcome is Outcome.PAUSED:
                total.paused += 1
                run.paused[report.tile] = report.output
                line = Entry(report.tile, Status.PAUSED, report.inputs, report.output)
                entries.setdefault(report.image, []).append(line)
            continue
        if saved := run.paused.pop(report.tile, ""):
            drop_paused(run.root, report.tile, saved)
        if report.outcome is not Outcome.FAILED:
            total.done += report.outcome is Outcome.DONE
            total.inherited += report.outcome is Outcome.INHERITED
            entries.setdefault(report.image, []).append(Entry(report.tile, Status.DONE, report.inputs, report.output))
            finished.append(item)
            continue
        total.failures += 1
        if frontier.failed(item, report.reason) is Verdict.DEGRADED:
            total.degraded += 1
            run.degraded.add(report.tile)
            entries.setdefault(report.image, []).append(Entry(report.tile, Status.DEGRADED, reason=report.reason))
    for image, group in entries.items():
        images[image].ledger.commit(group)
    frontier.done(finished)

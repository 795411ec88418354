"""Executors have workers, and let them do what courses of images ask for; all of them give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from platform import node
from time import monotonic, perf_counter
from typing import Any, Protocol

from ..tiling.errors import lacks_memory
from ..tiling.frontier import Frontier
from ..tiling.work import Work
from .agenda import Agenda, Course, Errand
from .loom import TELL_SECONDS, Loom
from .placement import Placement
from .timesheet import Shift, Timesheet
from .worker import Report, Worker

WorkFor = Callable[[int | None], Callable[[], Work]]
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


@dataclass(frozen=True)
class Description:
    """What a job has to know of its workers' work; bytes for all the slots of one worker."""

    numeric_class: Mapping[str, str]
    batch: int
    slots: int
    memory: int
    device_memory: int | None


def unheard(reports: list[Report]) -> None:
    """Tell nobody."""


class Executor(Protocol):
    """Has workers, and lets them do what a job asks for."""

    @property
    def description(self) -> Description:
        """What every one of its workers works with."""
        ...

    @property
    def timesheet(self) -> Timesheet:
        """What its workers did, and how long they and their machines were held."""
        ...

    def why(self) -> list[str]:
        """What its workers wait for, a line each."""
        ...

    def run(
        self, courses: Iterable[Course], frontier: Frontier, *, on_reports: Callable[[list[Report]], None] = unheard
    ) -> None:
        """Do all that the courses of images ask for, tiles and chores.

        ``on_reports`` is told of settled tiles, and again and again of none, so that it can see how time passes.
        """
        ...


def describe(work: Work) -> Description:
    """What a job has to know of a worker's work."""
    return Description(work.numeric_class, work.batch_shape[0], work.slots, work.memory(work.slots), work.device_memory)


class LocalExecutor:
    """One worker in this process: the oracle that every other executor must equal."""

    def __init__(self, worker: Worker[Any]) -> None:
        """Drive ``worker``."""
        self._worker = worker
        self._loom = Loom(worker)
        self._placement: Placement[Loom] = Placement(Loom.post, peer_of=lambda _: None)
        self.timesheet = Timesheet()
        began, clock = monotonic() - worker.usage.loading, monotonic() - perf_counter()
        shift = Shift(worker.name, node(), began, usage=worker.usage, clock=clock)
        self.timesheet.begin(shift, frozenset({shift.node}))

    @property
    def description(self) -> Description:
        """What the worker works with."""
        return describe(self._worker.work)

    def why(self) -> list[str]:
        """How far levels in lock-step are; of all else the worker is whoever asks."""
        return self._placement.why(lambda _: self._worker.name)

    def run(
        self, courses: Iterable[Course], frontier: Frontier, *, on_reports: Callable[[list[Report]], None] = unheard
    ) -> None:
        """Do all that the courses of images ask for, tiles and chores; ``on_reports`` is told of settled tiles."""
        worker = self._worker
        with Agenda(courses, frontier, on_reports) as agenda:
            while not agenda.over:
                agenda.admit(slots=worker.work.slots, workers=1)
                while errand := agenda.errand():
                    self._do(errand, agenda)
                tickets = [agenda.ticket(item) for item in agenda.take(worker.free)]
                for image in {ticket.image for ticket in tickets}:
                    worker.open(image, agenda.tiles(image).brief)
                reports = worker.advance(tickets)
                self.timesheet.late += agenda.settle(reports)
                self._weave(agenda)
                while agenda.ended:
                    worker.close(agenda.ended.pop())
                agenda.refuse_standstill()

    def _weave(self, agenda: Agenda) -> None:
        """Advance the levels that are under way in lock-step, all of whose blocks the one worker holds."""
        self._placement.place(agenda.weavings, [self._loom])
        if self._loom.busy:
            for weaving in agenda.woven(self._loom.advance(TELL_SECONDS)):
                self._placement.settled(weaving)

    def _do(self, errand: Errand, agenda: Agenda) -> None:
        try:
            found = self._worker.do(errand.image, errand.task, errand.brief)
        except Exception as error:
            if lacks_memory(error):
                raise
            agenda.failed(errand, error)
        else:
            agenda.did(errand, found)

"""Executors have workers, and let them do what courses of images ask for; all of them give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from platform import node
from time import monotonic, perf_counter
from typing import Any, Literal, Protocol

from ..tiling.errors import lacks_memory
from ..tiling.frontier import Frontier
from ..tiling.work import Work
from .agenda import Agenda, Course, Errand
from .classes import Description, describe
from .loom import TELL_SECONDS, Loom
from .placement import Placement
from .timesheet import Shift, Timesheet
from .worker import Report, Worker

Batches = Mapping[str, int]
"""The batches that were found on devices, by the devices' models."""

MakeWork = Callable[[Batches], Work]
"""What makes a worker's work, with the batch of its device or, where that is not known, one that it finds."""


@dataclass(frozen=True)
class CrewSpec:
    """What a job asks of a cluster: how many workers, what each has to itself, and the ``memory`` that it needs.

    ``address`` None starts Ray on this machine, for this job alone. ``patience`` is the seconds that one call
    may take, ``capacity`` those that may pass without any worker; ``restarts`` is how often workers may die.
    Those beyond ``least`` (None: all stay) end after ``idle`` seconds without anything to do. A worker's machine
    that will be taken away says so at ``drain_url``; its tiles are saved within ``drain_seconds``. Workers must be of
    ``one`` numeric class, or may be of ``any``: after ``class_wait`` seconds without any of its class an image begins
    anew under another.
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
    memory: int = 0
    classes: Literal["one", "any"] = "one"
    class_wait: float = 600.0


def unheard(reports: list[Report]) -> None:
    """Tell nobody."""


class Executor(Protocol):
    """Has workers, and lets them do what a job asks for."""

    @property
    def description(self) -> Description:
        """What its workers work with; where they are of several classes, those of the first."""
        ...

    @property
    def batches(self) -> Batches:
        """The batches of its workers, by their devices."""
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

    @property
    def batches(self) -> Batches:
        """That of the worker."""
        return {self.description.device: self.description.batch}

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
                self._do_chores(agenda)
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

    def _do_chores(self, agenda: Agenda) -> None:
        while True:
            for image in list(agenda.waiting):
                agenda.bind(image, self.description)
            if (errand := agenda.errand()) is None:
                return
            self._do(errand, agenda)

    def _do(self, errand: Errand, agenda: Agenda) -> None:
        try:
            found = self._worker.do(errand.image, errand.task, errand.brief)
        except Exception as error:
            if lacks_memory(error):
                raise
            agenda.failed(errand, error)
        else:
            agenda.did(errand, found)

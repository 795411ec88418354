"""The Ray actor around a worker: keys come in, reports go out, pixels stay with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

import ray

from ..tiling.work import TileWork
from .agenda import Chore
from .executor import Description, describe
from .worker import Brief, Report, Ticket, Usage, Worker

# Seconds that a call waits for tickets where there is nothing to do: they come by another way and may be late.
_PAUSE = 0.05


@dataclass(frozen=True)
class Told:
    """What a worker settled, and all that it has done so far."""

    reports: list[Report]
    usage: Usage


@dataclass(frozen=True)
class Letter:
    """Tickets, the images among them that a worker does not know yet, and those that it may forget."""

    tickets: Sequence[Ticket]
    briefs: Mapping[int, Brief]
    ended: Sequence[int] = ()


class TileActor:
    """Holds the network and a running batch. Calls of ``work`` compute; those of ``control`` never wait."""

    def __init__(self, make_work: Callable[[], TileWork[Any]]) -> None:
        """Nothing yet: what goes wrong while the network is loaded is told by the first call."""
        self._make_work = make_work
        self._worker: Worker[Any] | None = None
        self._mailbox: SimpleQueue[Letter] = SimpleQueue()

    @ray.method(concurrency_group="control")
    def where(self) -> str:
        """The node it is on; whoever hears of it knows that the actor has a place."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="work")
    def load(self) -> Description:
        """Load the network; tells what a job has to know of its work."""
        self._worker = Worker(self._make_work)
        return describe(self._worker.work)

    @ray.method(concurrency_group="control")
    def give(self, letter: Letter) -> None:
        """Put tickets where the running batch finds them before its next step."""
        self._mailbox.put(letter)

    @ray.method(concurrency_group="work")
    def advance(self) -> Told:
        """Step the running batch until at least one tile is settled."""
        worker = self._loaded
        reports = worker.advance(self._mail(_PAUSE) if not worker.busy else (), self._mail)
        return Told(reports, replace(worker.usage))

    @ray.method(concurrency_group="work")
    def do(self, image: int, task: Chore, brief: Brief | None) -> Any:  # noqa: ANN401  whatever the chore finds
        """Do a task that is no tile."""
        return self._loaded.do(image, task, brief)

    @property
    def _loaded(self) -> Worker[Any]:
        if self._worker is None:
            raise ValueError("an actor is loaded before it is used")
        return self._worker

    def _mail(self, pause: float = 0.0) -> list[Ticket]:
        """All tickets in the mailbox; where there are none, those that come within a pause."""
        found: list[Ticket] = []
        try:
            if pause:
                found += self._read(self._mailbox.get(timeout=pause))
            while True:
                found += self._read(self._mailbox.get_nowait())
        except Empty:
            return found

    def _read(self, letter: Letter) -> Sequence[Ticket]:
        for image in letter.ended:
            self._loaded.close(image)
        for image, brief in letter.briefs.items():
            self._loaded.open(image, brief)
        return letter.tickets


_GROUPS = {"work": 1, "control": 1}
RemoteTileActor: Any = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups=_GROUPS)(  # type: ignore[call-overload]
    TileActor
)

"""The Ray actor around a worker: keys come in, reports go out, pixels stay with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from signal import SIGTERM, signal
from threading import Event
from time import perf_counter, time
from typing import Any

import ray

from .agenda import Chore
from .classes import Description, describe
from .executor import Batches, MakeWork
from .loom import TELL_SECONDS, Halo, Loom, Mail, Woven
from .nodes import goes_away
from .usage import Doing, Usage
from .worker import Brief, Report, Ticket, Worker

# Seconds between two questions to the machine whether it will be taken away.
_ASK = 1.0
# Seconds that a call waits for tickets where there is nothing to do: they come by another way and may be late.
_PAUSE = 0.05


@dataclass(frozen=True)
class Placed:
    """The node that an actor is on, its clock, and what is wrong with the address that should tell when it goes."""

    node: str
    now: float
    problem: str = ""


@dataclass(frozen=True)
class Warned:
    """An actor must go: why, and whether its whole machine does."""

    reason: str
    with_machine: bool


@dataclass(frozen=True)
class Told:
    """What a worker settled, ``found`` by a task, or did for levels in lock-step; all it has done, and its clock."""

    usage: Usage
    now: float
    reports: Sequence[Report] = ()
    found: Any = None
    woven: Sequence[Woven] = ()


@dataclass(frozen=True)
class Letter:
    """Tickets, the images among them that a worker does not know yet, and those that it may forget."""

    tickets: Sequence[Ticket]
    briefs: Mapping[int, Brief]
    ended: Sequence[int] = ()


class TileActor:
    """Holds the network and a running batch.

    Calls of ``work`` compute, those of ``control`` never wait, that of ``watch`` comes back when the actor must go.
    """

    def __init__(self, name: str, make_work: MakeWork, drain_url: str | None = None) -> None:
        """Nothing yet: what goes wrong while the network is loaded is told by the first call."""
        self._name, self._make_work, self._drain_url = name, make_work, drain_url
        self._worker: Worker[Any] | None = None
        self._loom: Loom | None = None
        self._leaving = Event()
        signal(SIGTERM, lambda *_: self._leaving.set())
        self._mailbox: SimpleQueue[Letter] = SimpleQueue()
        self._kept: list[Ticket] = []
        self._last_word = _LastWord(logging.WARNING)
        logging.getLogger("tileloom").addHandler(self._last_word)

    @ray.method(concurrency_group="control")
    def where(self) -> Placed:
        """The node it is on; whoever hears of it knows that the actor has a place."""
        node = str(ray.get_runtime_context().get_node_id())
        try:
            if self._drain_url:
                goes_away(self._drain_url)
        except OSError as error:
            return Placed(node, perf_counter(), f"{self._drain_url} does not tell whether a machine goes: {error}")
        return Placed(node, perf_counter())

    @ray.method(concurrency_group="control")
    def doing(self) -> Doing:
        """What it is about, since when, and what it logged of that: of a store that it waits for."""
        doing = self._loaded.doing
        last = self._last_word.record
        return replace(doing, said=last.getMessage()) if last and time() - last.created < doing.seconds else doing

    @ray.method(concurrency_group="control")
    def drain(self) -> None:
        """Let the running batch be saved before its next step."""
        self._leaving.set()

    @ray.method(concurrency_group="watch")
    def watch(self) -> Warned:
        """Come back when the actor has to go, whoever says so."""
        while not self._leaving.wait(_ASK):
            with suppress(OSError):
                if self._drain_url and goes_away(self._drain_url):
                    self._leaving.set()
                    return Warned("its machine will be taken away", with_machine=True)
        return Warned("it was told to end", with_machine=False)

    @ray.method(concurrency_group="work")
    def load(self, batches: Batches) -> Description:
        """Load the network, with the batch of its device where that is known; what a job has to know of its work."""
        # Whoever loads again must not hold two, and the loom holds the worker.
        self._worker = self._loom = None
        self._worker = Worker(partial(self._make_work, batches), name=self._name)
        self._loom = Loom(self._worker, _send)
        return describe(self._worker.work)

    @ray.method(concurrency_group="control")
    def give(self, letter: Letter) -> None:
        """Put tickets where the running batch finds them before its next step."""
        self._mailbox.put(letter)

    @ray.method(concurrency_group="work")
    def advance(self) -> Told:
        """Step the running batch until at least one tile is settled."""
        worker, tickets, self._kept = self._loaded, self._kept, []
        if not tickets and not worker.busy:
            tickets = self._mail(_PAUSE)
        reports = worker.advance(tickets, self._mail, self._leaving.is_set)
        return Told(replace(worker.usage), perf_counter(), reports)

    @ray.method(concurrency_group="work")
    def do(self, image: int, task: Chore, brief: Brief | None) -> Told:
        """Do a task that is no tile."""
        # Who does nothing else would never hear which images have ended.
        self._kept += self._mail()
        found = self._loaded.do(image, task, brief)
        return Told(replace(self._loaded.usage), perf_counter(), found=found)

    @ray.method(concurrency_group="control")
    def post(self, mail: Mail) -> None:
        """Put blocks, halos and what else there is to say of levels in lock-step where the loom finds them."""
        assert self._loom is not None
        self._loom.post(mail)

    @ray.method(concurrency_group="work")
    def weave(self) -> Told:
        """Advance the blocks that it holds until there is something to tell."""
        assert self._loom is not None
        self._kept += self._mail()
        woven = self._loom.advance(TELL_SECONDS)
        return Told(replace(self._loaded.usage), perf_counter(), woven=woven)

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


def _send(peer: Any, halo: Halo) -> None:  # noqa: ANN401  Ray's own type has no name
    """Hand a halo to another actor; whether that is still there is the driver's to know."""
    peer.post.options(num_returns=0).remote(halo)


class _LastWord(logging.Handler):
    """Keeps the last record of the log."""

    record: logging.LogRecord | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.record = record


_GROUPS = {"work": 1, "control": 1, "watch": 1}
RemoteTileActor: Any = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups=_GROUPS)(  # type: ignore[call-overload]
    TileActor
)

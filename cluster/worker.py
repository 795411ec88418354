"""A worker: holds the network and a running batch, reads what its tiles need and writes what they own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar, cast

from ..tiling.access import ImageAccess, ImagePlan
from ..tiling.cache import ChunkCache
from ..tiling.errors import CorruptChunk, OutOfMemory, TileFailed, TileloomError, lacks_memory
from ..tiling.paused import Paused, load_paused, save_paused
from ..tiling.work import Floats, TileInputs, TileWork, Work
from .usage import Activity, Doing, Stopwatch, Usage

S = TypeVar("S")
Given = TypeVar("Given")
Made = TypeVar("Made")
CACHE_BYTES = 64 * 2**20
"""Decoded chunks that a worker keeps: the surroundings of its tiles in flight, small beside a network's own memory."""


@dataclass(frozen=True)
class Brief:
    """What a worker must know of an image; ``settings`` is what decides a tile's bytes besides its pixels."""

    plan: ImagePlan
    settings: bytes


@dataclass(frozen=True, slots=True)
class Prior:
    """What an earlier generation made of a tile: taken over if the tile's inputs have the same digest."""

    root: str
    inputs: str
    output: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A tile to restore; ``degraded`` are the tiles whose pixels it must not take.

    ``paused`` is the hash of what was saved of it on its way; empty words where nothing was.
    """

    image: int
    tile: int
    degraded: tuple[int, ...] = ()
    priors: tuple[Prior, ...] = ()
    paused: str = ""


class Outcome(StrEnum):
    """What became of a ticket."""

    DONE = "done"
    INHERITED = "inherited"
    FAILED = "failed"
    BROKEN = "broken"
    PAUSED = "paused"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Report:
    """A settled ticket: digest of the inputs, hash of the output, or why it failed; calls and seconds it took.

    ``began`` is a time by the clock of the ``worker``, of whose seconds some went into ``reading`` and ``writing``.

    BROKEN is no fault of the tile: its image cannot be read or written, which ``error`` tells. PAUSED is saved on
    its way, and ``output`` the hash of that; RETURNED begins anew, for what reason there may be. ``spared`` are calls
    that it did not need, since it was saved with them behind it.
    """

    image: int
    tile: int
    outcome: Outcome
    inputs: str = ""
    output: str = ""
    reason: str = ""
    error: Exception | None = None
    calls: int = 0
    spared: int = 0
    worker: str = ""
    began: float = 0.0
    seconds: float = 0.0
    reading: float = 0.0
    writing: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the tile's pixels are written."""
        return self.outcome in (Outcome.DONE, Outcome.INHERITED)


@dataclass
class RunReport:
    """What became of an image's tiles: how many ended how, how often one failed or was paused, the calls of all.

    ``spared`` are network calls that tiles did not need again, since they were saved on their way; ``sent`` bytes
    that workers handed each other.
    """

    done: int = 0
    inherited: int = 0
    degraded: int = 0
    failures: int = 0
    paused: int = 0
    calls: int = 0
    spared: int = 0
    sent: int = 0

    def __add__(self, other: RunReport) -> RunReport:
        """What became of the tiles of both."""
        return RunReport(*(getattr(self, own.name) + getattr(other, own.name) for own in fields(self)))


@dataclass
class _Flight(Generic[S]):
    ticket: Ticket
    inputs: str
    state: S
    began: float
    reading: float
    spared: int
    calls: int = 0

    @property
    def past(self) -> dict[str, Any]:
        """What there is to report of its way."""
        return {"began": self.began, "reading": self.reading, "spared": self.spared, "calls": self.calls}


class Worker(Generic[S]):
    """Restores tiles of any images in one running batch."""

    def __init__(
        self, make_work: Callable[[], Work], *, name: str = "worker 1", cache_bytes: int = CACHE_BYTES
    ) -> None:
        """Load the network."""
        self.watch = Stopwatch()
        self.name = name
        # Whoever hands it tickets has made it with a work for tiles.
        self.work = cast(TileWork[S], make_work())
        self.watch.turn(Activity.WAITING)
        self._cache_bytes = cache_bytes
        self._cache = ChunkCache(cache_bytes)
        self._flights: list[_Flight[S]] = []
        self._waiting: deque[Ticket] = deque()
        self._briefs: dict[int, Brief] = {}
        self._images: dict[int, ImageAccess] = {}

    def open(self, image: int, brief: Brief) -> None:
        """Learn of an image, which is opened when it is first needed."""
        self._briefs[image] = brief

    def close(self, image: int) -> None:
        """Forget an image, and its tiles as far as they have come."""
        self._briefs.pop(image, None)
        self._images.pop(image, None)
        self._flights = [flight for flight in self._flights if flight.ticket.image != image]
        self._waiting = deque(ticket for ticket in self._waiting if ticket.image != image)

    @property
    def usage(self) -> Usage:
        """What it has done so far."""
        return self.watch.usage

    @property
    def doing(self) -> Doing:
        """What it is about; another thread may ask."""
        return self.watch.doing

    @property
    def free(self) -> int:
        """Tickets the running batch has room for."""
        return self.work.slots - len(self._flights)

    @property
    def busy(self) -> bool:
        """Whether it holds tiles."""
        return bool(self._flights or self._waiting)

    def access(self, image: int) -> ImageAccess:
        """The opened image."""
        if image not in self._images:
            self._images[image] = ImageAccess(self._briefs[image].plan, self._cache)
        return self._images[image]

    def do(self, image: int, task: Callable[..., Made], brief: Brief | None) -> Made:
        """Do a task that is no tile: with the image opened, or without one where there is no brief of it."""
        self.watch.turn(Activity.CHORES)
        try:
            if brief is None:
                return task()
            self.open(image, brief)
            return task(self.access(image))
        finally:
            self.watch.turn(Activity.WAITING)

    def advance(
        self,
        tickets: Sequence[Ticket],
        more: Callable[[], Sequence[Ticket]] = tuple,
        leaving: Callable[[], bool] = bool,
    ) -> list[Report]:
        """Take tiles into the running batch and step it until at least one tile is settled.

        Tickets beyond the free slots wait their turn. Before each step ``more`` is asked for tickets that have
        come in the meantime, and ``leaving`` whether the worker has to go, and to :meth:`pause`.
        """
        self._waiting.extend(tickets)
        try:
            return self._advanced(more, leaving)
        finally:
            self.watch.turn(Activity.WAITING)

    def _advanced(self, more: Callable[[], Sequence[Ticket]], leaving: Callable[[], bool]) -> list[Report]:
        reports: list[Report] = []
        while True:
            # First asked, then added: images may be closed meanwhile, and that makes a new queue.
            arrived = more()
            self._waiting.extend(arrived)
            if leaving():
                return reports + self.pause()
            while self._waiting and self.free:
                if report := self._board(self._waiting.popleft()):
                    reports.append(report)
            if reports or not self._flights:
                return reports
            reports += self._step()

    def pause(self) -> list[Report]:
        """Save the tiles in flight on their way and return all others; the worker then holds none."""
        self.watch.turn(Activity.WRITING)
        flights, waiting = self._flights, self._waiting
        self._flights, self._waiting = [], deque()
        returned = [Report(ticket.image, ticket.tile, Outcome.RETURNED, worker=self.name) for ticket in waiting]
        return [self._paused(flight) for flight in flights] + returned

    def _paused(self, flight: _Flight[S]) -> Report:
        ticket, past = flight.ticket, flight.past | {"spared": 0}
        if not flight.calls:
            return self._report(ticket, Outcome.RETURNED, **past)
        try:
            packed = self.work.pack(flight.state)
            paused = Paused(flight.inputs, self.work.numeric_class, flight.spared + flight.calls, packed)
            saved = save_paused(self._root(ticket), ticket.tile, paused)
        except Exception as error:
            # On a machine that is about to end anything may fail, and the tile can still be done elsewhere.
            return self._report(ticket, Outcome.RETURNED, reason=f"{type(error).__name__}: {error}", **past)
        return self._report(ticket, Outcome.PAUSED, inputs=flight.inputs, output=saved, **past)

    def _root(self, ticket: Ticket) -> str:
        return self._briefs[ticket.image].plan.root

    def _board(self, ticket: Ticket) -> Report | None:
        """Begin a tile, or settle it at once where an earlier generation's result holds."""
        began = self.watch.turn(Activity.READING)
        try:
            inputs = self.access(ticket.image).inputs(ticket.tile, ticket.degraded)
            digest = inputs.digest(self._briefs[ticket.image].settings)
            inherited = self._inherit(ticket, digest)
            paused = load_paused(self._root(ticket), ticket.tile, ticket.paused) if ticket.paused else None
        except Exception as error:
            return self._report(ticket, Outcome.BROKEN, began=began, error=_told_of(error))
        reading = self.watch.turn(Activity.COMPUTING) - began
        if inherited:
            return self._report(
                ticket, Outcome.INHERITED, began=began, reading=reading, inputs=digest, output=inherited
            )
        state, spared = self._begun(inputs, digest, paused)
        if isinstance(state, TileFailed):
            return self._report(ticket, Outcome.FAILED, began=began, reading=reading, reason=str(state))
        self._flights.append(_Flight(ticket, digest, state, began, reading, spared))
        return None

    def _begun(self, inputs: TileInputs, digest: str, paused: Paused | None) -> tuple[S | TileFailed, int]:
        """A tile as it was saved on its way, with the calls behind it; where that does not hold, at its start."""
        if paused and paused.inputs == digest and paused.numeric_class == self.work.numeric_class:
            with suppress(CorruptChunk):
                return self._attempt(partial(self.work.unpack, inputs), paused.packed), paused.calls
        return self._attempt(self.work.begin, inputs), 0

    def _inherit(self, ticket: Ticket, digest: str) -> str:
        access = self.access(ticket.image)
        for prior in ticket.priors:
            if prior.inputs == digest and access.adopt(ticket.tile, prior.root, prior.output):
                return prior.output
        return ""

    def _step(self) -> list[Report]:
        self.watch.turn(Activity.COMPUTING)
        flights = self._flights
        states = self._stepped(flights)
        self.usage.calls += len(flights)
        self.usage.offered += self.work.slots
        ended = [self._ended(flight, state) for flight, state in zip(flights, states, strict=True)]
        self._flights = [flight for flight, report in zip(flights, ended, strict=True) if report is None]
        return [report for report in ended if report]

    def _ended(self, flight: _Flight[S], state: S | TileFailed) -> Report | None:
        """What became of a stepped tile, written if it is finished; None if it goes on."""
        flight.calls += 1
        window: Floats | TileFailed
        if isinstance(state, TileFailed):
            window = state
        elif self.work.finished(state):
            window = self._attempt(self.work.finish, state)
        else:
            flight.state = state
            return None
        ticket, past = flight.ticket, flight.past
        if isinstance(window, TileFailed):
            return self._report(ticket, Outcome.FAILED, reason=str(window), **past)
        since = self.watch.turn(Activity.WRITING)
        try:
            output = self.access(ticket.image).write(ticket.tile, window)
        except Exception as error:
            return self._report(ticket, Outcome.BROKEN, error=_told_of(error), **past)
        finally:
            now = self.watch.turn(Activity.COMPUTING)
        return self._report(ticket, Outcome.DONE, inputs=flight.inputs, output=output, writing=now - since, **past)

    def _stepped(self, flights: Sequence[_Flight[S]]) -> list[S | TileFailed]:
        """Every flight's next state. Where a batch fails as a whole, each one is tried alone: one must be at fault."""
        stepped = self._attempt(self.work.step, [flight.state for flight in flights])
        if not isinstance(stepped, TileFailed):
            return stepped
        if len(flights) == 1:
            return [stepped]
        return [state for flight in flights for state in self._stepped([flight])]

    def _attempt(self, call: Callable[[Given], Made], given: Given) -> Made | TileFailed:
        """What the work makes of it, or the failure. What is no tile's fault (stores, memory, the job) is raised."""
        try:
            return self._spared(call, given)
        except TileFailed as failure:
            return failure
        except (TileloomError, OSError):
            raise
        except Exception as error:
            return TileFailed(f"{type(error).__name__}: {error}".removesuffix(": "))

    def _spared(self, call: Callable[[Given], Made], given: Given) -> Made:
        """Make a call, and where memory lacks the very same once more: bytes must not depend on a machine's load."""
        try:
            return call(given)
        except Exception as error:
            if not lacks_memory(error):
                raise
        # Out of the handler: the error's traceback would keep the arrays of the failed call.
        try:
            self._images.clear()
            self._cache = ChunkCache(self._cache_bytes)
            return call(given)
        except Exception as error:
            if not lacks_memory(error):
                raise
            tiles = f"{len(self._flights)} tiles" if len(self._flights) > 1 else "1 tile"
            raise OutOfMemory(
                f"out of memory with batches of {'x'.join(map(str, self.work.batch_shape))} and {tiles} in flight: "
                "lower batch or lanes, or choose a smaller tile"
            ) from error

    def _report(self, ticket: Ticket, outcome: Outcome, *, began: float, **facts: Any) -> Report:  # noqa: ANN401
        self.usage.tiles += outcome in (Outcome.DONE, Outcome.INHERITED)
        self.usage.failures += outcome is Outcome.FAILED
        seconds = perf_counter() - began
        return Report(ticket.image, ticket.tile, outcome, worker=self.name, began=began, seconds=seconds, **facts)


def _told_of(error: Exception) -> Exception:
    """What is told of an error that is its image's: what memory lacks is everybody's, and raised."""
    if lacks_memory(error):
        raise error
    if isinstance(error, TileloomError | OSError):
        return error
    return TileloomError(f"{type(error).__name__}: {error}".removesuffix(": "))

"""A worker: holds the network and a running batch, reads what its tiles need and writes what they own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import Any, Generic, TypeVar

from ..tiling.access import ImageAccess, ImagePlan
from ..tiling.cache import ChunkCache
from ..tiling.errors import TileFailed, TileloomError
from ..tiling.work import TileWork

S = TypeVar("S")
CACHE_BYTES = 64 * 2**20
"""Decoded chunks that a worker keeps: the surroundings of its tiles in flight, small beside a network's own memory."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What an earlier generation made of a tile: taken over if the tile's inputs have the same digest."""

    root: str
    inputs: str
    output: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A tile to restore; ``degraded`` are the tiles whose pixels it must not take."""

    image: int
    tile: int
    degraded: tuple[int, ...] = ()
    priors: tuple[Prior, ...] = ()


class Outcome(StrEnum):
    """What became of a ticket."""

    DONE = "done"
    INHERITED = "inherited"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Report:
    """A settled ticket: digest of the inputs, hash of the output, or why it failed; seconds since it was taken."""

    image: int
    tile: int
    outcome: Outcome
    inputs: str = ""
    output: str = ""
    reason: str = ""
    seconds: float = 0.0
    began: float = 0.0


@dataclass
class _Flight(Generic[S]):
    ticket: Ticket
    inputs: str
    state: S
    began: float


@dataclass
class Usage:
    """What a worker did: network calls, how many slots they could have filled, and where its seconds went."""

    calls: int = 0
    offered: int = 0
    reading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0

    @property
    def fill(self) -> float:
        """The share of offered batch slots that held a tile."""
        return self.calls / self.offered if self.offered else 0.0


class Worker(Generic[S]):
    """Restores tiles of any images in one running batch."""

    def __init__(
        self,
        make_work: Callable[[], TileWork[S]],
        images: Mapping[int, ImagePlan],
        *,
        settings: bytes,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Load the network and open the images; ``settings`` is what else decides a tile's bytes."""
        self.work = make_work()
        self.usage = Usage()
        self._cache = ChunkCache(cache_bytes)
        self._images = {image: ImageAccess(plan, self._cache) for image, plan in images.items()}
        self._settings = settings
        self._flights: list[_Flight[S]] = []

    @property
    def free(self) -> int:
        """Tickets the running batch has room for."""
        return self.work.slots - len(self._flights)

    def access(self, image: int) -> ImageAccess:
        """The opened image."""
        return self._images[image]

    def advance(self, tickets: Sequence[Ticket]) -> list[Report]:
        """Take tiles into the running batch and step it until at least one tile is settled."""
        reports = [report for ticket in tickets if (report := self._board(ticket))]
        while self._flights and not reports:
            reports += self._step()
        return reports

    def _board(self, ticket: Ticket) -> Report | None:
        """Begin a tile, or settle it at once where an earlier generation's result holds."""
        began = perf_counter()
        access = self._images[ticket.image]
        inputs = access.inputs(ticket.tile, ticket.degraded)
        digest = inputs.digest(self._settings)
        inherited = self._inherit(access, ticket, digest)
        self.usage.reading += perf_counter() - began
        if inherited:
            return self._report(ticket, Outcome.INHERITED, began, inputs=digest, output=inherited)
        try:
            self._flights.append(_Flight(ticket, digest, self.work.begin(inputs), began))
        except Exception as error:
            reason = str(error) if isinstance(error, TileFailed) else self._blame(ticket, error)
            return self._report(ticket, Outcome.FAILED, began, reason=reason)
        return None

    def _inherit(self, access: ImageAccess, ticket: Ticket, digest: str) -> str:
        for prior in ticket.priors:
            if prior.inputs == digest and access.adopt(ticket.tile, prior.root, prior.output):
                return prior.output
        return ""

    def _step(self) -> list[Report]:
        began = perf_counter()
        flights, self._flights = self._flights, []
        states = self._stepped(flights)
        self.usage.calls += len(flights)
        self.usage.offered += self.work.slots
        computed = perf_counter()
        self.usage.computing += computed - began
        reports = []
        for flight, state in zip(flights, states, strict=True):
            if isinstance(state, TileFailed):
                reports.append(self._report(flight.ticket, Outcome.FAILED, flight.began, reason=str(state)))
            elif self.work.finished(state):
                output = self._images[flight.ticket.image].write(flight.ticket.tile, self.work.finish(state))
                reports.append(
                    self._report(flight.ticket, Outcome.DONE, flight.began, inputs=flight.inputs, output=output)
                )
            else:
                flight.state = state
                self._flights.append(flight)
        self.usage.writing += perf_counter() - computed
        return reports

    def _stepped(self, flights: Sequence[_Flight[S]]) -> list[S | TileFailed]:
        """Every flight's next state. Whatever raises without naming a tile is tried again for each one alone."""
        try:
            return self.work.step([flight.state for flight in flights])
        except TileloomError:
            raise
        except Exception as error:
            if len(flights) > 1:
                return [state for flight in flights for state in self._stepped([flight])]
            return [TileFailed(self._blame(flights[0].ticket, error))]

    def _blame(self, ticket: Ticket, error: Exception) -> str:
        image = self._images[ticket.image].image
        key, box = image.plan.key(ticket.tile), image.plan.sees(ticket.tile)
        return f"image {image.name}, tile {key} ({box}): {type(error).__name__}: {error}"

    @staticmethod
    def _report(ticket: Ticket, outcome: Outcome, began: float, **facts: Any) -> Report:  # noqa: ANN401
        return Report(ticket.image, ticket.tile, outcome, seconds=perf_counter() - began, began=began, **facts)

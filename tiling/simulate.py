"""The frontier under a fake clock: how long a job takes on a cluster that may grow, shrink and fail.

It drives the very object that runs real jobs, so the order of tiles is the real one. Every tile takes
the same ``calls_per_tile * call_seconds``: a forward pass has one padded shape, so it costs the same
however full it is. While a tile is read or written, all tiles in flight on its worker wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import ceil
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .frontier import Frontier, Item, Policy, TileState, critical_path_first
from .plan import Plan

# A worker lost more often than this per tile would finish one in e^5 = 148 tries.
_MOST_LOSSES_A_TILE = 5.0


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Workers between ``min`` and ``max`` as the backlog asks, each ready ``startup_seconds`` after it is asked for.

    One that was idle for ``idle_seconds`` is parked; None: for as long as starting takes, which costs at most twice
    what knowing the future would.
    """

    min: int
    max: int
    startup_seconds: float = 0.0
    idle_seconds: float | None = None

    @property
    def patience(self) -> float:
        """Seconds that a worker may be idle."""
        return self.startup_seconds if self.idle_seconds is None else self.idle_seconds


class Interval(NamedTuple):
    """A slot's time with one tile, in seconds since the start; ``lost`` if its worker was lost in the middle."""

    worker: int
    slot: int
    start: float
    end: float
    image: int
    tile: int
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a simulated run came to; times in seconds."""

    makespan: float
    work: float
    """Slot-seconds, each tile once, with those that its reading and writing takes from all slots of its worker."""
    critical_path: float
    """What endless slots would need."""
    slots: int
    """Of all workers at the largest size allowed."""
    redone: int
    """Tiles lost with their worker and computed again."""
    worker_seconds: float
    """Time that workers were held, starting up included."""
    busy: float
    """Share of the held slots' time that was spent on tiles, lost ones included."""
    idle: float
    """Share of the workers' time in which they held no tile at all."""
    intervals: tuple[Interval, ...]

    @property
    def bound(self) -> float:
        """No order of the tiles on these slots can be faster."""
        return max(self.critical_path, self.work / self.slots)

    @property
    def efficiency(self) -> float:
        """The bound over the makespan: 1 is perfect."""
        return self.bound / self.makespan if self.makespan else 1.0


def simulate(
    plans: Sequence[Plan],
    *,
    workers: int,
    slots: int,
    call_seconds: float,
    calls_per_tile: int,
    tile_seconds: float = 0.0,
    states: Sequence[NDArray[np.uint8]] | None = None,
    mtbf: float | None = None,
    seed: int = 0,
    autoscale: Autoscale | None = None,
    policy: Policy = critical_path_first,
) -> Simulation:
    """Run the plans, one an image, on ``workers`` with ``slots`` tiles in flight each.

    Args:
        plans: the images' plans, oldest first.
        workers: how many are up at the start, and without ``autoscale`` throughout.
        slots: tiles a worker keeps in flight.
        call_seconds: seconds of one step of a worker's whole batch, however full it is.
        calls_per_tile: steps from a tile's begin to its end.
        tile_seconds: seconds that a worker reads and writes for each tile, during which its batch waits.
        states: for each plan the tiles' :class:`TileState`; None: all are to do.
        mtbf: mean seconds between losses of one worker (exponential); its tiles are redone, and it is
            back after the start-up delay. None: none is ever lost.
        seed: of the losses.
        autoscale: how the number of workers follows the backlog; a fixed number whose lost
            workers take ``s`` seconds to come back is ``Autoscale(workers, workers, s)``.
        policy: which ready tile goes first.
    """
    scale = autoscale or Autoscale(workers, workers)
    seconds = call_seconds * calls_per_tile
    _check(workers, slots, seconds, tile_seconds, mtbf, scale)
    states = [np.zeros(plan.count, np.uint8) for plan in plans] if states is None else states
    run = _Run(_queue(plans, states, policy), slots, seconds, tile_seconds, mtbf, Random(seed), scale)
    run.play(workers)
    tiles = sum(int(np.count_nonzero(state == TileState.TODO)) for state in states)
    return Simulation(
        makespan=run.now,
        work=tiles * (seconds + slots * tile_seconds),
        critical_path=rounds(plans, states, policy=policy) * (seconds + tile_seconds),
        slots=scale.max * slots,
        redone=sum(interval.lost for interval in run.intervals),
        worker_seconds=run.worker_seconds,
        busy=sum(i.end - i.start for i in run.intervals) / (run.worker_seconds * slots) if run.worker_seconds else 0.0,
        idle=1 - _manned(run.intervals) / run.worker_seconds if run.worker_seconds else 0.0,
        intervals=tuple(run.intervals),
    )


def _manned(intervals: Sequence[Interval]) -> float:
    """Seconds in which a worker held at least one tile, of all workers together."""
    seconds, worker, until = 0.0, -1, 0.0
    for interval in sorted(intervals, key=lambda i: (i.worker, i.start)):
        if interval.worker != worker:
            worker, until = interval.worker, 0.0
        seconds += max(0.0, interval.end - max(until, interval.start))
        until = max(until, interval.end)
    return seconds


def _check(workers: int, slots: int, seconds: float, tile_seconds: float, mtbf: float | None, scale: Autoscale) -> None:
    if min(workers, slots) < 1:
        raise InputError(f"{workers} workers of {slots} slots cannot run a tile; both must be at least 1")
    if not 0 <= scale.min <= workers <= scale.max:
        raise InputError(f"{workers} workers do not lie in the range {scale.min}:{scale.max}")
    if not seconds > 0 or min(tile_seconds, scale.startup_seconds, scale.patience) < 0:
        raise InputError(
            "the seconds of a call and the calls of a tile must be above 0, "
            "the seconds of its reading and writing, the start-up delay and the time to park not below"
        )
    if mtbf is not None and not seconds <= mtbf * _MOST_LOSSES_A_TILE:
        raise InputError(
            f"workers lost every {mtbf:g} s on average hardly ever finish a tile of {seconds:g} s; "
            f"make mtbf at least {seconds / _MOST_LOSSES_A_TILE:g}"
        )


def _queue(plans: Sequence[Plan], states: Sequence[NDArray[np.uint8]], policy: Policy) -> Frontier:
    frontier = Frontier(policy=policy)
    for number, (plan, state) in enumerate(zip(plans, states, strict=True)):
        frontier.add(f"image {number}", plan, state=state)
    return frontier


def rounds(
    plans: Sequence[Plan],
    states: Sequence[NDArray[np.uint8]],
    *,
    slots: int | None = None,
    policy: Policy = critical_path_first,
) -> int:
    """Tiles one after the other on so many slots; None, endless ones: those on the longest chain of what is to do."""
    frontier = _queue(plans, states, policy)
    found = 0
    while items := frontier.take(slots or frontier.ready):
        frontier.done(items)
        found += 1
    return found


class _Flight(NamedTuple):
    """A tile on a worker; ``due`` is when it would end had the worker never been ``stalled``."""

    item: Item
    start: float
    due: float


@dataclass(slots=True)
class _Worker:
    """A place for a worker; each coming up begins a new ``life``, and events of an older one are void.

    ``stalled`` is how long all its tiles have waited for reading and writing so far.
    """

    number: int
    life: int = 0
    held_since: float | None = None
    idle_since: float = 0.0
    stalled: float = 0.0
    flights: dict[int, _Flight] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"w{self.number}"


class _Run:
    """One run: a heap of events, and the frontier they drive."""

    def __init__(
        self,
        frontier: Frontier,
        slots: int,
        seconds: float,
        tile_seconds: float,
        mtbf: float | None,
        random: Random,
        scale: Autoscale,
    ) -> None:
        self.frontier = frontier
        self.slots = slots
        self.seconds = seconds
        self.tile_seconds = tile_seconds
        self.mtbf = mtbf
        self.random = random
        self.scale = scale
        self.now = 0.0
        self.worker_seconds = 0.0
        self.intervals: list[Interval] = []
        self._workers = [_Worker(number) for number in range(scale.max)]
        self._held = 0
        self._free: list[tuple[int, int, int]] = []
        self._stirred: list[_Worker] = []
        self._events: list[tuple[float, int, int, _Worker, Callable[[], None]]] = []
        self._sequence = count()

    def play(self, workers: int) -> None:
        """From the start, with this many workers up, until every tile is done."""
        for worker in self._workers[:workers]:
            self._hold(worker)
            self._come_up(worker)
        self._staff()
        while self.frontier.leased or self.frontier.ready:
            self.now = self._events[0][0]
            # All that happens at one moment happens before anything is handed out, so that the best tile is known.
            while self._events and self._events[0][0] == self.now:
                _, _, life, worker, action = heappop(self._events)
                if worker.life == life:
                    action()
            self._staff()
        self.worker_seconds += sum(self.now - w.held_since for w in self._workers if w.held_since is not None)

    def _after(self, delay: float, worker: _Worker, action: Callable[[], None]) -> None:
        self._at(self.now + delay, worker, action)

    def _at(self, time: float, worker: _Worker, action: Callable[[], None]) -> None:
        heappush(self._events, (time, next(self._sequence), worker.life, worker, action))

    def _staff(self) -> None:
        """Ask for as many workers as the backlog fills, hand out tiles, and note who is left idle."""
        backlog = self.frontier.ready + self.frontier.leased
        wanted = min(self.scale.max, ceil(backlog / self.slots))
        if self._held < wanted:
            for worker in [w for w in self._workers if w.held_since is None][: wanted - self._held]:
                self._hold(worker)
                self._after(self.scale.startup_seconds, worker, partial(self._come_up, worker))
        self._hand_out()
        for worker in self._stirred:
            if not worker.flights and self.scale.min < self.scale.max:
                worker.idle_since = self.now
                self._after(self.scale.patience, worker, partial(self._park, worker))
        self._stirred.clear()

    def _hand_out(self) -> None:
        """Fill free slots, those of the first workers first, so that the last ones can be parked."""
        boarded = []
        while self._free and not self.frontier.idle:
            number, slot, life = heappop(self._free)
            worker = self._workers[number]
            if worker.life == life:
                [item] = self.frontier.take(1, worker.name)
                worker.flights[slot] = _Flight(item, self.now, self.now - worker.stalled + self.seconds)
                boarded.append((worker, slot))
        for worker, _ in boarded:
            worker.stalled += self.tile_seconds
        for worker, slot in boarded:
            self._end(worker, slot)

    def _hold(self, worker: _Worker) -> None:
        worker.held_since = self.now
        self._held += 1

    def _come_up(self, worker: _Worker) -> None:
        self._stirred.append(worker)
        for slot in range(self.slots):
            heappush(self._free, (worker.number, slot, worker.life))
        if self.mtbf is not None:
            self._after(self.random.expovariate(1 / self.mtbf), worker, partial(self._lose, worker))

    def _end(self, worker: _Worker, slot: int) -> None:
        """End the tile in a slot if it is due; look again when it should be, which later tiles can put off."""
        flight = worker.flights[slot]
        if (due := flight.due + worker.stalled) > self.now:
            self._at(due, worker, partial(self._end, worker, slot))
            return
        del worker.flights[slot]
        self.intervals.append(Interval(worker.number, slot, flight.start, self.now, *flight.item))
        self.frontier.done([flight.item])
        self._stirred.append(worker)
        heappush(self._free, (worker.number, slot, worker.life))

    def _lose(self, worker: _Worker) -> None:
        """The worker and its tiles in flight are gone; another one is started in its place."""
        for slot, flight in worker.flights.items():
            self.intervals.append(Interval(worker.number, slot, flight.start, self.now, *flight.item, lost=True))
        self.frontier.release(worker.name)
        worker.flights.clear()
        worker.life += 1
        self._after(self.scale.startup_seconds, worker, partial(self._come_up, worker))

    def _park(self, worker: _Worker) -> None:
        idle = not worker.flights and worker.idle_since + self.scale.patience <= self.now
        if idle and worker.held_since is not None and self._held > self.scale.min:
            self.worker_seconds += self.now - worker.held_since
            worker.held_since = None
            worker.life += 1
            self._held -= 1

"""Blocks in lock-step under a fake clock: how long levels take whose windows are fused at every step.

Workers hold their blocks as in a real run: even runs of them, from which only a loss moves any. A worker takes such
blocks a round further as have their neighbours' halos, as many as fill its batch; that takes a step of the network for
every batch that their windows fill. Halos, and rounds without windows, take no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random

from .errors import InputError
from .exchange import Pattern, runs
from .lockstep import AHEAD, TOGETHER, Lattice, LockstepPlan
from .simulate import Interval, Simulation

# With more losses than this between two savings, one stretch in e^5 = 148 would come to its end.
_MOST_LOSSES = 5.0


@dataclass(frozen=True)
class Losses:
    """Workers are lost every ``mtbf`` seconds on average, each, and are back after so many; None: none is."""

    mtbf: float | None = None
    startup_seconds: float = 0.0
    seed: int = 0


def simulate_lockstep(
    images: Sequence[Sequence[Lattice]],
    pattern: Pattern,
    *,
    steps: int,
    every: int,
    workers: int,
    slots: int,
    call_seconds: float,
    losses: Losses | None = None,
) -> tuple[Simulation, list[LockstepPlan]]:
    """Weave images, a lattice for each of their levels, coarse ones first; ``every`` so many steps blocks are saved.

    Returns the plans, too, that the intervals are of: those of an image's levels stand together.
    """
    losses, images = losses or Losses(), [levels for levels in images if levels]
    if min(workers, slots) < 1 or not call_seconds > 0 or losses.startup_seconds < 0:
        raise InputError("workers and slots must be at least 1, the seconds of a call above 0, a delay not below")
    largest = max((lattice.windows.count for levels in images for lattice in levels), default=0)
    settling = every * -(-largest // (workers * slots)) * call_seconds
    if losses.mtbf is not None and losses.mtbf * _MOST_LOSSES < settling * workers:
        raise InputError(
            f"{workers} workers that are each lost every {losses.mtbf:g} s on average hardly ever come from one saved "
            f"step to the next, {settling:g} s later; make mtbf at least {settling * workers / _MOST_LOSSES:g}"
        )
    run = _Run(images, pattern, steps, every, workers, slots, call_seconds, losses)
    run.play()
    windows = sum(lattice.windows.count for levels in images for lattice in levels)
    held = workers * run.now
    simulation = Simulation(
        makespan=run.now,
        work=windows * steps * call_seconds,
        critical_path=max(map(len, images), default=0) * steps * call_seconds,
        slots=workers * slots,
        redone=run.redone,
        worker_seconds=held,
        busy=run.shown * call_seconds / (held * slots) if held else 0.0,
        idle=1 - run.computing / held if held else 0.0,
        intervals=tuple(run.intervals),
    )
    return simulation, run.plans


@dataclass(eq=False)
class _Level:
    """A level under way: the round that each block has behind it, and the latest that its halos were sent of.

    ``going`` are blocks that wait for their worker's turn, or have it.
    """

    number: int
    lattice: Lattice
    plan: LockstepPlan
    holders: list[int | None]
    windows: list[int] = field(init=False)
    at: list[int] = field(init=False)
    sent: list[int] = field(init=False)
    saved: list[int] = field(init=False)
    going: set[int] = field(default_factory=set)
    settled: int = 0

    def __post_init__(self) -> None:
        blocks = range(self.lattice.count)
        self.windows = [len(self.lattice.begun(block)) for block in blocks]
        self.at, self.sent, self.saved = ([0] * len(blocks) for _ in range(3))

    @property
    def over(self) -> bool:
        """Whether all blocks have come to their end."""
        return min(self.at) == self.plan.rounds - 1


@dataclass(eq=False)
class _Worker:
    number: int
    up: bool = True
    life: int = 0
    began: float = 0.0
    ready: list[tuple[int, int, int]] = field(default_factory=list)
    group: list[tuple[_Level, int]] = field(default_factory=list)


class _Run:
    def __init__(
        self,
        images: Sequence[Sequence[Lattice]],
        pattern: Pattern,
        steps: int,
        every: int,
        workers: int,
        slots: int,
        call_seconds: float,
        losses: Losses,
    ) -> None:
        self._coming = iter(images)
        self._pattern, self._steps, self._every = pattern, steps, every
        self._slots, self._call_seconds, self._losses = slots, call_seconds, losses
        self._random = Random(losses.seed)
        self._workers = [_Worker(number) for number in range(workers)]
        self._under_way: dict[int, _Level] = {}
        self._next: dict[int, Iterator[Lattice]] = {}
        self._events: list[tuple[float, int, str, _Worker, int]] = []
        self._sequence = count()
        self.plans: list[LockstepPlan] = []
        self.now = self.computing = 0.0
        self.shown = self.redone = 0
        self.intervals: list[Interval] = []

    def play(self) -> None:
        """From the first block to the last."""
        for worker in self._workers:
            self._expect_loss(worker)
        self._admit()
        while self._under_way:
            self._start()
            self.now = self._events[0][0]
            # All that happens at one moment happens before anything is taken, so that batches are as full as can be.
            while self._events and self._events[0][0] == self.now:
                _, _, what, worker, life = heappop(self._events)
                if what == "up":
                    self._come_up(worker)
                elif worker.life == life:
                    (self._end if what == "end" else self._lose)(worker)

    def _at(self, time: float, what: str, worker: _Worker) -> None:
        heappush(self._events, (time, next(self._sequence), what, worker, worker.life))

    # --- levels ---

    def _admit(self) -> None:
        """Begin images as long as there are too few blocks for all workers."""
        while sum(level.lattice.count for level in self._under_way.values()) < 2 * len(self._workers):
            levels = next(self._coming, None)
            if levels is None:
                return
            self._go_on(iter(levels[::-1]))

    def _go_on(self, levels: Iterator[Lattice]) -> None:
        """Begin an image's next level, if it has one left."""
        lattice = next(levels, None)
        if lattice is None:
            return
        plan = lattice.plan(self._steps, self._pattern.phases)
        level = _Level(len(self.plans), lattice, plan, [None] * lattice.count)
        self.plans.append(plan)
        self._under_way[level.number] = level
        self._next[level.number] = levels
        self._give(level)

    def _give(self, level: _Level) -> None:
        """Blocks that nobody holds go in even runs to the workers that hold fewest."""
        free = [block for block, holder in enumerate(level.holders) if holder is None]
        load = dict.fromkeys((worker.number for worker in self._workers if worker.up), 0)
        for other in self._under_way.values():
            for holder in other.holders:
                if holder in load:
                    load[holder] += 1
        if not free or not load:
            return
        chosen = sorted(load, key=lambda number: load[number])
        for number, share in zip(chosen, runs(len(free), len(chosen)), strict=False):
            for at in share:
                level.holders[free[at]] = number
        for block in free:
            self._look(level, block)

    # --- rounds ---

    def _look(self, level: _Level, block: int) -> None:
        """Queue a block with its holder, if it can go a round further."""
        at, holder = level.at[block], level.holders[block]
        ahead = (level.settled + AHEAD * self._every) * self._pattern.phases
        if holder is None or block in level.going or at + 1 >= level.plan.rounds or at + 1 > ahead:
            return
        if all(level.sent[other] >= at for other in level.plan.around(block)):
            level.going.add(block)
            heappush(self._workers[holder].ready, (at, level.number, block))

    def _start(self) -> None:
        for worker in self._workers:
            if worker.up and not worker.group and worker.ready:
                self._take(worker)

    def _take(self, worker: _Worker) -> None:
        shown = 0
        while worker.ready and len(worker.group) < TOGETHER and shown < self._slots:
            at, number, block = heappop(worker.ready)
            level = self._under_way[number]
            worker.group.append((level, block))
            shown += level.windows[block] if at % self._pattern.phases == self._pattern.asking else 0
        seconds = -(-shown // self._slots) * self._call_seconds
        self.shown += shown
        worker.began = self.now
        self._at(self.now + seconds, "end", worker)

    def _draw(self, worker: _Worker, *, lost: bool) -> None:
        """Note what a worker's time was spent on."""
        self.computing += self.now - worker.began if worker.group else 0.0
        for slot, (level, block) in enumerate(worker.group if self.now > worker.began else ()):
            node = level.plan.node(level.at[block] + 1, block)
            self.intervals.append(Interval(worker.number, slot, worker.began, self.now, level.number, node, lost=lost))

    def _end(self, worker: _Worker) -> None:
        """What a worker took is a round further."""
        self._draw(worker, lost=False)
        group, worker.group = worker.group, []
        for level, block in group:
            level.at[block] += 1
            level.going.remove(block)
            level.sent[block] = max(level.sent[block], level.at[block])
            step, within = divmod(level.at[block], self._pattern.phases)
            if not within and step % self._every == 0:
                level.saved[block] = max(level.saved[block], step)
            for other in level.plan.around(block):
                self._look(level, other)
        for level in {level.number: level for level, _ in group}.values():
            self._settle(level)

    def _settle(self, level: _Level) -> None:
        if level.over:
            del self._under_way[level.number]
            self._go_on(self._next.pop(level.number))
            self._admit()
        elif (settled := min(level.saved)) > level.settled:
            level.settled = settled
            for block in range(level.lattice.count):
                self._look(level, block)

    # --- losses ---

    def _expect_loss(self, worker: _Worker) -> None:
        if self._losses.mtbf is not None:
            self._at(self.now + self._random.expovariate(1 / self._losses.mtbf), "loss", worker)

    def _lose(self, worker: _Worker) -> None:
        """Its blocks go back to the step that all have saved, and to others."""
        self._draw(worker, lost=True)
        worker.life += 1
        worker.up = False
        worker.ready.clear()
        worker.group.clear()
        for level in self._under_way.values():
            for block, holder in enumerate(level.holders):
                if holder == worker.number:
                    back = level.settled * self._pattern.phases
                    self.redone += (level.at[block] - back) // self._pattern.phases
                    level.at[block], level.holders[block] = back, None
                    level.going.discard(block)
            self._give(level)
        self._at(self.now + self._losses.startup_seconds, "up", worker)

    def _come_up(self, worker: _Worker) -> None:
        worker.up = True
        self._expect_loss(worker)
        for level in list(self._under_way.values()):
            self._give(level)

"""What a job's workers did, how long they and their machines were held, and what that costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from .usage import Usage

HOUR = 3600.0


@dataclass(eq=False)
class Shift:
    """A worker's time with a job, from when it had its place to its end, by the driver's clock; None: still there.

    ``usage`` is what it told last, by its own clock. ``clock`` is what makes the driver's time of the worker's own:
    the least that any of its answers was heard later than it was given, which is too much by that answer's way.
    """

    name: str
    node: str = ""
    began: float = field(default_factory=monotonic)
    ended: float | None = None
    usage: Usage = field(default_factory=Usage)
    clock: float = inf

    @property
    def seconds(self) -> float:
        """How long it was there."""
        return (monotonic() if self.ended is None else self.ended) - self.began

    @property
    def waiting(self) -> float:
        """Seconds in which it did nothing that it told of."""
        return max(0.0, self.seconds - self.usage.busy)

    def told(self, usage: Usage, given: float, heard: float) -> None:
        """An answer that was given at this time of the worker's, and heard at that of the driver's."""
        self.usage = usage
        self.clock = min(self.clock, heard - given)


@dataclass
class Timesheet:
    """The shifts of all workers, what their machines are, why workers were lost and how often, and what came too late.

    ``kinds`` are all names that a machine has for what it is, by its id.
    """

    shifts: list[Shift] = field(default_factory=list)
    kinds: dict[str, frozenset[str]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    late: int = 0

    def begin(self, shift: Shift, kinds: frozenset[str]) -> None:
        """A worker has its place on a machine of these kinds."""
        self.shifts.append(shift)
        self.kinds[shift.node] = kinds

    @property
    def present(self) -> list[Shift]:
        """The shifts of those who are there."""
        return [shift for shift in self.shifts if shift.ended is None]

    @property
    def usage(self) -> Usage:
        """What all workers did, those that are gone included as far as they told."""
        return sum((shift.usage for shift in self.shifts), start=Usage())

    @property
    def worker_seconds(self) -> float:
        """Seconds of all workers."""
        return sum(shift.seconds for shift in self.shifts)

    @property
    def held(self) -> dict[str, float]:
        """Seconds in which each machine had a worker, by its id."""
        seconds: dict[str, float] = {}
        until: dict[str, float] = {}
        for shift in sorted(self.shifts, key=lambda shift: shift.began):
            since, ended = max(shift.began, until.get(shift.node, 0.0)), shift.began + shift.seconds
            seconds[shift.node] = seconds.get(shift.node, 0.0) + max(0.0, ended - since)
            until[shift.node] = max(since, ended)
        return seconds

    def cost(self, prices: Mapping[str, float]) -> float | None:
        """What the machines cost by prices an hour, the first that names a machine; None where none names it."""
        total = 0.0
        for node, seconds in self.held.items():
            price = next((price for kind, price in prices.items() if kind in self.kinds[node]), None)
            if price is None:
                return None
            total += price * seconds / HOUR
        return total

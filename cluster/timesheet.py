"""What a job's workers did, how long they and their machines were held, and what that costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from .usage import Usage

HOUR = 3600.0


@dataclass
class Held:
    """A machine that workers of the job were on: all its names for what it is, and for how many seconds."""

    kinds: frozenset[str]
    seconds: float = 0.0


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
    """Machines by their ids, the shifts of all workers, why workers were lost and how often, and what came too late."""

    nodes: dict[str, Held] = field(default_factory=dict)
    shifts: list[Shift] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    late: int = 0
    _looked: float = field(default_factory=monotonic)

    def begin(self, name: str, node: str = "") -> Shift:
        """A worker has its place."""
        shift = Shift(name, node)
        self.shifts.append(shift)
        return shift

    def look(self, kinds: Callable[[str], frozenset[str]]) -> None:
        """Add the time since the last look to the machines that have a worker now."""
        now = monotonic()
        passed, self._looked = now - self._looked, now
        for node in {shift.node for shift in self.present}:
            if node not in self.nodes:
                self.nodes[node] = Held(kinds(node))
            self.nodes[node].seconds += passed

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
    def node_seconds(self) -> float:
        """Seconds that machines had a worker, added up."""
        return sum(held.seconds for held in self.nodes.values())

    def cost(self, prices: Mapping[str, float]) -> float | None:
        """What the machines cost by prices an hour, the first that names a machine; None where none names it."""
        total = 0.0
        for held in self.nodes.values():
            price = next((price for kind, price in prices.items() if kind in held.kinds), None)
            if price is None:
                return None
            total += price * held.seconds / HOUR
        return total

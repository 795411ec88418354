"""How long a job held machines and workers, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic

HOUR = 3600.0


@dataclass
class Held:
    """A machine that workers of the job were on: all its names for what it is, and for how many seconds."""

    kinds: frozenset[str]
    seconds: float = 0.0


@dataclass
class Timesheet:
    """Machines by their ids, and the seconds of all workers, from when each had its place to its end."""

    nodes: dict[str, Held] = field(default_factory=dict)
    worker_seconds: float = 0.0
    _looked: float = field(default_factory=monotonic)

    def look(self, places: Iterable[str], kinds: Callable[[str], frozenset[str]]) -> None:
        """Add the time since the last look; ``places`` are the machines of the workers, one for each."""
        now, places = monotonic(), list(places)
        passed, self._looked = now - self._looked, now
        self.worker_seconds += passed * len(places)
        for node in set(places):
            if node not in self.nodes:
                self.nodes[node] = Held(kinds(node))
            self.nodes[node].seconds += passed

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

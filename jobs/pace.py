"""How fast a run goes, and when it will be through."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..cluster.timesheet import Timesheet

# Seconds of which the pace is taken: long beside one tile, short beside a run.
_WINDOW = 120.0
_MINUTE, _HOUR = 60, 3600
STEPS = "steps of blocks"
"""What is counted where blocks advance in lock-step: a block has as many as its schedule."""


@dataclass(frozen=True)
class Pulse:
    """How a run does: tiles, or what else it is ``of``, finished and left; its pace of late; who works."""

    tiles: int
    left: int
    calls: int
    tiles_per_second: float
    calls_per_second: float
    fill: float
    workers: int
    nodes: int
    of: str = "tiles"

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at this pace; None at none."""
        return self.left / self.tiles_per_second if self.tiles_per_second else None

    def __str__(self) -> str:
        return (
            f"{self.tiles_per_second:.3g} {self.of}/s, {self.calls_per_second:.3g} calls/s, "
            f"batches {self.fill:.0%} full, {counted(self.workers, 'worker')} on {counted(self.nodes, 'node')}"
        )

    def as_json(self) -> dict[str, Any]:
        """The pulse as plain JSON."""
        rates = {name: value if name == "of" else round(value, 4) for name, value in asdict(self).items()}
        return rates | {"seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1)}

    @classmethod
    def read(cls, stored: dict[str, Any]) -> Self:
        """What :meth:`as_json` made of one."""
        return cls(**{name: value for name, value in stored.items() if name != "seconds_left"})


class Pace:
    """Looks at a run now and then, and knows the pace since the looks of two minutes ago."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._looks: deque[tuple[float, int, int, int]] = deque()

    def pulse(self, now: float, timesheet: Timesheet, *, tiles: int, left: int, of: str = "tiles") -> Pulse:
        """Look: so many tiles are finished in this run, and left."""
        usage, present = timesheet.usage, timesheet.present
        self._looks.append((now, tiles, usage.calls, usage.offered))
        while len(self._looks) > 2 and now - self._looks[0][0] > _WINDOW:
            self._looks.popleft()
        since, tiles_then, calls_then, offered_then = self._looks[0]
        seconds, offered = max(now - since, 1e-3), usage.offered - offered_then
        return Pulse(
            tiles=tiles,
            left=left,
            calls=usage.calls,
            tiles_per_second=(tiles - tiles_then) / seconds,
            calls_per_second=(usage.calls - calls_then) / seconds,
            fill=(usage.calls - calls_then) / offered if offered else 0.0,
            workers=len(present),
            nodes=len({shift.node for shift in present}),
            of=of,
        )


def counted(count: int, thing: str) -> str:
    """So many things."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in the two largest units that it has."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"

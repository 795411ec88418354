"""What a worker does and has done: every second of it belongs to one activity."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from time import perf_counter


class Activity(StrEnum):
    """What a worker may be about; each is a field of :class:`Usage`.

    CHORES are tasks that are no tile: opening, surveying, publishing.
    """

    LOADING = "loading"
    READING = "reading"
    COMPUTING = "computing"
    WRITING = "writing"
    CHORES = "chores"
    WAITING = "waiting"


@dataclass
class Usage:
    """What a worker did: tiles, failed tries, network calls, the slots these could have filled, and its seconds."""

    tiles: int = 0
    failures: int = 0
    calls: int = 0
    offered: int = 0
    loading: float = 0.0
    reading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0
    chores: float = 0.0
    waiting: float = 0.0

    @property
    def fill(self) -> float:
        """The share of offered batch slots that held a tile."""
        return self.calls / self.offered if self.offered else 0.0

    @property
    def busy(self) -> float:
        """The seconds in which it did anything."""
        return self.loading + self.reading + self.computing + self.writing + self.chores

    def __add__(self, other: Usage) -> Usage:
        """What two workers did."""
        return Usage(*(getattr(self, own.name) + getattr(other, own.name) for own in fields(self)))


@dataclass(frozen=True)
class Doing:
    """What a worker is about, and for how many seconds; ``said`` is what its process logged in that time."""

    activity: Activity
    seconds: float
    said: str = ""


class Stopwatch:
    """Adds up what a worker does; it begins with loading its network."""

    def __init__(self) -> None:
        """Start the clock."""
        self.usage = Usage()
        self._at, self._since = Activity.LOADING, perf_counter()

    def turn(self, to: Activity) -> float:
        """Be about something else from now on; returns the time."""
        now, at = perf_counter(), self._at
        setattr(self.usage, at, getattr(self.usage, at) + now - self._since)
        self._at, self._since = to, now
        return now

    @property
    def doing(self) -> Doing:
        """What is being done; another thread may ask."""
        return Doing(self._at, perf_counter() - self._since)

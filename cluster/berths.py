"""Which numeric class of workers does which image, where a job takes workers of any.

An image is bound to a class when it starts, and nothing of it is ever done by another. So its bytes are those of a job
that had workers of this class alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from ..tiling.frontier import Pool
from .agenda import ASIDE, Agenda, Berth
from .classes import pool_of
from .crew import Crew, Hand

# Images at most that are opened and wait for workers of the class that they were begun with.
_PATIENT = 100


@dataclass
class _Team:
    """The workers of one class that can be given work."""

    workers: int = 0
    slots: int = 0


class Berths:
    """Binds images to the classes of a crew, so that all of these stay busy."""

    def __init__(
        self, crew: Crew, *, most: int, wait: float, say: Callable[[str], None], clock: Callable[[], float] = monotonic
    ) -> None:
        """For at most so many workers; after ``wait`` seconds without any of its class an image begins anew."""
        self._crew, self._most, self._wait, self._say, self._clock = crew, most, wait, say, clock
        self._began = clock()
        self._seen: dict[str, float] = {}
        self._stuck: Counter[str] = Counter()
        self._told: set[str] = set()

    def assign(self, agenda: Agenda) -> None:
        """Begin images, bind those that wait for workers, and say how many workers could be busy with all of them."""
        teams = self._look(agenda)
        ready = sum(team.workers for team in teams.values())
        patient = min(_PATIENT, sum(berth.began is not None for berth in agenda.waiting.values()))
        # Whoever comes finds an image to begin with.
        agenda.stock(ASIDE * max(1, ready) + max(0, self._most - ready) + patient)
        for image, berth in list(agenda.waiting.items()):
            if (pool := self._choose(agenda, teams, berth)) is not None:
                agenda.bind(image, self._crew.classes[pool], pool)
        self._crew.wanted = self._wanted(agenda)

    def _wanted(self, agenda: Agenda) -> Mapping[Pool, int]:
        # Whoever is of another class is of no use to an image that waits for its own.
        waits_for = (None if berth.began is None else pool_of(berth.began) for berth in agenda.waiting.values())
        wanted: Counter[Pool] = Counter({None: agenda.useful(1)})
        wanted.update(waits_for)
        wanted.update({pool: agenda.useful(self._crew.classes[pool].slots, pool) for pool in agenda.bound})
        return wanted

    def give_up(self, agenda: Agenda) -> None:
        """Let images that waited too long for workers of their class begin anew under another that has some."""
        if not self._look(agenda):
            return
        for pool in agenda.bound:
            if self._gone(pool):
                agenda.release(pool)

    def why(self) -> list[str]:
        """What images wait for whose class has no worker, a line each class."""
        return [
            f"{count} {'image' if count == 1 else 'images'} waiting for a worker of the numeric class begun with "
            f"({self._told_of(pool)}), of which there was none for {self._absent(pool):.0f} s: "
            f"after {self._wait:g} s begun anew under another"
            for pool, count in self._stuck.items()
        ]

    def _look(self, agenda: Agenda) -> dict[str, _Team]:
        """The classes that can be given work, and how many images wait for others."""
        for hand in self._crew.hands:
            if hand.pool is not None:
                self._seen[hand.pool] = self._clock()
                self._told.discard(hand.pool)
        teams: dict[str, _Team] = {}
        for hand in self._crew.ready:
            team = teams.setdefault(_own(hand), _Team())
            team.workers += 1
            team.slots += hand.slots
        wished = Counter(pool_of(berth.began) for berth in agenda.waiting.values() if berth.began is not None)
        wanted = agenda.bound + wished
        self._stuck = Counter({pool: count for pool, count in wanted.items() if self._absent(pool)})
        return teams

    def _choose(self, agenda: Agenda, teams: Mapping[str, _Team], berth: Berth) -> str | None:
        """The class that an image was begun with, or the one with the least to do; None where it has to wait."""
        if berth.began is not None:
            own = pool_of(berth.began)
            if own in teams:
                return own
            if not teams or not self._gone(own):
                return None
        hungry = [pool for pool, team in teams.items() if agenda.hungry(pool, slots=team.slots, workers=team.workers)]

        def busy(pool: str) -> float:
            tiles, aside = agenda.load(pool)
            return tiles / teams[pool].slots + aside / teams[pool].workers

        return min(hungry, key=busy, default=None)

    def _absent(self, pool: str) -> float:
        """Seconds for which no worker of a class was there; 0 where there is one."""
        return self._clock() - self._seen.get(pool, self._began) if pool not in self._there else 0.0

    @property
    def _there(self) -> set[Pool]:
        return {hand.pool for hand in self._crew.hands}

    def _gone(self, pool: str) -> bool:
        """Whether a class is waited for no more, which is said once."""
        if self._absent(pool) <= self._wait:
            return False
        if pool not in self._told:
            self._told.add(pool)
            self._say(
                f"there was no worker of the numeric class with {self._told_of(pool)} for {self._wait:g} s: "
                "images that were begun with it begin anew under another"
            )
        return True

    def _told_of(self, pool: str) -> str:
        """A class in words: what tells it from those that are there."""
        own, others = json.loads(pool), [json.loads(there) for there in self._there if there is not None]
        names = [name for name in own if any(other.get(name) != own[name] for other in others)]
        return ", ".join(f"{name}: {own[name]}" for name in names or ["device"])


def _own(hand: Hand) -> str:
    if hand.pool is None:
        raise ValueError(f"{hand.name} is of no class")
    return hand.pool

"""Workers that are none: the driver's own loop with as many of them as one likes, and no Ray between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from unittest.mock import patch

from tileloom.cluster import ray_executor
from tileloom.cluster.classes import Description
from tileloom.cluster.crew import Hand, Heard, Lost
from tileloom.cluster.executor import CrewSpec
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.cluster.tile_actor import Letter, Told
from tileloom.cluster.timesheet import Timesheet
from tileloom.cluster.usage import Usage
from tileloom.cluster.worker import Report, Ticket

AT_ONCE = 64
"""Workers that are heard in one look, as many as the crew on Ray hears."""


@dataclass(frozen=True)
class _Remote:
    remote: Callable[..., object]


class _Stub:
    """An actor that keeps its tickets until it is heard."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.give, self.advance = _Remote(self._give), _Remote(lambda: object())

    def _give(self, letter: Letter) -> object:
        self.tickets += letter.tickets
        return object()


class StubCrew:
    """What an executor needs of its crew, with stubs that settle whatever they were given."""

    def __init__(self, workers: int, settle: Callable[[Ticket], Report]) -> None:
        """So many workers of one slot."""
        self.description = Description({"device": "none"}, 1, 1, 0, None)
        self.timesheet, self.wanted, self.complete = Timesheet(), {None: workers}, True
        self.hands = [Hand(f"worker {at}", _Stub(), slots=1) for at in range(workers)]
        self._settle = settle
        self._turn = deque(self.hands)

    @property
    def ready(self) -> list[Hand]:
        """All of them, always."""
        return list(self.hands)

    favoured = ready

    def listen(self) -> Iterator[Heard | Lost]:
        """What those in turn have settled."""
        heard = list(islice((hand for hand in self._turn if hand.actor.tickets), AT_ONCE))
        self._turn.rotate(-AT_ONCE)
        for hand in heard:
            tickets, hand.actor.tickets = hand.actor.tickets, []
            call = next(call for call, (method, _) in hand.calls.items() if method == "advance")
            hand.calls.clear()
            yield Heard(hand, call, Told(Usage(), perf_counter(), [self._settle(ticket) for ticket in tickets]))

    def close(self) -> None:
        """Nothing was started."""


def stub_executor(workers: int, settle: Callable[[Ticket], Report]) -> RayExecutor:
    """The executor on Ray with stubs for its crew."""
    crew = StubCrew(workers, settle)
    with patch.object(ray_executor, "Crew", lambda *_, **__: crew):
        return RayExecutor(int, CrewSpec(workers))

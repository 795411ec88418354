"""Tiles on a Ray cluster: one loop that hands out keys, and never sees a pixel.

A hand (:class:`~tileloom.cluster.crew.Hand`) has tickets for all of its slots and some more in its mailbox, and
two calls of ``advance`` under way, so that it never waits for the loop.

A tile that was held by two hands when they died is a *suspect*, and runs alone from then on. Only what happens
to it alone counts as its own failure: its companions are spared, and no bytes depend on kills.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import ceil
from types import TracebackType
from typing import Any, Self, TypeVar

from ..tiling.access import ImagePlan
from ..tiling.frontier import Frontier, Item
from .crew import Crew, Hand, Lost
from .executor import Chore, CrewSpec, Description, ImageRun, RunReport, WorkFor, settle, ticket
from .tile_actor import RemoteTileActor
from .timesheet import Timesheet
from .worker import Outcome, Report, Usage

R = TypeVar("R")

# Calls under way at one hand: one computes, one waits behind it.
_CALLS = 2
# Tickets in a hand's mailbox beyond its slots, at most.
_AHEAD = 16
# Deaths of their hands, in company, after which tiles run alone.
_SUSPECT = 2
# Finished tiles of which is known who has them in its cache.
_REMEMBERED = 4096


class RayExecutor:
    """Workers on a Ray cluster, as a context: leaving it ends them."""

    def __init__(
        self,
        work_for: WorkFor,
        spec: CrewSpec,
        *,
        say: Callable[[str], None] = lambda _: None,
        actor: Any = RemoteTileActor,  # noqa: ANN401  Ray's classes have no type
    ) -> None:
        """Start the workers; ``say`` is told of losses and of waiting for room."""
        self._crew = Crew(work_for, spec, say=say, actor=actor)
        self._deaths: Counter[Item] = Counter()
        self._suspects: deque[Item] = deque()
        self._reserved: Hand | None = None
        self._trial: Item | None = None
        self._made_by: OrderedDict[Item, Hand] = OrderedDict()

    def __enter__(self) -> Self:
        """The executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers, and Ray if it was started for this job."""
        self._crew.close()

    @property
    def description(self) -> Description:
        """What every worker works with."""
        return self._crew.description

    @property
    def usage(self) -> Usage:
        """What the workers did, those that are gone included as far as they told."""
        return sum((hand.usage for hand in self._crew.hands), start=self._crew.gone)

    @property
    def timesheet(self) -> Timesheet:
        """How long machines and workers were held."""
        return self._crew.timesheet

    def open(self, images: Mapping[int, ImagePlan], *, settings: bytes) -> None:
        """Tell the workers of the images to come; ``settings`` is what else decides a tile's bytes."""
        self._crew.open(images, settings)

    def each(self, image: int, chores: Iterable[Chore[R]]) -> Iterator[R]:
        """What chores of an image come to, in their order; those of a lost worker are done again."""
        waiting = deque(enumerate(chores))
        going: dict[Any, tuple[int, Chore[R]]] = {}
        found: dict[int, R] = {}
        for at in range(len(waiting)):
            while at not in found:
                for hand in self._crew.ready:
                    while waiting and len(hand.calls) < _CALLS:
                        number, chore = waiting.popleft()
                        going[hand.call("do", image, chore)] = number, chore
                for event in self._crew.listen():
                    if isinstance(event, Lost):
                        waiting.extendleft(going.pop(call) for call in event.hand.calls if call in going)
                    elif event.call in going:
                        # A call of a run that has ended may still come back: it is nobody's any more.
                        found[going.pop(event.call)[0]] = event.told
            yield found.pop(at)

    def run(
        self, frontier: Frontier, images: Mapping[int, ImageRun], *, on_reports: Callable[[list[Report]], None]
    ) -> RunReport:
        """Hand out tiles, commit what comes back, until nothing is left or an image was stopped."""
        total = RunReport()
        self._deaths.clear()
        self._suspects.clear()
        self._reserved = self._trial = None
        while not frontier.idle or frontier.leased:
            held = sum(len(hand.held) for hand in self._crew.hands)
            self._crew.wanted = ceil((frontier.ready + held) / self.description.slots)
            self._hand_out(frontier, images)
            reports: list[Report] = []
            for event in self._crew.listen():
                if isinstance(event, Lost):
                    reports += self._lost(event, frontier)
                else:
                    reports += self._told(event.hand, event.told)
            settle(reports, frontier, images, total)
            on_reports(reports)
        return total

    def _told(self, hand: Hand, told: Any) -> list[Report]:  # noqa: ANN401  a Told, which the actor's module defines
        hand.usage = told.usage
        for report in told.reports:
            item = report.image, report.tile
            hand.held.discard(item)
            self._made_by[item] = hand
        while len(self._made_by) > _REMEMBERED:
            self._made_by.popitem(last=False)
        if hand is self._reserved and self._trial and not hand.held:
            self._reserved = self._trial = None
        return list(told.reports)

    def _lost(self, event: Lost, frontier: Frontier) -> list[Report]:
        """Take back what a hand held; what it died of is some tile's fault only where that was alone with it."""
        hand, trial = event.hand, self._trial
        if hand is self._reserved:
            self._reserved = self._trial = None
            # A hand that was dead before it took the ticket did not die of it.
            if trial and event.alone and not hand.under_way("give"):
                return [Report(*trial, Outcome.FAILED, reason=f"its worker died of it, alone: {event.reason}")]
        if event.alone:
            self._deaths.update(hand.held)
        frontier.give_back(hand.held)
        return []

    def _hand_out(self, frontier: Frontier, images: Mapping[int, ImageRun]) -> None:
        """Fill every hand's slots, then the mailboxes, and keep calls under way where there is something to do."""
        self._isolate(frontier, images)
        hands = [hand for hand in self._crew.favoured if hand is not self._reserved]
        given: dict[Hand, list[Item]] = {hand: [] for hand in hands}
        for ahead in (0, _AHEAD):
            if ahead and not (self._crew.complete and all(len(hand.held) >= hand.slots for hand in hands)):
                # Whoever comes, or has room, would look for the tickets in others' mailboxes.
                break
            room = {hand: hand.slots + min(ahead, hand.slots) - len(hand.held) for hand in hands}
            for item in frontier.take(sum(max(0, free) for free in room.values())):
                if self._deaths[item] >= _SUSPECT:
                    self._suspects.append(item)
                    continue
                hand = self._best(item, room, images)
                room[hand] -= 1
                hand.held.add(item)
                given[hand].append(item)
        for hand, items in given.items():
            self._send(hand, items, images)

    def _best(self, item: Item, room: Mapping[Hand, int], images: Mapping[int, ImageRun]) -> Hand:
        """The hand with a neighbour's pixels in its cache, if it has room and none is idle; else the emptiest."""
        image, tile = item
        idle = any(free > 0 and not hand.held for hand, free in room.items())
        for need in images[image].plan.needs(tile):
            hand = self._made_by.get((image, need))
            if hand and room.get(hand, 0) > 0 and (not idle or not hand.held):
                return hand
        return max(room, key=lambda hand: room[hand])

    def _isolate(self, frontier: Frontier, images: Mapping[int, ImageRun]) -> None:
        """Keep a hand free for the next suspect, and give it that once it is empty."""
        stopped = [item for item in self._suspects if frontier.stopped(item[0])]
        frontier.give_back(stopped)
        self._suspects = deque(item for item in self._suspects if item not in stopped)
        if self._suspects and self._reserved is None and self._crew.ready:
            self._reserved = min(self._crew.ready, key=lambda hand: len(hand.held))
        if self._reserved is None:
            return
        given: list[Item] = []
        if self._reserved.leaving is not None:
            if self._trial is None:
                self._reserved = None
            return
        if self._trial is None and not self._suspects:
            self._reserved = None
            return
        if self._trial is None and not self._reserved.held:
            self._trial = self._suspects.popleft()
            self._reserved.held.add(self._trial)
            given.append(self._trial)
        self._send(self._reserved, given, images)

    def _send(self, hand: Hand, items: list[Item], images: Mapping[int, ImageRun]) -> None:
        if items:
            hand.call("give", [ticket(item, images) for item in items])
        while hand.held and hand.under_way("advance") < min(_CALLS, len(hand.held)):
            hand.call("advance")

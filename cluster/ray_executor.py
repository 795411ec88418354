"""Tiles on a Ray cluster: one loop that hands out keys, and never sees a pixel.

A hand (:class:`~tileloom.cluster.crew.Hand`) has tickets for all of its slots and some more in its mailbox, and
two calls of ``advance`` under way, so that it never waits for the loop.

A tile that was held by two hands when they died is a *suspect*, and runs alone from then on. Only what happens
to it alone counts as its own failure: its companions are spared, and no bytes depend on kills.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heapify, heapreplace
from math import inf
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import Any, Self

import ray

from ..tiling.errors import TileloomError
from ..tiling.frontier import Frontier, Item, Pool
from .agenda import Agenda, Course, Errand
from .berths import Berths
from .classes import Description
from .crew import Crew, Hand, Heard, Lost
from .executor import Batches, CrewSpec, MakeWork, unheard
from .loom import Mail, Over, Share, Weave
from .metrics import Metrics
from .placement import Placement
from .tile_actor import Letter, RemoteTileActor, Told
from .timesheet import Timesheet
from .weaving import Weaving
from .worker import Outcome, Report

# Calls under way at one hand: one computes, one waits behind it.
_CALLS = 2
# Tickets in a hand's mailbox beyond its slots, at most.
_AHEAD = 16
# Deaths of their hands after which tiles and chores run alone, and deaths alone after which chores are given up.
_SUSPECT = 2
# Deaths of hands over a level that came no further in between, after which it is given up.
_STUCK = 5
# Stands for the deaths of hands that are forgiven, as one died of the tile alone.
_GUILTY = 1_000_000
# Seconds that blocks in lock-step wait for all workers that are wanted, once there is one.
_GATHER = 20.0
# Seconds in which those who held blocks have let go of them.
_PARTING = 3.0
# Finished tiles of which is known who has them in its cache.
_REMEMBERED = 4096


class RayExecutor:
    """Workers on a Ray cluster, as a context: leaving it ends them."""

    def __init__(
        self,
        make_work: MakeWork,
        spec: CrewSpec,
        *,
        batches: Batches = MappingProxyType({}),
        say: Callable[[str], None] = lambda _: None,
        actor: Any = RemoteTileActor,  # noqa: ANN401  Ray's classes have no type
    ) -> None:
        """Start the workers, with batches where these are known; ``say`` is told of losses and of waiting for room."""
        self._crew = Crew(make_work, spec, batches=batches, say=say, actor=actor)
        self._most, self._say = spec.workers, say
        self._berths = (
            Berths(self._crew, most=spec.workers, wait=spec.class_wait, say=say) if spec.classes == "any" else None
        )
        self._metrics = Metrics()
        self._deaths: Counter[Item] = Counter()
        self._suspects: deque[Item | Errand] = deque()
        self._reserved: Hand | None = None
        self._trial: Item | Errand | None = None
        self._made_by: OrderedDict[Item, Hand] = OrderedDict()
        self._errands: dict[Any, Errand] = {}
        self._placement: Placement[Hand] = Placement(_post, lambda hand: hand.actor)
        # Deaths of workers over a level since it last came further, and how far that is.
        self._doomed: dict[Weave, tuple[int, int]] = {}
        self._gathering: dict[Pool, float] = {}

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
        """What every worker works with; where they are of several classes, the first of them."""
        return self._crew.description

    @property
    def batches(self) -> Batches:
        """The batches of the workers, by their devices."""
        return self._crew.batches

    @property
    def complete(self) -> bool:
        """Whether every worker that the job asks for is there."""
        return self._crew.complete

    @property
    def timesheet(self) -> Timesheet:
        """What workers did, and how long they and their machines were held."""
        return self._crew.timesheet

    def why(self) -> list[str]:
        """What workers wait for, and images that wait for such as are not there, a line each."""
        images = self._berths.why() if self._berths else []
        return self._crew.why() + images + self._placement.why(lambda hand: hand.name)

    def run(
        self, courses: Iterable[Course], frontier: Frontier, *, on_reports: Callable[[list[Report]], None] = unheard
    ) -> None:
        """Do all that the courses of images ask for, tiles and chores; ``on_reports`` is told of settled tiles."""
        self._deaths.clear()
        self._suspects.clear()
        self._errands.clear()
        self._reserved = self._trial = None
        # What an earlier run left to its holders is over.
        self._placement.place((), ())
        self._doomed.clear()
        with Agenda(courses, frontier, on_reports) as agenda:
            while not agenda.over:
                self._admit(agenda)
                self._hand_out(agenda)
                self._weave(agenda)
                reports: list[Report] = []
                for event in self._crew.listen():
                    if isinstance(event, Lost):
                        reports += self._lost(event, agenda)
                    elif event.call in self._errands:
                        self._done(event, agenda)
                    elif isinstance(event.told, Told):
                        reports += self._told(event.hand, event.told)
                        # The blocks of one that leaves begin again elsewhere, whatever it still saves.
                        for weaving in agenda.woven(event.told.woven if event.hand.leaving is None else ()):
                            self._placement.settled(weaving)
                self.timesheet.late += agenda.settle(reports)
                if self._berths:
                    self._berths.give_up(agenda)
                self._forget(agenda)
                if self._metrics.due:
                    self._metrics.tell(self.timesheet, backlog=agenda.backlog)
                agenda.refuse_standstill()
        self._part()
        self._metrics.tell(self.timesheet, backlog=0)

    def _part(self) -> None:
        """Let whoever held blocks remove what it put aside, before it is ended."""
        self._placement.place((), ())
        calls = [call for hand in self._crew.ready for call, (method, _) in hand.calls.items() if method == "weave"]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_PARTING)

    def _weave(self, agenda: Agenda) -> None:
        """Give the blocks of levels in lock-step to hands, and have those go on that hold some."""
        for hand in [hand for hand in self._crew.hands if hand.leaving is not None]:
            self._placement.lost(hand)
        ready, now = self._crew.favoured, monotonic()
        # Blocks do not move to whoever comes later, so all that are wanted are waited for, but not for ever.
        self._gathering = {
            pool: self._gathering.get(pool, now) if any(hand.pool == pool for hand in ready) else now
            for pool in {weaving.pool for weaving in agenda.weavings}
            if self._gathers(pool, ready, agenda)
        }
        gathered = [hand for hand in ready if now - self._gathering.get(hand.pool, -inf) > _GATHER]
        self._placement.place(agenda.weavings, gathered, self._may_hold)
        for hand in self._placement.holders:
            if not hand.under_way("weave"):
                hand.call("weave")

    def _gathers(self, pool: Pool, ready: Sequence[Hand], agenda: Agenda) -> bool:
        """Whether more of a pool could come than are ready: as many as its blocks, where others leave them a place."""
        others = sum(hand.leaving is None and hand.pool not in (None, pool) for hand in self._crew.hands)
        slots = self._crew.classes.get(pool, self.description).slots
        could = min(self._most - others, agenda.useful(slots, pool))
        return sum(hand.pool == pool for hand in ready) < could

    def _admit(self, agenda: Agenda) -> None:
        """Begin images, and say how many workers could be busy with all that there is to do."""
        if self._berths:
            self._berths.assign(agenda)
            return
        slots = self.description.slots
        # As many images as all workers could be busy with, so that the backlog tells how many are wanted.
        agenda.admit(slots=slots * self._most, workers=len(self._crew.ready))
        for image in list(agenda.waiting):
            agenda.bind(image, self.description)
        self._crew.wanted = {None: agenda.useful(slots)}

    def _done(self, event: Heard, agenda: Agenda) -> None:
        errand = self._errands.pop(event.call)
        if errand is self._trial:
            self._reserved = self._trial = None
        if event.error is not None:
            agenda.failed(errand, event.error)
        else:
            agenda.did(errand, event.told.found)

    def _forget(self, agenda: Agenda) -> None:
        """Let the hands forget the images that have come to their end, and what of them was to run alone."""
        ended, agenda.ended = set(agenda.ended), []
        if self._trial and not agenda.wants(self._trial):
            self._reserved = self._trial = None
        for task in [task for task in self._suspects if not agenda.wants(task)]:
            self._suspects.remove(task)
            if isinstance(task, Errand):
                agenda.give_back(task)
        for item in [item for item in self._deaths if item[0] in ended]:
            del self._deaths[item]
        for hand in self._crew.ready if ended else ():
            hand.held = {item for item in hand.held if item[0] not in ended}
            if known := hand.images & ended:
                hand.images -= known
                hand.call("give", Letter((), {}, tuple(known)))

    def _told(self, hand: Hand, told: Told) -> list[Report]:
        for report in told.reports:
            item = report.image, report.tile
            hand.held.discard(item)
            self._made_by[item] = hand
            if report.outcome is Outcome.RETURNED and report.reason:
                self._say(f"{hand.name} could not save a tile before it went: {report.reason}")
        while len(self._made_by) > _REMEMBERED:
            self._made_by.popitem(last=False)
        if hand is self._reserved and self._trial and not hand.held:
            self._reserved = self._trial = None
        return list(told.reports)

    def _lost(self, event: Lost, agenda: Agenda) -> list[Report]:
        """Take back what a hand held; what it died of is some tile's fault only where that was alone with it."""
        hand, trial = event.hand, self._trial
        self._lost_blocks(event, agenda)
        errands = [self._errands.pop(call) for call in hand.calls if call in self._errands]
        blamed = False
        if hand is self._reserved:
            self._reserved = self._trial = None
            # A hand that was dead before it took the ticket did not die of it.
            blamed = trial is not None and event.alone and not hand.under_way("give")
        if blamed and isinstance(trial, tuple):
            self._crew.forgive(1 if self._deaths[trial] == _GUILTY else 1 + self._deaths[trial])
            self._deaths[trial] = _GUILTY
            reason = f"its worker died of it, alone: {event.reason}"
            return [Report(*trial, Outcome.FAILED, reason=reason, worker=hand.name)]
        for errand in errands:
            self._lost_errand(errand, event, agenda, blamed=blamed)
        if event.alone:
            self._deaths.update(hand.held)
        agenda.return_tiles(hand.held)
        return []

    def _lost_blocks(self, event: Lost, agenda: Agenda) -> None:
        """Give up a level of which workers die one after the other, alone with it, and it comes no further."""
        weaves = self._placement.held_by(event.hand)
        for weave in weaves if event.alone else ():
            before, came = self._doomed.get(weave, (0, -1)), self._placement.progress(weave)
            deaths = before[0] + 1 if came == before[1] else 1
            self._doomed[weave] = deaths, came
            if deaths >= _STUCK and len(weaves) == 1:
                self._crew.forgive(deaths)
                error = TileloomError(f"its workers died of it, alone, {deaths} times: {event.reason}")
                agenda.give_up(weave, error)
        self._placement.lost(event.hand)

    def _may_hold(self, hand: Hand, weaving: Weaving) -> bool:
        """Whether a hand may hold blocks of a level; one of which workers die is alone with its hands."""
        others = self._placement.held_by(hand) - {weaving.weave}
        doomed = {weave for weave, (deaths, _) in self._doomed.items() if deaths >= _SUSPECT}
        return hand.pool == weaving.pool and not (others & doomed or (others and weaving.weave in doomed))

    def _lost_errand(self, errand: Errand, event: Lost, agenda: Agenda, *, blamed: bool) -> None:
        """Have a chore done again, alone where its workers die; give it up if they die of it twice."""
        errand.deaths += event.alone
        if blamed:
            self._crew.forgive(1 if errand.faults else errand.deaths)
            errand.faults += 1
        if errand.faults >= _SUSPECT:
            error = TileloomError(f"its workers died of it, alone, {errand.faults} times: {event.reason}")
            agenda.failed(errand, error)
        elif errand.deaths >= _SUSPECT:
            self._suspects.append(errand)
        else:
            agenda.give_back(errand)

    def _hand_out(self, agenda: Agenda) -> None:
        """Give chores, fill every hand's slots, then the mailboxes; keep calls under way where there is work."""
        self._send_errands(agenda)
        self._isolate(agenda)
        given: dict[Hand, list[Item]] = {hand: [] for hand in self._crew.ready if hand is not self._reserved}
        pools: dict[Pool, list[Hand]] = {}
        for hand in self._crew.favoured:
            if hand is not self._reserved:
                pools.setdefault(hand.pool, []).append(hand)
        for pool, hands in pools.items():
            for item, hand in self._dealt(pool, hands, agenda):
                given[hand].append(item)
        for hand, items in given.items():
            self._send(hand, items, agenda)

    def _dealt(self, pool: Pool, hands: Sequence[Hand], agenda: Agenda) -> Iterator[tuple[Item, Hand]]:
        """The tiles of a pool, each with the hand that is to have it."""
        for ahead in (0, _AHEAD):
            if ahead and not (self._crew.complete and all(len(hand.held) >= hand.slots for hand in hands)):
                # Whoever comes, or has room, would look for the tickets in others' mailboxes.
                return
            room = _Room(hands, ahead)
            for item in agenda.take(room.places, pool):
                if self._deaths[item] >= _SUSPECT:
                    self._suspects.append(item)
                    continue
                hand = self._best(item, room, agenda)
                room.fill(hand, item)
                yield item, hand

    def _send_errands(self, agenda: Agenda) -> None:
        """Every hand has a chore or two, as long as there are any."""
        spent: set[Pool] = set()
        for hand in sorted(self._crew.favoured, key=lambda hand: len(hand.calls)):
            while hand.pool not in spent and hand is not self._reserved and hand.under_way("do") < _CALLS:
                if (errand := agenda.errand(hand.pool)) is None:
                    spent.add(hand.pool)
                else:
                    self._call(hand, errand)

    def _best(self, item: Item, room: _Room, agenda: Agenda) -> Hand:
        """The hand with a neighbour's pixels in its cache, if it has room and none is idle; else the emptiest."""
        image, tile = item
        for need in agenda.tiles(image).plan.needs(tile):
            hand = self._made_by.get((image, need))
            if hand and room.free.get(hand, 0) > 0 and (not room.idle or not hand.held):
                return hand
        return room.emptiest

    def _isolate(self, agenda: Agenda) -> None:
        """Keep a hand free for the next suspect, and give it that once it is empty."""
        if self._suspects and self._reserved is None:
            fit = (hand for hand in self._crew.ready if self._next_suspect(hand, agenda))
            self._reserved = min(fit, key=lambda hand: len(hand.held), default=None)
        if self._reserved is None:
            return
        suspect = self._next_suspect(self._reserved, agenda)
        if self._trial is None and (suspect is None or self._reserved.leaving is not None):
            self._reserved = None
            return
        if self._trial is None and suspect and not self._reserved.held and not self._reserved.under_way("do"):
            self._suspects.remove(suspect)
            self._trial = suspect
            if isinstance(self._trial, Errand):
                self._call(self._reserved, self._trial)
                return
            self._reserved.held.add(self._trial)
            self._send(self._reserved, [self._trial], agenda)
            return
        self._send(self._reserved, [], agenda)

    def _next_suspect(self, hand: Hand, agenda: Agenda) -> Item | Errand | None:
        """The first of the tasks to be run alone that a hand may do."""
        return next((task for task in self._suspects if agenda.may(hand.pool, task)), None)

    def _call(self, hand: Hand, errand: Errand) -> None:
        if errand.brief:
            # Whoever does a chore of an image keeps that open, as with tiles, until it has come to its end.
            hand.images.add(errand.image)
        self._errands[hand.call("do", errand.image, errand.task, errand.brief)] = errand

    def _send(self, hand: Hand, items: list[Item], agenda: Agenda) -> None:
        if items:
            new = {image for image, _ in items} - hand.images
            hand.images |= new
            briefs = {image: agenda.tiles(image).brief for image in new}
            hand.call("give", Letter([agenda.ticket(item) for item in items], briefs))
        while hand.held and hand.under_way("advance") < min(_CALLS, len(hand.held)):
            hand.call("advance")


def _post(hand: Hand, mail: Mail) -> None:
    if isinstance(mail, Share):
        # Whoever holds blocks of an image keeps that open, as with tiles, until it has come to its end.
        hand.images.add(mail.weave[0])
    hand.call("post", mail)
    if isinstance(mail, Over):
        # Nothing else would have it look, and let go of what it holds.
        hand.call("weave")


class _Room:
    """Places that hands have for tickets; the emptiest hand is found at once, however many there are."""

    def __init__(self, hands: Sequence[Hand], ahead: int) -> None:
        """All slots, and so many places of the mailboxes."""
        room = ((hand, hand.slots + min(ahead, hand.slots) - len(hand.held)) for hand in hands)
        self.free = {hand: free for hand, free in room if free > 0}
        self.places = sum(self.free.values())
        self.idle = sum(not hand.held for hand in self.free)
        # Numbered, as hands have no order of their own; what is out of date is skipped when it comes up.
        self._heap = [(-free, number, hand) for number, (hand, free) in enumerate(self.free.items())]
        heapify(self._heap)

    @property
    def emptiest(self) -> Hand:
        """The hand with the most places, of several the first."""
        while -self._heap[0][0] != self.free[self._heap[0][2]]:
            _, number, hand = self._heap[0]
            heapreplace(self._heap, (-self.free[hand], number, hand))
        return self._heap[0][2]

    def fill(self, hand: Hand, item: Item) -> None:
        """Let a hand hold a tile."""
        self.idle -= not hand.held
        self.free[hand] -= 1
        hand.held.add(item)

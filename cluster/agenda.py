"""What is to be done next, over many images at once: pure bookkeeping, for whoever has workers.

An image's way through a run is a *course*: a generator that yields what is to be done for the image next, and is
resumed with what that came to. Chores of some images and tiles of others are so done side by side, and a course still
reads as if its image were alone. An error is raised inside the course of the image that it concerns; what a course
lets pass ends the run.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tiling.errors import TileFailed, TileloomError
from ..tiling.frontier import Frontier, Item, Pool, Verdict
from ..tiling.ledger import Entry, Ledger, Status
from ..tiling.paused import drop_paused
from ..tiling.plan import WeavePlan
from .loom import Weave, Woven
from .weaving import Lockstep, Weaving
from .worker import Brief, Outcome, Prior, Report, RunReport, Ticket

Chore = Callable[..., Any]
"""A task of an image that is no tile: opening, surveying, publishing. It is picklable, and may be done twice."""

ASIDE = 2
"""Images that are opened or published at a time, for every worker."""


class ClassGone(TileloomError):
    """The workers that an image was bound to are gone: it may be bound to others, and then begins anew."""


@dataclass(frozen=True)
class Berth:
    """Workers of one numeric class, for all that the image asks for from then on: resumed with what they work with.

    ``began`` is the class that it was begun with, if it was.
    """

    began: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Chores:
    """Tasks that may be done side by side: resumed with what they come to, in their order.

    With a ``brief`` each is called with the image opened. ``told`` hears of each as it is done. ``anywhere``: they
    make no pixel of a result, so that workers of any class may do them.
    """

    tasks: Sequence[Chore]
    brief: Brief | None = None
    told: Callable[[Any], None] = lambda _: None
    anywhere: bool = False


@dataclass(eq=False)
class Tiles:
    """The tiles of an image, a :class:`~tileloom.tiling.frontier.TileState` each: resumed with a :class:`RunReport`.

    Every tile that is settled is committed to the ledger; ``priors`` tells what earlier generations made of one,
    ``paused`` are the hashes of those that were saved on their way.
    """

    brief: Brief
    ledger: Ledger
    states: NDArray[np.uint8]
    degraded: set[int] = field(default_factory=set)
    priors: Callable[[int], tuple[Prior, ...]] = lambda _: ()
    paused: dict[int, str] = field(default_factory=dict)

    @property
    def plan(self) -> WeavePlan:
        """The order of the tiles."""
        return self.brief.plan.plan

    def note_saved(self, reports: Iterable[Report]) -> None:
        """Keep in mind what is saved of paused tiles, and remove what was saved of those that need it no more."""
        for report in reports:
            if report.outcome in (Outcome.BROKEN, Outcome.RETURNED):
                continue
            before = self.paused.pop(report.tile, "")
            if report.outcome is Outcome.PAUSED:
                self.paused[report.tile] = report.output
            if before and before != self.paused.get(report.tile):
                drop_paused(self.brief.plan.root, report.tile, before)


Step = Berth | Chores | Tiles | Lockstep
Course = Generator[Step, Any, None]


@dataclass(eq=False)
class Errand:
    """One chore on its way, of the image with this number; workers that died over it, and of it, alone with it.

    Those of its ``pool`` may do it, and all where that is None.
    """

    image: int
    task: Chore
    brief: Brief | None
    pool: Pool
    _step: _ChoresLeft
    _at: int
    deaths: int = 0
    faults: int = 0


@dataclass(eq=False)
class _ChoresLeft:
    """Chores under way: what they came to so far, and how many are left."""

    chores: Chores
    found: list[Any]
    left: int


@dataclass(eq=False)
class _TilesLeft:
    tiles: Tiles
    report: RunReport = field(default_factory=RunReport)


@dataclass(eq=False)
class _UnderWay:
    course: Course
    step: _ChoresLeft | _TilesLeft | Weaving | None = None
    pool: Pool = None

    @property
    def waits_for(self) -> Pool:
        """The workers without whom it does not go on; None where all are alike to it."""
        return None if isinstance(self.step, _ChoresLeft) and self.step.chores.anywhere else self.pool


class Agenda:
    """The courses under way, as a context: leaving it closes them."""

    def __init__(
        self, courses: Iterable[Course], frontier: Frontier, on_reports: Callable[[list[Report]], None]
    ) -> None:
        """Nothing is begun yet; the tiles of all courses go through one frontier.

        ``on_reports`` is told of settled tiles once they are committed, and that it is so where there are none.
        """
        self._coming: Iterator[Course] | None = iter(courses)
        self._frontier = frontier
        self._on_reports = on_reports
        self._under_way: dict[int, _UnderWay] = {}
        self._errands: defaultdict[Pool, deque[Errand]] = defaultdict(deque)
        self._sent: Counter[Pool] = Counter()
        self._begun = 0
        self.waiting: dict[int, Berth] = {}
        """Images that wait for workers, in the order in which they began; whoever has workers binds them."""
        self.ended: list[int] = []
        """Images that have come to their end and of which workers still know; whoever has workers empties it."""

    def __enter__(self) -> Self:
        """The agenda."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what is under way, so that locks are let go."""
        with ExitStack() as stack:
            for at in self._under_way.values():
                stack.callback(at.course.close)

    @property
    def over(self) -> bool:
        """Whether every course has come to its end."""
        return self._coming is None and not self._under_way

    @property
    def backlog(self) -> int:
        """Tiles and chores that could be done now if somebody were free."""
        return self._frontier.ready + sum(map(len, self._errands.values()))

    @property
    def bound(self) -> Counter[str]:
        """How many images wait for workers of a pool, or are worked at by them."""
        return Counter(pool for at in self._under_way.values() if (pool := at.waits_for) is not None)

    def useful(self, slots: int, pool: Pool = None) -> int:
        """How many workers of a pool, with so many slots, could be busy now with tiles and chores."""
        tiles, chores = self._frontier.load(pool), len(self._errands[pool]) + self._sent[pool]
        # A worker does its chores one by one, however many tiles it has room for.
        return ceil(tiles / slots) + ceil(chores / ASIDE) + self._blocks(pool)

    @property
    def weavings(self) -> list[Weaving]:
        """The levels under way in lock-step."""
        return [at.step for at in self._under_way.values() if isinstance(at.step, Weaving)]

    def _blocks(self, pool: Pool) -> int:
        """The blocks in lock-step that a pool has not finished."""
        return sum(len(weaving.left) for weaving in self.weavings if weaving.pool == pool)

    def load(self, pool: Pool) -> tuple[int, int]:
        """What there is to do for a pool: tiles that could be done, and images that are opened or published."""
        steps = [at.step for at in self._under_way.values() if at.pool == pool]
        return self._frontier.load(pool), sum(not isinstance(step, _TilesLeft | Weaving) for step in steps)

    def hungry(self, pool: Pool, *, slots: int, workers: int) -> bool:
        """Whether what there is to do for a pool could not keep so many slots busy."""
        tiles, aside = self.load(pool)
        enough = tiles >= 2 * slots or self._blocks(pool) >= 2 * max(1, workers)
        return not enough and aside < ASIDE * max(1, workers)

    def admit(self, *, slots: int, workers: int) -> None:
        """Begin courses as long as those under way could not keep so many slots busy."""
        self._begin_while(partial(self.hungry, None, slots=slots, workers=workers))

    def stock(self, images: int) -> None:
        """Begin courses until so many are bound to no workers."""
        self._begin_while(lambda: sum(at.pool is None for at in self._under_way.values()) < images)

    def _begin_while(self, wanted: Callable[[], bool]) -> None:
        while self._coming is not None and wanted():
            course = next(self._coming, None)
            if course is None:
                self._coming = None
                return
            number = self._begun
            self._begun += 1
            self._under_way[number] = _UnderWay(course)
            self._go_on(number, partial(next, course))

    def bind(self, image: int, work: object, pool: Pool = None) -> None:
        """Give a waiting image its workers: those of a pool, or all; its course is told what they work with."""
        del self.waiting[image]
        self._under_way[image].pool = pool
        self._resume(image, work)

    def release(self, pool: str) -> None:
        """The workers of a pool are gone: the courses of all images that need them learn so."""
        for image, at in list(self._under_way.items()):
            if at.waits_for == pool:
                at.pool = None
                self.ended.append(image)
                self._raise(image, ClassGone("the workers that it was bound to are gone"))

    def errand(self, pool: Pool = None) -> Errand | None:
        """The next chore for one of a pool, if there is one."""
        queue = self._errands[pool] or self._errands[None]
        if not queue:
            return None
        errand = queue.popleft()
        self._sent[errand.pool] += 1
        return errand

    def give_back(self, errand: Errand) -> None:
        """A chore was not done; it comes first again."""
        self._sent[errand.pool] -= 1
        if self._current(errand):
            self._errands[errand.pool].appendleft(errand)

    def did(self, errand: Errand, found: Any) -> None:  # noqa: ANN401  whatever the chore finds
        """A chore is done."""
        self._sent[errand.pool] -= 1
        if not self._current(errand):
            return
        step = errand._step
        step.found[errand._at] = found
        step.left -= 1
        try:
            step.chores.told(found)
        except (TileloomError, OSError) as error:
            self._raise(errand.image, error)
            return
        if not step.left:
            self._resume(errand.image, step.found)

    def failed(self, errand: Errand, error: Exception) -> None:
        """A chore raised an error, which its course learns of; its other chores are called off."""
        self._sent[errand.pool] -= 1
        if self._current(errand):
            self._raise(errand.image, error)

    def wants(self, task: Item | Errand) -> bool:
        """Whether anybody still waits for what was handed out."""
        return self._current(task) if isinstance(task, Errand) else self.knows(task[0])

    def may(self, pool: Pool, task: Item | Errand) -> bool:
        """Whether one of a pool may do what was handed out and is waited for."""
        needed = task.pool if isinstance(task, Errand) else self._under_way[task[0]].pool
        return needed in (None, pool)

    def _current(self, errand: Errand) -> bool:
        at = self._under_way.get(errand.image)
        return at is not None and at.step is errand._step

    def take(self, n: int, pool: Pool = None) -> list[Item]:
        """Up to ``n`` tiles that can be restored now by those of a pool, leased."""
        return self._frontier.take(n, pool=pool)

    def return_tiles(self, items: Iterable[Item]) -> None:
        """Leased tiles that were not worked to an end."""
        returned = list(items)
        self._frontier.give_back(returned)
        for image in {image for image, _ in returned if self.knows(image)}:
            self._tiles_settled(image)

    def knows(self, image: int) -> bool:
        """Whether the image has tiles under way."""
        at = self._under_way.get(image)
        return at is not None and isinstance(at.step, _TilesLeft)

    def tiles(self, image: int) -> Tiles:
        """The tiles under way of an image."""
        return self._tiles_left(image).tiles

    def _tiles_left(self, image: int) -> _TilesLeft:
        step = self._under_way[image].step
        if isinstance(step, _TilesLeft):
            return step
        raise ValueError(f"image {image} has no tiles under way")

    def ticket(self, item: Item) -> Ticket:
        """What a worker is told of a tile."""
        image, tile = item
        tiles = self.tiles(image)
        lost = tuple(other for other in tiles.plan.reads(tile) if other in tiles.degraded) if tiles.degraded else ()
        return Ticket(image, tile, lost, tiles.priors(tile), tiles.paused.get(tile, ""))

    def settle(self, reports: list[Report]) -> int:
        """Commit settled tiles, then free their dependants, so that none starts on what could be lost.

        Returns how many came too late: of an image that has ended, workers may still finish what they had begun.
        """
        groups: dict[int, list[Report]] = {}
        known = [report for report in reports if self.knows(report.image)]
        for report in known:
            groups.setdefault(report.image, []).append(report)
        broken = {image: self._committed(self._tiles_left(image), group) for image, group in groups.items()}
        self._on_reports(known)
        for image, error in broken.items():
            if error is not None:
                self._raise(image, error)
            else:
                self._tiles_settled(image)
        return len(reports) - len(known)

    def _committed(self, step: _TilesLeft, group: Sequence[Report]) -> Exception | None:
        """Commit what an image's tiles came to; the error that keeps the image from going on, if there is one."""
        try:
            self._commit(step, group)
        except (TileloomError, OSError) as error:
            return error
        return next((report.error for report in group if report.error is not None), None)

    def _commit(self, step: _TilesLeft, group: Sequence[Report]) -> None:
        entries: list[Entry] = []
        finished: list[Item] = []
        returned: list[Item] = []
        for report in group:
            item = (report.image, report.tile)
            step.report.calls += report.calls
            step.report.spared += report.spared
            if report.finished:
                step.report.done += report.outcome is Outcome.DONE
                step.report.inherited += report.outcome is Outcome.INHERITED
                entries.append(Entry(report.tile, Status.DONE, report.inputs, report.output))
                finished.append(item)
            elif report.outcome is Outcome.FAILED:
                step.report.failures += 1
                if self._frontier.failed(item, report.reason) is Verdict.DEGRADED:
                    step.report.degraded += 1
                    step.tiles.degraded.add(report.tile)
                    entries.append(Entry(report.tile, Status.DEGRADED, reason=report.reason))
            elif report.outcome is not Outcome.BROKEN:
                returned.append(item)
                if report.outcome is Outcome.PAUSED:
                    step.report.paused += 1
                    entries.append(Entry(report.tile, Status.PAUSED, report.inputs, report.output))
        if entries:
            step.tiles.ledger.commit(entries)
        step.tiles.note_saved(group)
        self._frontier.give_back(returned)
        self._frontier.done(finished)

    def _tiles_settled(self, image: int) -> None:
        if stopped := self._frontier.stopped(image):
            # What is under way is not lost.
            if not self._frontier.busy(image):
                self._raise(image, TileFailed(stopped))
        elif self._frontier.finished(image):
            step = self._tiles_left(image)
            self._frontier.drop(image)
            self._resume(image, step.report)

    def woven(self, news: Iterable[Woven]) -> list[Weaving]:
        """Commit what workers did for levels in lock-step; tells those of which a later step now is settled.

        What comes of a level that is over is ignored: it is the same once more.
        """
        settled = []
        for told in news:
            image = told.weave[0]
            weaving = self._under_way[image].step if image in self._under_way else None
            if not isinstance(weaving, Weaving) or weaving.weave != told.weave:
                continue
            try:
                if weaving.heard(told):
                    settled.append(weaving)
            except (TileloomError, OSError) as error:
                self._raise(image, error)
            else:
                if not weaving.left:
                    self._resume(image, weaving.report)
        self._on_reports([])
        return settled

    def give_up(self, weave: Weave, error: Exception) -> None:
        """A level in lock-step cannot be gone on with, which its course learns of."""
        if any(weaving.weave == weave for weaving in self.weavings):
            self._raise(weave[0], error)

    def refuse_standstill(self) -> None:
        """Raise where courses are left and nothing can be done for any: they would wait for ever."""
        idle = not (self.waiting or self.backlog or self._sent.total() or self._frontier.leased or self.weavings)
        if self._under_way and idle:
            names = [
                at.step.tiles.brief.plan.name for at in self._under_way.values() if isinstance(at.step, _TilesLeft)
            ]
            raise TileloomError(f"nothing can be done for {', '.join(names)}, and tiles are left")

    def _resume(self, image: int, found: Any) -> None:  # noqa: ANN401  whatever the step came to
        course = self._under_way[image].course
        self._go_on(image, partial(course.send, found))

    def _raise(self, image: int, error: Exception) -> None:
        course, step = self._under_way[image].course, self._under_way[image].step
        if isinstance(step, _TilesLeft):
            self._frontier.drop(image)
        for pool, queue in self._errands.items():
            self._errands[pool] = deque(errand for errand in queue if errand.image != image)
        self._go_on(image, partial(course.throw, error))

    def _go_on(self, image: int, resume: Callable[[], Step]) -> None:
        """Let a course say what is next, until that is something to be waited for."""
        at = self._under_way[image]
        at.step = None
        try:
            asked = resume()
        except StopIteration:
            del self._under_way[image]
            self.ended.append(image)
            return
        except BaseException:
            del self._under_way[image]
            raise
        if isinstance(asked, Lockstep):
            at.step = Weaving(image, asked, at.pool)
            return
        if isinstance(asked, Berth):
            self.waiting[image] = asked
            return
        if isinstance(asked, Tiles):
            at.step = _TilesLeft(asked)
            self._frontier.add(asked.brief.plan.name, asked.plan, state=asked.states, number=image, pool=at.pool)
            self._tiles_settled(image)
            return
        at.step = step = _ChoresLeft(asked, [None] * len(asked.tasks), len(asked.tasks))
        pool = at.waits_for
        self._errands[pool].extend(
            Errand(image, task, asked.brief, pool, step, n) for n, task in enumerate(asked.tasks)
        )
        if not asked.tasks:
            self._resume(image, [])

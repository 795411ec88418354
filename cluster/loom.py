"""A worker's part in lock-step: takes its blocks round by round, and trades halos with the workers of the others.

A halo is keyed by (round, from, to): it may come twice, or long before it is needed. Those that went to other
workers are kept until every block of the level has committed a later step, so that a lost block's new holder can be
sent them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..tiling.access import ImageAccess
from ..tiling.errors import TileFailed, TileloomError, lacks_memory
from ..tiling.frontier import Frontier, Item, TileState
from ..tiling.lockstep import AHEAD, TOGETHER, Lattice, LockstepPlan
from ..tiling.work import Block, BlockWork, Strip
from .shelf import Shelf
from .usage import Activity
from .worker import Brief, Worker

Weave = tuple[int, int]
"""(image, level)."""
TELL_SECONDS = 1.0
"""After so many seconds a worker tells how far it is, if there was nothing to tell before."""


@dataclass(frozen=True)
class Share:
    """Blocks of a level that a worker is to hold from ``step`` on, which all have committed, or from noise at 0.

    ``holders`` says for every block of the level who holds it, of ``peers``; ``every`` so many steps all are saved.
    """

    weave: Weave
    brief: Brief
    blocks: Sequence[int]
    step: int
    every: int
    holders: Mapping[int, int]
    peers: Mapping[int, Any]


@dataclass(frozen=True)
class Moved:
    """Lost blocks have new holders, who need what was sent to the old ones."""

    weave: Weave
    holders: Mapping[int, int]
    peers: Mapping[int, Any]


@dataclass(frozen=True)
class Settled:
    """All blocks of a level have committed a step."""

    weave: Weave
    step: int


@dataclass(frozen=True)
class Over:
    """A level has come to its end, whatever that is."""

    weave: Weave


@dataclass(frozen=True)
class Halo:
    """What a block came to in the round before this one, as far as its neighbours need it, by their numbers."""

    weave: Weave
    round: int
    source: int
    strips: Mapping[int, Strip]

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels."""
        return sum(part.nbytes for strip in self.strips.values() for part in strip)


Mail = Share | Moved | Settled | Over | Halo


@dataclass
class Woven:
    """What a worker did for a level since it last told: blocks saved at a step, finished with the hash of theirs.

    ``reached`` are the steps that blocks have behind them, ``calls`` windows shown to the network, ``sent`` bytes
    of halos.
    """

    weave: Weave
    saved: list[tuple[int, int]] = field(default_factory=list)
    finished: list[tuple[int, str]] = field(default_factory=list)
    error: Exception | None = None
    reached: dict[int, int] = field(default_factory=dict)
    calls: int = 0
    sent: int = 0

    @property
    def urgent(self) -> bool:
        """Whether others wait for it."""
        return bool(self.saved or self.finished or self.error)


@dataclass(eq=False)
class _Held:
    """A level of which a worker holds blocks; ``at`` is the last round of each, those before ``step`` counted."""

    share: Share
    lattice: Lattice
    plan: LockstepPlan
    first_tile: int
    step: int
    told: Woven
    holders: dict[int, int]
    peers: dict[int, Any]
    at: dict[int, int] = field(default_factory=dict)
    inbox: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    kept: set[tuple[int, int, int]] = field(default_factory=set)
    early: list[Item] = field(default_factory=list)
    queue: int = -1
    broken: bool = False

    def fail(self, error: Exception) -> None:
        """Advance no further, and tell why."""
        self.broken, self.told.error = True, error


def _told_of(error: Exception, block: Block) -> Exception:
    """What is told of an error that ended a block's level."""
    if isinstance(error, TileloomError | OSError):
        return error
    return TileFailed(f"block {block.inputs.key} failed: {type(error).__name__}: {error}".removesuffix(": "))


def alone(peer: Any, halo: Halo) -> None:  # noqa: ANN401  whatever stands for a worker
    """Send nothing: a worker that holds all blocks has nobody to send to."""
    raise ValueError("a worker that holds all blocks sends no halos")


class Loom:
    """Holds blocks of any number of levels, and advances those whose neighbours have come as far."""

    def __init__(self, worker: Worker[Any], send: Callable[[Any, Halo], None] = alone) -> None:
        """Hold nothing yet; ``send`` hands a halo to a peer and never waits."""
        # Whoever begins a level in lock-step has made the worker with a work for it.
        self._work = cast(BlockWork, worker.work)
        self._worker, self._watch, self._send = worker, worker.watch, send
        self._frontier = Frontier()
        self._mailbox: SimpleQueue[Mail] = SimpleQueue()
        self._held: dict[Weave, _Held] = {}
        self._by_queue: dict[int, _Held] = {}
        self._over: set[Weave] = set()
        self._strange: dict[Weave, list[Halo]] = {}

    @cached_property
    def _shelf(self) -> Shelf:
        return Shelf(self._work.room)

    def post(self, mail: Mail) -> None:
        """Put something where it is found before the next round; any thread may."""
        self._mailbox.put(mail)

    @property
    def busy(self) -> bool:
        """Whether it holds blocks, or is about to."""
        return bool(self._held) or not self._mailbox.empty()

    def advance(self, seconds: float) -> list[Woven]:
        """Take blocks further until there is something to tell that others wait for, or so many seconds are over."""
        until = monotonic() + seconds
        try:
            while True:
                self._read_mail(0.0)
                if not self._advanced():
                    if not self._held:
                        return []
                    self._watch.turn(Activity.WAITING)
                    self._read_mail(max(0.0, until - monotonic()))
                if monotonic() >= until or any(held.told.urgent for held in self._held.values()):
                    return self._told()
        finally:
            self._watch.turn(Activity.WAITING)

    def _told(self) -> list[Woven]:
        news = [held for held in self._held.values() if held.told.urgent or held.told.reached]
        told = [held.told for held in news]
        for held in news:
            held.told = Woven(held.share.weave)
        return told

    def _read_mail(self, patience: float) -> None:
        """All that has come; where nothing has, what comes first within so many seconds."""
        try:
            if patience:
                self._read(self._mailbox.get(timeout=patience))
            while True:
                self._read(self._mailbox.get_nowait())
        except Empty:
            return

    def _read(self, mail: Mail) -> None:
        try:
            self._heed(mail)
        except (TileloomError, OSError) as error:
            # Of one level, which there is no going on with here.
            if mail.weave not in self._held:
                raise
            self._held[mail.weave].fail(error)

    def _heed(self, mail: Mail) -> None:
        if isinstance(mail, Share):
            self._hold(mail)
        elif isinstance(mail, Halo) and mail.weave not in self._held:
            # Of another worker that was told sooner; or, of a level that is over, too late.
            if mail.weave not in self._over:
                self._strange.setdefault(mail.weave, []).append(mail)
        elif isinstance(mail, Over):
            self._forget(mail.weave)
        elif held := self._held.get(mail.weave):
            if isinstance(mail, Halo):
                self._received(held, mail)
            elif isinstance(mail, Settled):
                self._settled(held, mail.step)
            else:
                self._moved(held, mail)

    def _hold(self, share: Share) -> None:
        """Take over blocks, beside those of the level that are held already."""
        held = self._held.get(share.weave)
        if held is None:
            plan, level = share.brief.plan, share.weave[1]
            lattice = plan.lattices[level]
            steps = lattice.plan(self._work.steps, self._work.phases)
            held = _Held(share, lattice, steps, plan.plan.tiles(level).start, share.step, Woven(share.weave), {}, {})
            self._held[share.weave] = held
            self._over.discard(share.weave)
        held.holders, held.peers = dict(share.holders), dict(share.peers)
        held.at |= dict.fromkeys(share.blocks, share.step * self._work.phases - 1)
        for key in [key for key in held.kept if key[2] in held.at]:
            held.kept.remove(key)
            self._keep(held, *key, self._shelf.take(("kept", share.weave, *key)))
        self._queue(held)
        for halo in self._strange.pop(share.weave, ()):
            self._received(held, halo)
        self._settled(held, share.step)

    def _access(self, held: _Held) -> ImageAccess:
        """The image, opened anew where it was closed: an earlier run's image of this number may end late."""
        image = held.share.weave[0]
        self._worker.open(image, held.share.brief)
        return self._worker.access(image)

    def _queue(self, held: _Held) -> None:
        """Queue the rounds that the blocks have before them, as far as it is known what their neighbours came to."""
        if held.queue >= 0:
            self._frontier.drop(held.queue)
            del self._by_queue[held.queue]
            held.early.clear()
        state = self._states(held)
        held.queue = self._frontier.add(f"level {held.share.weave[1]}", held.plan, state=state)
        self._by_queue[held.queue] = held

    def _states(self, held: _Held) -> NDArray[np.uint8]:
        plan = held.plan
        states = np.full((plan.rounds, held.lattice.count), TileState.AWAY, np.uint8)
        states[: held.step * self._work.phases] = TileState.DONE
        for block, at in held.at.items():
            states[: at + 1, block] = TileState.DONE
            states[at + 1 :, block] = TileState.TODO
        for at, target in list(held.inbox):
            for source in held.inbox[at, target]:
                if source not in held.at and self._has_all_of(held, at, source):
                    states[at - 1, source] = TileState.DONE
        return states.ravel()

    def _has_all_of(self, held: _Held, at: int, source: int) -> bool:
        """Whether all blocks that still need what a neighbour came to have it."""
        return all(
            source in held.inbox.get((at, target), ())
            for target in held.lattice.around[source]
            if held.at.get(target, at) < at
        )

    def _received(self, held: _Held, halo: Halo) -> None:
        for target, strip in halo.strips.items():
            self._keep(held, halo.round, halo.source, target, strip)
        if halo.source not in held.at and self._has_all_of(held, halo.round, halo.source):
            self._frontier.arrived((held.queue, held.plan.node(halo.round - 1, halo.source)))

    def _keep(self, held: _Held, at: int, source: int, target: int, strip: Strip) -> None:
        """Keep what a block needs for a round; a block that is past it needs it no more, nor twice."""
        sources = held.inbox.setdefault((at, target), set())
        if held.at.get(target, -1) < at and source not in sources:
            sources.add(source)
            self._put(("halo", held.share.weave, at, source, target), strip)

    def _put(self, key: tuple[Any, ...], strip: Strip) -> None:
        self._shelf.put(key, strip, sum(part.nbytes for part in strip))

    def _moved(self, held: _Held, moved: Moved) -> None:
        """Send again what the new holders of blocks need."""
        held.holders |= moved.holders
        held.peers = dict(moved.peers)
        again: dict[tuple[int, int], list[int]] = {}
        for at, source, target in held.kept:
            if target in moved.holders and target not in held.at:
                again.setdefault((at, source), []).append(target)
        for (at, source), targets in sorted(again.items()):
            strips = {t: self._shelf.get(("kept", moved.weave, at, source, t)) for t in targets}
            self._part_with(held, at, source, strips)

    def _settled(self, held: _Held, step: int) -> None:
        """Forget what only a return to an earlier step would need, and let blocks run ahead of the later one."""
        held.step = step
        for key in [key for key in held.kept if key[0] <= step * self._work.phases]:
            held.kept.remove(key)
            self._shelf.drop(("kept", held.share.weave, *key))
        early, held.early = held.early, []
        self._frontier.give_back(early)
        if step and 0 in held.at:
            try:
                self._access(held).drop_saved(held.share.weave[1], before=step)
            except (TileloomError, OSError) as error:
                held.fail(error)

    def _forget(self, weave: Weave) -> None:
        self._over.add(weave)
        self._strange.pop(weave, None)
        held = self._held.pop(weave, None)
        if held is None:
            return
        self._frontier.drop(held.queue)
        del self._by_queue[held.queue]
        for block in held.at:
            self._shelf.drop(("block", weave, block))
        for (at, target), sources in held.inbox.items():
            for source in sources:
                self._shelf.drop(("halo", weave, at, source, target))
        for key in held.kept:
            self._shelf.drop(("kept", weave, *key))

    def _advanced(self) -> bool:
        """Take some blocks one round further; False where none can be."""
        going: list[tuple[Item, Block, dict[int, Strip]]] = []
        shown = 0
        while len(going) < TOGETHER and shown < self._work.slots and (items := self._frontier.take(1)):
            held, (at, number) = self._by_queue[items[0][0]], self._by_queue[items[0][0]].plan.locate(items[0][1])
            if at > (held.step + AHEAD * held.share.every) * self._work.phases:
                held.early += items
            elif held.broken:
                continue
            elif ("block", held.share.weave, number) not in self._shelf:
                if going:
                    self._frontier.give_back(items)
                    break
                self._begin(held, items[0], at, number)
                return True
            elif taken := self._taken(held, at, number):
                going.append((items[0], *taken))
                shown += self._work.calls(taken[0])
        if not going:
            return False
        self._watch.turn(Activity.COMPUTING)
        after = self._stepped([(block, strips) for _, block, strips in going])
        self._count(going, shown)
        for (item, _, _), block_after in zip(going, after, strict=True):
            held = self._by_queue[item[0]]
            if isinstance(block_after, Exception):
                held.fail(block_after)
            else:
                self._done(held, item, block_after)
        return True

    def _taken(self, held: _Held, at: int, number: int) -> tuple[Block, dict[int, Strip]] | None:
        """A block and its neighbours' strips; None where what was put aside of them cannot be had."""
        weave = held.share.weave
        try:
            block: Block = self._shelf.take(("block", weave, number))
            # One that lay in a file came back with a lattice of its own.
            return replace(block, lattice=held.lattice), self._strips_for(held, at, number)
        except (TileloomError, OSError) as error:
            held.fail(error)
            return None

    def _stepped(self, blocks: Sequence[tuple[Block, Mapping[int, Strip]]]) -> Sequence[Block | Exception]:
        """What the work makes of blocks. Where all fail at once each is tried alone: one must be at fault."""
        try:
            return self._work.advance(blocks)
        except Exception as error:
            if lacks_memory(error):
                raise
            if len(blocks) == 1:
                return [_told_of(error, blocks[0][0])]
        return [block for one in blocks for block in self._stepped([one])]

    def _count(self, going: Sequence[tuple[Item, Block, Any]], shown: int) -> None:
        self._watch.usage.calls += shown
        self._watch.usage.offered += -(-shown // self._work.slots) * self._work.slots
        for item, block, _ in going:
            self._by_queue[item[0]].told.calls += self._work.calls(block)

    def _strips_for(self, held: _Held, at: int, number: int) -> dict[int, Strip]:
        weave = held.share.weave
        found = {n: self._shelf.take(("halo", weave, at, n, number)) for n in sorted(held.inbox.pop((at, number), ()))}
        return {n: strip for n, strip in found.items() if strip}

    def _begin(self, held: _Held, item: Item, at: int, number: int) -> None:
        """Read a block's inputs, and what was saved of it."""
        self._watch.turn(Activity.READING)
        level, tile = held.share.weave[1], held.first_tile + number
        try:
            access = self._access(held)
            step = at // self._work.phases
            saved = access.saved(level, step).read(held.lattice.box(number)) if step else None
            inputs = access.block(tile)
            block = self._work.begin(held.lattice, number, inputs, saved, at)
        except Exception as error:
            if lacks_memory(error):
                raise
            held.fail(error if isinstance(error, TileloomError | OSError) else TileloomError(repr(error)))
            return
        self._done(held, item, block)

    def _done(self, held: _Held, item: Item, block: Block) -> None:
        """Tell the neighbours what a block came to, and save it where that is due, before it goes on."""
        try:
            self._passed_on(held, block)
        except (TileloomError, OSError) as error:
            held.fail(error)
        else:
            held.at[block.number] = block.round
            self._frontier.done([item])

    def _passed_on(self, held: _Held, block: Block) -> None:
        at, number = block.round, block.number
        if at < held.plan.rounds - 1:
            strips = self._work.strips(block)
            self._part_with(held, at + 1, number, {n: strips.get(n, ()) for n in held.lattice.around[number]})
            self._shelf.put(("block", held.share.weave, number), block, block.nbytes)
        self._save(held, block)

    def _part_with(self, held: _Held, at: int, source: int, strips: Mapping[int, Strip]) -> None:
        """Hand strips to whoever holds the blocks that they are for; those for others are kept."""
        away: dict[int, dict[int, Strip]] = {}
        for target, strip in strips.items():
            if target in held.at:
                self._keep(held, at, source, target, strip)
                continue
            away.setdefault(held.holders[target], {})[target] = strip
            held.kept.add((at, source, target))
            self._put(("kept", held.share.weave, at, source, target), strip)
        for peer, parts in away.items():
            halo = Halo(held.share.weave, at, source, parts)
            held.told.sent += halo.nbytes
            self._send(held.peers[peer], halo)

    def _save(self, held: _Held, block: Block) -> None:
        """Write what is due of a block at the end of a step: its saved pixels, or the finished ones."""
        step, within = divmod(block.round, self._work.phases)
        last = step == self._work.steps
        if not within:
            held.told.reached[block.number] = step
        if within or not (last or (step > held.step and step % held.share.every == 0)):
            return
        self._watch.turn(Activity.WRITING)
        level, access = held.share.weave[1], self._access(held)
        canvas = access.canvas(level) if last else access.saved(level, step)
        output = canvas.write(*held.lattice.place(block.number), block.x)
        if last:
            held.told.finished.append((block.number, output))
        else:
            held.told.saved.append((block.number, step))

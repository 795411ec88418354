"""The scheduler: the surface between finished and unfinished tiles of many images, in one queue a pool of workers.

Pure bookkeeping. It knows neither tensors nor processes nor clocks, so that the simulator can drive
the very same object. A tile costs two bytes here (its state, and how many of its needs are open);
leases, tries and the queue hold only tiles that are in flight, have failed or are ready.

A tile's way::

    waiting --(last need done)--> ready --take--> leased --done--> DONE
                                    ^                |--failed, at the cap--> DEGRADED, or the image stops
                                    |-- failed, below the cap; release; give_back
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from heapq import heapify, heappop, heappush
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .plan import Plan

Item = tuple[int, int]
"""(image handle, tile)."""

Pool = str | None
"""Which workers may have a tile, where some are not like the others: those of a numeric class. None: all are alike."""

Policy = Callable[[int, int, int], int]
"""(image handle, rank, tile) to a priority: the lowest is handed out first, ties by image, then tile."""

_TILE_BITS = 32
_TILE = (1 << _TILE_BITS) - 1
_ITEM_BITS = 60
_ITEM = (1 << _ITEM_BITS) - 1


class TileState(IntEnum):
    """What is known of a tile; one byte each.

    RELAY owns no wanted pixel but keeps some: never handed out, done as soon as its needs are.
    BORN keeps none: done from the start. DEGRADED gave no result, yet its dependants go on. AWAY is another
    frontier's: never handed out, done when that is heard of.
    """

    TODO = 0
    RELAY = 1
    BORN = 2
    DONE = 3
    DEGRADED = 4
    AWAY = 5


# A member looked up on its class costs as much as the rest of an edge.
_TODO, _RELAY, _DONE, _AWAY = (
    int(TileState.TODO),
    int(TileState.RELAY),
    int(TileState.DONE),
    int(TileState.AWAY),
)


class OnError(Enum):
    """What happens to a tile whose tries are used up: it is degraded, or its image stops."""

    DEGRADE = "degrade"
    STOP = "stop"


class Verdict(Enum):
    """What became of a failed tile."""

    RETRY = "retry"
    DEGRADED = "degraded"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tiles of an image are where; they add up to the plan's count."""

    waiting: int
    ready: int
    leased: int
    born: int
    done: int
    degraded: int


@dataclass(slots=True)
class _Image:
    name: str
    plan: Plan
    pool: Pool
    state: bytearray
    pending: bytearray
    left: int
    stopped: str | None = None
    reasons: dict[int, str] = field(default_factory=dict)

    def label(self, tile: int) -> str:
        """The tile in the user's words, where its plan has words for it."""
        key = getattr(self.plan, "key", None)
        return f"{self.name}: {key(tile) if key else f'tile {tile}'}"


def critical_path_first(order: int, rank: int, tile: int) -> int:
    """The tile with the longest chain behind it, of whichever image: shortest makespan."""
    return -rank


def oldest_image_first(order: int, rank: int, tile: int) -> int:
    """The image added first, within it the critical path: images finish one after the other."""
    return (order << _TILE_BITS) - rank


class Frontier:
    """Hands out tiles whose needs are done, and learns what became of them.

    Args:
        policy: which ready tile goes first.
        retries: further tries a tile is given after its first failure.
        on_error: what happens once they are used up.
    """

    def __init__(
        self, *, policy: Policy = critical_path_first, retries: int = 2, on_error: OnError = OnError.DEGRADE
    ) -> None:
        """An empty queue."""
        if retries < 0:
            raise InputError(f"retries is {retries}; it counts further tries, so make it 0 or more")
        self._policy = policy
        self._retries = retries
        self._on_error = on_error
        self._images: dict[int, _Image] = {}
        self._next = 0
        # One int a ready tile, priority above image above tile: compares faster than a tuple and takes a third of it.
        self._ready: defaultdict[Pool, list[int]] = defaultdict(list)
        self._taken: Counter[Pool] = Counter()
        self._leases: dict[Item, str] = {}
        self._failures: dict[Item, int] = {}

    def add(
        self, name: str, plan: Plan, *, state: NDArray[np.uint8], number: int | None = None, pool: Pool = None
    ) -> int:
        """Queue an image; ``state`` holds a :class:`TileState` a tile (copied).

        Returns the image's handle: the ``number`` that it is to have, or the next one. Its tiles are handed out to
        whoever takes from its ``pool``.
        """
        if state.shape != (plan.count,) or state.dtype != np.uint8:
            raise InputError(
                f"{name}: states of shape {state.shape} and type {state.dtype} given for a plan of {plan.count} tiles; "
                "give one uint8 a tile"
            )
        if plan.count > _TILE:
            raise InputError(f"{name}: {plan.count} tiles are more than one image can have ({_TILE}); split it")
        if state.size and state.max() > max(TileState):
            raise InputError(f"{name}: {state.max()} is no tile state; the largest is {max(TileState).value}")
        open_ = state <= TileState.RELAY
        pending = plan.pending(~(open_ | (state == TileState.AWAY)))
        first = np.flatnonzero(open_ & (pending == 0))
        handle = self._next if number is None else number
        if handle in self._images:
            raise ValueError(f"this frontier has an image {handle} already")
        self._next = max(self._next, handle + 1)
        image = _Image(name, plan, pool, bytearray(state), bytearray(pending), int(np.count_nonzero(open_)))
        self._images[handle] = image
        relays = []
        for tile in map(int, first):
            if image.state[tile] == _TODO:
                self._push(handle, image, tile)
            else:
                image.state[tile] = _DONE
                image.left -= 1
                relays.append(tile)
        self._pass_on(handle, image, relays)
        return handle

    def drop(self, image: int) -> None:
        """Forget an image: nothing more of it is handed out, and late reports on it are ignored."""
        at = self._image(image)
        self._unqueue(image, at)
        del self._images[image]
        self._taken[at.pool] -= sum(item[0] == image for item in self._leases)
        for table in (self._leases, self._failures):
            for item in [item for item in table if item[0] == image]:
                del table[item]

    def take(self, n: int, holder: str = "", *, pool: Pool = None) -> list[Item]:
        """Up to ``n`` ready tiles of a pool, the policy's first choice first, leased to ``holder``."""
        ready, leases = self._ready[pool], self._leases
        taken = []
        for _ in range(min(n, len(ready))):
            code = heappop(ready) & _ITEM
            item = code >> _TILE_BITS, code & _TILE
            leases[item] = holder
            taken.append(item)
        self._taken[pool] += len(taken)
        return taken

    def done(self, items: Iterable[Item]) -> bool:
        """Leased tiles are finished. False if any was ignored because its image was dropped.

        Raises ValueError at the first tile that is not leased; those before it count.
        """
        heeded = True
        for item in items:
            image = self._settle(item)
            if image is None:
                heeded = False
                continue
            handle, tile = item
            self._finish(handle, image, tile, TileState.DONE)
        return heeded

    def arrived(self, item: Item) -> None:
        """A tile of another frontier is done; heard of twice, it is done once."""
        handle, tile = item
        image = self._image(handle)
        if image.state[tile] == _AWAY:
            image.state[tile] = _DONE
            self._pass_on(handle, image, [tile])

    def failed(self, item: Item, reason: str) -> Verdict:
        """A leased tile failed by its own fault; this uses up one of its tries."""
        image = self._settle(item)
        if image is None or image.stopped is not None:
            return Verdict.STOPPED
        handle, tile = item
        failures = self._failures[item] = self._failures.get(item, 0) + 1
        if failures <= self._retries:
            self._push(handle, image, tile)
            return Verdict.RETRY
        if self._on_error is OnError.STOP:
            image.stopped = f"{image.label(tile)} failed {failures} times, last: {reason}"
            self._unqueue(handle, image)
            return Verdict.STOPPED
        image.reasons[tile] = reason
        self._finish(handle, image, tile, TileState.DEGRADED)
        return Verdict.DEGRADED

    def release(self, holder: str) -> list[Item]:
        """Take back every lease of a lost holder; no try is used up. Returns the tiles."""
        items = [item for item, held_by in self._leases.items() if held_by == holder]
        self.give_back(items)
        return items

    def give_back(self, items: Iterable[Item]) -> None:
        """Take back single leases whose tiles were not worked to an end; no try is used up."""
        for item in items:
            image = self._settle(item)
            if image is not None and image.stopped is None:
                self._push(item[0], image, item[1])

    @property
    def idle(self) -> bool:
        """Whether nothing is ready to be handed out."""
        return not self.ready

    @property
    def ready(self) -> int:
        """Tiles ready to be handed out."""
        return sum(map(len, self._ready.values()))

    def load(self, pool: Pool) -> int:
        """Tiles of a pool that are ready, or handed out and not settled."""
        return len(self._ready[pool]) + self._taken[pool]

    @property
    def leased(self) -> int:
        """Tiles handed out and not settled."""
        return len(self._leases)

    def busy(self, image: int) -> bool:
        """Whether tiles of the image are handed out and not settled; takes time in proportion to all that are."""
        return any(at == image for at, _ in self._leases)

    def finished(self, image: int) -> bool:
        """Whether every tile of the image is done, born done or degraded."""
        return self._image(image).left == 0

    def stopped(self, image: int) -> str | None:
        """Why the image was stopped; None if it was not."""
        return self._image(image).stopped

    def degraded(self, image: int) -> dict[int, str]:
        """The degraded tiles of an image, and why; empty words for those that came in degraded."""
        at = self._image(image)
        tiles = np.flatnonzero(np.frombuffer(at.state, np.uint8) == TileState.DEGRADED)
        return {tile: at.reasons.get(tile, "") for tile in map(int, tiles)}

    def state(self, image: int) -> NDArray[np.uint8]:
        """A copy of the image's tile states; a relay that has passed on is DONE."""
        return np.frombuffer(bytes(self._image(image).state), np.uint8)

    def counts(self, image: int) -> Counts:
        """Where the image's tiles are; takes time in proportion to the image."""
        at = self._image(image)
        ready = sum((code & _ITEM) >> _TILE_BITS == image for code in self._ready[at.pool])
        leased = sum(item[0] == image for item in self._leases)
        return Counts(
            waiting=at.left - ready - leased,
            ready=ready,
            leased=leased,
            born=at.state.count(TileState.BORN),
            done=at.state.count(TileState.DONE),
            degraded=at.state.count(TileState.DEGRADED),
        )

    @property
    def left(self) -> int:
        """Tiles of all images that are not settled."""
        return sum(image.left for image in self._images.values())

    def name(self, image: int) -> str:
        """An image's name."""
        return self._image(image).name

    def plan(self, image: int) -> Plan:
        """An image's plan."""
        return self._image(image).plan

    def why(self) -> list[str]:
        """What the unfinished tiles wait for, one line each for the queue and for every image with some."""
        lines = []
        if self.ready:
            lines.append(f"{_tiles(self.ready)} ready and waiting for a worker")
        open_: dict[int, list[int]] = {handle: [] for handle in self._images}
        for handle, tile in chain(self._leases, map(_item, chain.from_iterable(self._ready.values()))):
            open_[handle].append(tile)
        for handle, image in self._images.items():
            if image.left and image.stopped is not None:
                lines.append(f"{image.name}: {_tiles(image.left)} left where it was stopped: {image.stopped}")
            elif waiting := image.left - len(open_[handle]):
                lines.append(f"{image.name}: {_tiles(waiting)} waiting for {self._blocker(handle, open_[handle])}")
        return lines

    def _blocker(self, handle: int, open_: list[int]) -> str:
        """The unfinished tile with the longest chain behind it: nothing waits longer than for this one."""
        image = self._images[handle]
        tile = max(open_, key=image.plan.rank)
        words = image.label(tile).removeprefix(f"{image.name}: ")
        holder = self._leases.get((handle, tile))
        where = "not yet handed out" if holder is None else f"leased by {holder}" if holder else "leased"
        return f"{words} ({where})" + (f" and {len(open_) - 1} more" if len(open_) > 1 else "")

    def _image(self, handle: int) -> _Image:
        image = self._images.get(handle)
        if image is None:
            raise ValueError(f"this frontier holds no image {handle}")
        return image

    def _settle(self, item: Item) -> _Image | None:
        """End a lease; None if its image was dropped."""
        image = self._images.get(item[0])
        if image is None:
            return None
        if self._leases.pop(item, None) is None:
            raise ValueError(f"{image.label(item[1])} is not leased: it was never taken, or is settled already")
        self._taken[image.pool] -= 1
        return image

    def _finish(self, handle: int, image: _Image, tile: int, state: TileState) -> None:
        image.state[tile] = state
        image.left -= 1
        if image.stopped is None:
            self._pass_on(handle, image, [tile])

    def _pass_on(self, handle: int, image: _Image, settled: list[int]) -> None:
        """Tell the tiles that need these; relays pass the word on, by a stack since chains grow with the image."""
        states, pending, feeds = image.state, image.pending, image.plan.feeds
        while settled:
            for fed in feeds(settled.pop()):
                left = pending[fed] - 1
                pending[fed] = left
                if left:
                    continue
                if states[fed] == _TODO:
                    self._push(handle, image, fed)
                elif states[fed] == _RELAY:
                    states[fed] = _DONE
                    image.left -= 1
                    settled.append(fed)

    def _push(self, handle: int, image: _Image, tile: int) -> None:
        priority = self._policy(handle, image.plan.rank(tile), tile)
        heappush(self._ready[image.pool], priority << _ITEM_BITS | handle << _TILE_BITS | tile)

    def _unqueue(self, handle: int, image: _Image) -> None:
        left = [code for code in self._ready[image.pool] if (code & _ITEM) >> _TILE_BITS != handle]
        heapify(left)
        self._ready[image.pool] = left


def _item(code: int) -> Item:
    """What a queued number stands for."""
    return (code & _ITEM) >> _TILE_BITS, code & _TILE


def _tiles(n: int) -> str:
    return "1 tile" if n == 1 else f"{n} tiles"

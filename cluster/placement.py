"""Who holds which blocks of the levels under way in lock-step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from heapq import heapify, heapreplace
from itertools import accumulate, count
from typing import Any, Generic, TypeVar

from .loom import Mail, Moved, Over, Settled, Share, Weave
from .weaving import Weaving

H = TypeVar("H", bound=Hashable)


class Placement(Generic[H]):
    """Gives blocks to holders, and those of a lost one to others; neighbours stay together as far as they can."""

    def __init__(self, post: Callable[[H, Mail], Any], peer_of: Callable[[H], Any]) -> None:
        """Nothing is placed yet; ``post`` tells a holder something, ``peer_of`` is what others send their halos to."""
        self._post, self._peer_of = post, peer_of
        self._numbers = count()
        self._number_of: dict[H, int] = {}
        self._held: dict[Weave, dict[int, H]] = {}
        self._under_way: dict[Weave, Weaving] = {}

    def held_by(self, holder: H) -> set[Weave]:
        """The levels of which someone holds blocks."""
        return {weave for weave, held in self._held.items() if holder in held.values()}

    def progress(self, weave: Weave) -> int:
        """The steps of all blocks of a level, as far as they ever came."""
        return sum(self._under_way[weave].reached.values())

    @property
    def holders(self) -> set[H]:
        """Whoever holds a block."""
        return {holder for held in self._held.values() for holder in held.values()}

    def place(
        self,
        weavings: Iterable[Weaving],
        holders: Sequence[H],
        may: Callable[[H, Weaving], bool] = lambda holder, weaving: True,
    ) -> None:
        """Give every block that nobody has to one of ``holders``, and tell those that have some what is over.

        ``may`` tells who is able to hold blocks of a level.
        """
        self._under_way = {weaving.weave: weaving for weaving in weavings}
        for weave in self._held.keys() - self._under_way:
            for holder in set(self._held.pop(weave).values()):
                self._post(holder, Over(weave))
        for weaving in self._under_way.values():
            held = self._held.setdefault(weaving.weave, {})
            free = [block for block in range(weaving.task.lattice.count) if block not in held]
            able = [holder for holder in holders if may(holder, weaving)]
            if free and able:
                weaving.begin_again(free)
                self._give(weaving, held, self._split(free, able))

    def _split(self, blocks: Sequence[int], holders: Sequence[H]) -> dict[H, Sequence[int]]:
        """A run of blocks for each holder, so that all have as many as can be."""
        held = Counter(holder for blocks in self._held.values() for holder in blocks.values())
        # Numbered, as holders have no order of their own.
        loads = [(held[holder], n) for n, holder in enumerate(holders)]
        heapify(loads)
        more = Counter[int]()
        for _ in blocks:
            load, n = loads[0]
            heapreplace(loads, (load + 1, n))
            more[n] += 1
        ends = list(accumulate(more[n] for n in sorted(more)))
        return {holders[n]: blocks[end - more[n] : end] for n, end in zip(sorted(more), ends, strict=True)}

    def _give(self, weaving: Weaving, held: dict[int, H], shares: Mapping[H, Sequence[int]]) -> None:
        stayed = set(held.values())
        held |= {block: holder for holder, blocks in shares.items() for block in blocks}
        numbers = {holder: self._number(holder) for holder in set(held.values())}
        holders = {block: numbers[holder] for block, holder in held.items()}
        peers = {number: self._peer_of(holder) for holder, number in numbers.items()}
        task = weaving.task
        for holder, blocks in shares.items():
            share = Share(weaving.weave, task.brief, tuple(blocks), weaving.step, task.every, holders, peers)
            self._post(holder, share)
        new = {block: holders[block] for blocks in shares.values() for block in blocks}
        for holder in stayed:
            self._post(holder, Moved(weaving.weave, new, peers))

    def why(self, name_of: Callable[[H], str]) -> list[str]:
        """How far each level is, and whose blocks all others wait for in the end, a line each."""
        lines = []
        for weave, held in self._held.items():
            weaving = self._under_way[weave]
            if not weaving.left:
                continue
            reached, name = weaving.reached, weaving.task.brief.plan.name
            last = min(weaving.left, key=lambda block: reached[block])
            whose = f"is with {name_of(held[last])}" if last in held else "is with nobody yet"
            lines.append(
                f"{name}: {len(weaving.left)} blocks of level {weave[1]} are up to {max(reached.values())} steps on, "
                f"all saved at {weaving.step}; the last, {reached[last]} steps on, {whose}"
            )
        return lines

    def _number(self, holder: H) -> int:
        if holder not in self._number_of:
            self._number_of[holder] = next(self._numbers)
        return self._number_of[holder]

    def settled(self, weaving: Weaving) -> None:
        """Tell all holders of a level's blocks that these have committed a later step."""
        for holder in set(self._held.get(weaving.weave, {}).values()):
            self._post(holder, Settled(weaving.weave, weaving.step))

    def lost(self, holder: H) -> None:
        """Its blocks are nobody's from now on; should it still be there, it may stop."""
        for weave, held in self._held.items():
            if holder in held.values():
                self._post(holder, Over(weave))
                self._held[weave] = {block: other for block, other in held.items() if other is not holder}
        self._number_of.pop(holder, None)

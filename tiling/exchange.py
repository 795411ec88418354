"""What blocks that advance together hand to each other: counted from the lattice alone, before anything runs.

A weave trades by a pattern, one :data:`Handed` for each phase of a step. Joint weaving has two::

    predict   the noisy pixels of a block that windows of its neighbours see
    fuse      what its own windows say of its neighbours' pixels, window by window
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .grid import Axis
from .lockstep import Lattice

Handed = Callable[[Lattice, int, int], int]
"""Pixels that a block hands to a neighbour in a phase, each as deep as :class:`Pattern` says: (lattice, from, to)."""

VALUE_BYTES = 4


@dataclass(frozen=True)
class Pattern:
    """How a weave trades: what is handed on in each phase of a step, and in which one the network is asked.

    ``depths`` are the values of a pixel that is handed on, phase by phase.
    """

    handed: tuple[Handed, ...]
    depths: tuple[int, ...]
    asking: int

    @property
    def phases(self) -> int:
        """Phases of a step."""
        return len(self.handed)


def seen(lattice: Lattice, source: int, target: int) -> int:
    """Pixels of a block that windows of another see."""
    return lattice.reach(target).intersect(lattice.box(source)).area


def predicted(lattice: Lattice, source: int, target: int) -> int:
    """Pixels of another block in the windows of a block, each as often as there are windows over it."""
    theirs, begun = lattice.box(target), lattice.begun(source)
    rows, cols = {row for row, _ in begun}, {col for _, col in begun}
    # Windows are all rows by all columns, so the areas of their overlaps add up axis by axis.
    tall = sum(_overlap(lattice.windows.rows, row, theirs.top, theirs.bottom) for row in rows)
    return tall * sum(_overlap(lattice.windows.cols, col, theirs.left, theirs.right) for col in cols)


def _overlap(windows: Axis, number: int, lo: int, hi: int) -> int:
    """Pixels of ``[lo, hi)`` that a window along an axis sees."""
    return max(0, min(hi, windows.stop(number)) - max(lo, windows.start(number)))


def joint(bands: int) -> Pattern:
    """The pattern of joint weaving."""
    return Pattern((seen, predicted), (bands, bands), asking=0)


def runs(blocks: int, workers: int) -> list[range]:
    """Even runs of blocks, in the order in which they are numbered: one for each worker that gets any."""
    chosen = min(blocks, workers)
    borders = [blocks * n // chosen for n in range(chosen + 1)]
    return [range(lo, hi) for lo, hi in pairwise(borders)]


@dataclass(frozen=True)
class Traffic:
    """Bytes of a step, phase by phase, of all workers together; and the most that one of them sends in it."""

    phases: tuple[int, ...]
    most_sent: int

    @property
    def step(self) -> int:
        """Bytes of a whole step."""
        return sum(self.phases)


def traffic(lattice: Lattice, pattern: Pattern, workers: int) -> Traffic:
    """What workers send each other in a step, a level's blocks being theirs in even runs."""
    shares = runs(lattice.count, workers)
    holder = {block: number for number, share in enumerate(shares) for block in share}
    phases = [0] * pattern.phases
    sent = [0] * len(shares)
    for source, neighbours in enumerate(lattice.around):
        away = [target for target in neighbours if holder[target] != holder[source]]
        for phase, (handed, depth) in enumerate(zip(pattern.handed, pattern.depths, strict=True)):
            size = VALUE_BYTES * depth * sum(handed(lattice, source, target) for target in away)
            phases[phase] += size
            sent[holder[source]] += size
    return Traffic(tuple(phases), max(sent))


def windows_of(lattice: Lattice, blocks: Sequence[int]) -> int:
    """Windows that begin in some blocks."""
    return sum(len(lattice.begun(block)) for block in blocks)

"""What blocks that advance together hand to each other: counted from the lattice alone, before anything runs.

A weave trades by a pattern, one :data:`Handed` for each phase of a step. Joint weaving has two::

    predict   the noisy pixels of a block that windows of its neighbours see
    fuse      what its own windows say of its neighbours' pixels, window by window

Patches trade *pixels*, noisy ones half a patch around a block, in one phase; or *features*, in two: such pixels to the
south and east alone, then the quarters of features that a neighbour's patches take. Encoder patches lie half a patch
off, and have their centres where four patches meet::

    (i, j)    (i, j+1)         centres of encoder patches
       +---------+
       | (i, j)  |             a patch, which takes a quarter of each of the four around it
       +---------+
    (i+1, j)  (i+1, j+1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from .box import Box
from .grid import Axis
from .lockstep import Lattice

Handed = Callable[[Lattice, int, int], int]
"""Pixels that a block hands to a neighbour in a phase, each as deep as :class:`Pattern` says: (lattice, from, to)."""

PatchPlace = tuple[int, int]
"""Row and column of a patch, or of the centre of an encoder patch: the first corner of the patch to its south-east."""

VALUE_BYTES = 4
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Where the encoder patches lie that a patch takes quarters of, from its first corner on."""


@dataclass(frozen=True)
class Pattern:
    """How a weave trades: what is handed on in each phase of a step, and in which one the network is asked.

    ``depths`` are the values of a pixel that is handed on, phase by phase; ``held`` are those that a block keeps of
    each of its windows in the middle of a step.
    """

    handed: tuple[Handed, ...]
    depths: tuple[int, ...]
    asking: int
    held: Callable[[Lattice], int] = lambda _: 0

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
    return Pattern((seen, predicted), (bands, bands), asking=0, held=lambda lattice: bands * lattice.windows.tile**2)


def pixels(bands: int) -> Pattern:
    """The pattern of patches that trade pixels."""
    return Pattern((_around,), (bands,), asking=0)


def features(bands: int, values: int) -> Pattern:
    """The pattern of patches that trade features, ``values`` of them in a patch."""
    return Pattern((_ahead, _quarters), (bands, values // len(CORNERS)), asking=1, held=lambda _: values)


def _around(lattice: Lattice, source: int, target: int) -> int:
    """Pixels of a block that lie half a patch around another."""
    return lattice.box(target).pad(lattice.cell // 2).intersect(lattice.box(source)).area


def _ahead(lattice: Lattice, source: int, target: int) -> int:
    """Pixels of a block that lie half a patch to the north and west of another."""
    box, half = lattice.box(target), lattice.cell // 2
    return Box(box.top - half, box.left - half, box.bottom, box.right).intersect(lattice.box(source)).area


def _quarters(lattice: Lattice, source: int, target: int) -> int:
    """Quarters of encoder patches of a block that the patches of another take."""
    return len(taken_of(lattice, target, source))


@lru_cache(maxsize=1024)
def encoded_by(lattice: Lattice, number: int) -> tuple[PatchPlace, ...]:
    """The encoder patches that a block encodes for all: those south-east of whose centres it lies, or ends."""
    begun = lattice.begun(number)
    (top, left), (bottom, right) = begun[0], begun[-1]
    rows, cols = lattice.windows.rows.count, lattice.windows.cols.count
    down, across = bottom + 1 + (bottom + 1 == rows), right + 1 + (right + 1 == cols)
    return tuple((i, j) for i in range(top, down) for j in range(left, across))


@lru_cache(maxsize=4096)
def taken_of(lattice: Lattice, number: int, source: int) -> tuple[tuple[PatchPlace, PatchPlace], ...]:
    """Encoder patches of a block of which patches of another take a quarter, and the corner where they lie to those."""
    encoded = set(encoded_by(lattice, source))
    return tuple(
        ((i + down, j + right), (down, right))
        for i, j in lattice.begun(number)
        for down, right in CORNERS
        if (i + down, j + right) in encoded
    )


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

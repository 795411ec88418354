"""Lock-step: every block of a level advances one phase at a time, beside its eight neighbours.

One axis of a :class:`Lattice`, windows of T pixels a stride s apart, blocks of three cells::

    windows   |<----- T ----->|
                   |<--------------->|            (window 1 begins with cell 1)
                        |<--------------->|
    cells     |<-s->|    |    |    |    |    |  |  (the last one may be smaller)
    blocks    |<--- block 0 -->|<--- block 1 -->|

A window is computed once, by the block that holds the cell it begins with; a cell is fused, constrained and
updated as one, whatever block holds it, so that no bit depends on how a level is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .errors import InputError
from .grid import Axis, Grid

AHEAD = 2
"""Stretches between two savings that a block may be ahead of the last step that all have committed."""
TOGETHER = 8
"""Blocks that a worker takes a round further at a time, at most."""


@dataclass(frozen=True, slots=True)
class LockstepPlan:
    """Nodes (round, row, col), numbered in that order; each needs the 3x3 blocks of the round before.

    Round 0 is the beginning, each further one a phase of a step.
    """

    rows: int
    cols: int
    steps: int
    phases: int = 1

    @property
    def count(self) -> int:
        """Nodes in the plan."""
        return self.rounds * self.rows * self.cols

    @property
    def rounds(self) -> int:
        """The beginning, and all phases after it."""
        return 1 + self.steps * self.phases

    @property
    def critical_path(self) -> int:
        """Nodes on the longest chain: a block's own rounds."""
        return self.rounds

    def locate(self, node: int) -> tuple[int, int]:
        """(round, block) of a node; blocks are numbered row by row."""
        return divmod(node, self.rows * self.cols)

    def node(self, at: int, block: int) -> int:
        """The node of a block at a round."""
        return at * self.rows * self.cols + block

    def around(self, block: int) -> list[int]:
        """The block itself and its neighbours, ascending."""
        row, col = divmod(block, self.cols)
        return [
            r * self.cols + c
            for r in range(max(0, row - 1), min(self.rows, row + 2))
            for c in range(max(0, col - 1), min(self.cols, col + 2))
        ]

    def _around(self, node: int, rounds: int) -> list[int]:
        at, block = self.locate(node)
        at += rounds
        return [self.node(at, other) for other in self.around(block)] if 0 <= at < self.rounds else []

    def needs(self, node: int) -> list[int]:
        """The block itself and its neighbours, one round before."""
        return self._around(node, -1)

    def feeds(self, node: int) -> list[int]:
        """The block itself and its neighbours, one round on."""
        return self._around(node, 1)

    def rank(self, node: int) -> int:
        """Rounds still to come."""
        return self.rounds - 1 - node // (self.rows * self.cols)

    def pending(self, done: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """For every node, how many of its needs are not done."""
        todo = np.zeros((self.rounds, self.rows + 2, self.cols + 2), np.uint8)
        todo[:, 1:-1, 1:-1] = ~done.reshape(self.rounds, self.rows, self.cols)
        across = todo[:, :-2] + todo[:, 1:-1] + todo[:, 2:]
        around = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
        pending = np.zeros((self.rounds, self.rows, self.cols), np.uint8)
        pending[1:] = around[:-1]
        return pending.ravel()


@dataclass(frozen=True)
class Lattice:
    """One level cut into windows that a network sees, cells that are updated, and blocks that advance.

    ``windows`` are a stride apart, which is a cell's side; ``blocks`` do not overlap.
    """

    windows: Grid
    blocks: Grid

    def __post_init__(self) -> None:
        """Refuse blocks that cut cells, or over which a window could reach."""
        side, nearest = self.blocks.tile, nearest_block(self.windows, self.blocks.tile)
        if side != nearest:
            raise InputError(
                f"blocks of {side} pixels do not suit windows of {self.windows.tile} pixels {self.cell} apart: "
                f"the nearest that do have {nearest}"
            )

    def __getstate__(self) -> dict[str, Grid]:
        """Without the table of neighbours, which is as large as the level and made anew where it is needed."""
        return {"windows": self.windows, "blocks": self.blocks}

    @property
    def cell(self) -> int:
        """Pixels along a side of a cell."""
        return self.windows.stride

    @property
    def count(self) -> int:
        """Blocks in the level."""
        return self.blocks.count

    def plan(self, steps: int, phases: int) -> LockstepPlan:
        """The order of the blocks through so many steps."""
        return LockstepPlan(self.blocks.rows.count, self.blocks.cols.count, steps, phases)

    def place(self, block: int) -> tuple[int, int]:
        """(row, col) of a block."""
        return divmod(block, self.blocks.cols.count)

    def box(self, block: int) -> Box:
        """The pixels of a block."""
        return self.blocks.owns(*self.place(block))

    @cached_property
    def around(self) -> tuple[tuple[int, ...], ...]:
        """The neighbours of every block, itself not among them."""
        plan = self.plan(1, 1)
        return tuple(tuple(n for n in plan.around(block) if n != block) for block in range(self.count))

    def cells(self, block: int) -> Iterator[Box]:
        """The cells of a block, row by row."""
        box = self.box(block)
        for top in range(box.top, box.bottom, self.cell):
            for left in range(box.left, box.right, self.cell):
                yield Box(top, left, min(top + self.cell, box.bottom), min(left + self.cell, box.right))

    def begun(self, block: int) -> list[tuple[int, int]]:
        """(row, col) of the windows that begin in a block, row by row."""
        box = self.box(block)
        rows = _begun(self.windows.rows, box.top, box.bottom)
        cols = _begun(self.windows.cols, box.left, box.right)
        return [(row, col) for row in rows for col in cols]

    def reach(self, block: int) -> Box:
        """The block, and what the windows that begin in it see."""
        box, begun = self.box(block), self.begun(block)
        if not begun:
            return box
        first, last = self.windows.sees(*begun[0]), self.windows.sees(*begun[-1])
        return Box(
            min(box.top, first.top),
            min(box.left, first.left),
            max(box.bottom, last.bottom),
            max(box.right, last.right),
        )

    def over(self, box: Box) -> list[tuple[int, int]]:
        """(row, col) of the windows that see a pixel of a box, row by row."""
        cols = self.windows.cols.seers(box.left, box.right)
        return [(row, col) for row in self.windows.rows.seers(box.top, box.bottom) for col in cols]

    def begins_in(self, row: int, col: int) -> int:
        """The block that computes a window."""
        rows, cols = self.blocks.rows, self.blocks.cols
        return rows.owner(row * self.cell) * cols.count + cols.owner(col * self.cell)


def nearest_block(windows: Grid, side: int) -> int:
    """The side of a block that is nearest to one asked for: whole cells, and no window reaches over it."""
    cell = windows.stride
    return max(-(-windows.tile // cell), round(side / cell)) * cell


def _begun(axis: Axis, lo: int, hi: int) -> range:
    """The windows along an axis whose cell lies in ``[lo, hi)``."""
    return range(lo // axis.stride, min(axis.count, -(-hi // axis.stride)))

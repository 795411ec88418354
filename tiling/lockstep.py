"""Lock-step plans: every block advances one phase at a time, beside its eight neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LockstepPlan:
    """Nodes (step, phase, row, col), numbered in that order; each needs the 3x3 blocks of the phase before."""

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
        """Phases from beginning to end."""
        return self.steps * self.phases

    @property
    def critical_path(self) -> int:
        """Nodes on the longest chain: a block's own rounds."""
        return self.rounds

    def locate(self, node: int) -> tuple[int, int, int, int]:
        """(step, phase, row, col) of a node."""
        rest, col = divmod(node, self.cols)
        rest, row = divmod(rest, self.rows)
        step, phase = divmod(rest, self.phases)
        return step, phase, row, col

    def node(self, step: int, phase: int, row: int, col: int) -> int:
        """The node of (step, phase, row, col)."""
        return ((step * self.phases + phase) * self.rows + row) * self.cols + col

    def _around(self, node: int, rounds: int) -> list[int]:
        rest, col = divmod(node, self.cols)
        at, row = divmod(rest, self.rows)
        at += rounds
        if not 0 <= at < self.rounds:
            return []
        return [
            (at * self.rows + r) * self.cols + c
            for r in range(max(0, row - 1), min(self.rows, row + 2))
            for c in range(max(0, col - 1), min(self.cols, col + 2))
        ]

    def needs(self, node: int) -> list[int]:
        """The block itself and its neighbours, one phase before."""
        return self._around(node, -1)

    def feeds(self, node: int) -> list[int]:
        """The block itself and its neighbours, one phase on."""
        return self._around(node, 1)

    def rank(self, node: int) -> int:
        """Phases still to come."""
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

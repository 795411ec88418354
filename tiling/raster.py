"""Raster order: every tile goes on from the finished tile before it, as the published mask-shift program has it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from .plan import WeavePlan

Depths = NDArray[np.int64]


@dataclass(frozen=True)
class RasterPlan(WeavePlan):
    """A weave whose tiles begin from each other, row by row.

    So one level is one chain::

        0 -> 1 -> 2 -> (next row)
        3 -> 4 -> 5
    """

    @cached_property
    def digest(self) -> str:
        """The plan's identity."""
        return blake2b(f"raster {super().digest}".encode(), digest_size=16).hexdigest()

    def follows(self, tile: int) -> int | None:
        """The tile whose finished window this one begins from; None for the first of a level, which begins in noise."""
        level, _, _ = self._locate(tile)
        return tile - 1 if tile > self._levels[level].base else None

    def needs(self, tile: int) -> list[int]:
        """The tile before it besides all that a weave needs.

        West and north are before it in the chain, but a tile without anything to restore is done from the start.
        """
        before = self.follows(tile)
        needs = super().needs(tile)
        return needs if before is None or before in needs else [before, *needs]

    def feeds(self, tile: int) -> list[int]:
        """The tile after it besides all that a weave feeds."""
        level, _, _ = self._locate(tile)
        feeds, after = super().feeds(tile), tile + 1
        return feeds if after in feeds or after == self.tiles(level).stop else [after, *feeds]

    def reads(self, tile: int) -> list[int]:
        """Every tile that owns a pixel this one takes: as context, low frequencies, or to begin from."""
        before = self.follows(tile)
        reads = set(super().reads(tile))
        if before is not None:
            level, _, _ = self._locate(before)
            at = self._levels[level]
            reads |= {at.base + row * at.cols + col for row, col in at.grid.owners(self.sees(before))}
        return sorted(reads)

    def rank(self, tile: int) -> int:
        """Tiles that must follow this one, one after the other."""
        level, _, _ = self._locate(tile)
        return int(self._ranks[level][tile - self._levels[level].base])

    def depth(self, tile: int) -> int:
        """Tiles that must come before this one, one after the other."""
        level, _, _ = self._locate(tile)
        return int(self._depths[level][tile - self._levels[level].base])

    def width_profile(self) -> NDArray[np.int64]:
        """How many tiles can run at each step of unit time, with workers without end."""
        return np.bincount(np.concatenate(self._depths))

    def pending(self, done: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """For every tile, how many of its needs are not done."""
        pending = np.zeros(self.count, np.uint8)
        for level in range(len(self.levels)):
            for tile in self.tiles(level):
                pending[tile] = sum(not done[need] for need in self.needs(tile))
        return pending

    @cached_property
    def _depths(self) -> tuple[Depths, ...]:
        """By level: along a chain a tile lies one deeper than the one before, and below all it looks through."""
        depths: list[Depths] = []
        for at in reversed(self._levels):
            along = np.arange(at.rows * at.cols)
            first = np.zeros_like(along)
            if at.coarse_rows:
                last = [
                    span_row[-1] * self._levels[len(self.levels) - len(depths)].cols + span_col[-1]
                    for span_row in at.coarse_rows
                    for span_col in at.coarse_cols
                ]
                first = depths[-1][last] + 1
            depths.append(along + np.maximum.accumulate(first - along))
        return tuple(reversed(depths))

    @cached_property
    def _ranks(self) -> tuple[Depths, ...]:
        """By level: the same, seen from the end."""
        ranks: list[Depths] = []
        for level, at in enumerate(self._levels):
            along = np.arange(at.rows * at.cols)
            tail = np.zeros_like(along)
            if at.fine_rows:
                cols = self._levels[level - 1].cols
                fed = [
                    rows.start * cols + columns.start if rows and columns else -1
                    for rows in at.fine_rows
                    for columns in at.fine_cols
                ]
                tail = np.where(np.array(fed) < 0, 0, ranks[-1][fed] + 1)
            ranks.append(np.maximum.accumulate((tail + along)[::-1])[::-1] - along)
        return tuple(ranks)

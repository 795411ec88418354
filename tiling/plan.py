"""A plan: which tiles exist, and which earlier tiles each one needs. Pure arithmetic, never an edge list.

Inside, a tile is an int: levels from the coarsest to the finest, rows, columns. So ascending order is
always legal, and a level's tiles are one block of consecutive ints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .box import Box, TileKey
from .errors import InputError
from .grid import Grid

Table = tuple[int, ...]
Spans = tuple[range, ...]

# Open needs are counted in one byte a tile.
_MOST_NEEDS = 255


class Plan(Protocol):
    """What the frontier asks of any plan; tiles are ints below ``count``."""

    @property
    def count(self) -> int:
        """Tiles in the plan."""
        ...

    @property
    def critical_path(self) -> int:
        """Tiles on the longest chain of needs."""
        ...

    def needs(self, tile: int) -> Sequence[int]:
        """The tiles that must be done before this one may begin."""
        ...

    def feeds(self, tile: int) -> Sequence[int]:
        """The tiles that need this one."""
        ...

    def rank(self, tile: int) -> int:
        """Tiles on the longest chain that begins here and follows ``feeds``, this one not counted."""
        ...

    def pending(self, done: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """For every tile, how many of its needs are not done."""
        ...


@dataclass(frozen=True, slots=True)
class _Level:
    """One level's place in the numbering and its tables, each O(rows + columns)."""

    grid: Grid
    base: int
    rows: int
    cols: int
    coarse_rows: Spans = ()
    coarse_cols: Spans = ()
    fine_rows: Spans = ()
    fine_cols: Spans = ()
    head: tuple[Table, Table] = ((), ())
    tail: tuple[Table, Table] = ((), ())


@dataclass(frozen=True)
class WeavePlan:
    """Mask-shift order within each level, and the coarse tiles a fine tile sees through (HiR).

    ``levels[0]`` is the image itself; each further one is ``factor`` times coarser.
    """

    levels: tuple[Grid, ...]
    factor: int = 2
    _levels: tuple[_Level, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Lay out the numbering and the axis tables; refuse more needs a tile than a byte counts."""
        object.__setattr__(self, "_levels", _lay_out(self.levels, self.factor))
        for level, at in enumerate(self._levels):
            most = max(map(len, at.coarse_rows), default=0) * max(map(len, at.coarse_cols), default=0)
            if most + 2 > _MOST_NEEDS:
                raise InputError(
                    f"a tile of level {level} looks through {most} tiles of level {level + 1}, at most "
                    f"{_MOST_NEEDS - 2} are possible; make the stride of level {level + 1} larger than "
                    f"{self.levels[level + 1].stride}"
                )

    @cached_property
    def count(self) -> int:
        """Tiles in the plan."""
        return sum(grid.count for grid in self.levels)

    @cached_property
    def digest(self) -> str:
        """The plan's identity."""
        return blake2b(repr((self.levels, self.factor)).encode(), digest_size=16).hexdigest()

    def tiles(self, level: int) -> range:
        """The tiles of one level."""
        at = self._levels[level]
        return range(at.base, at.base + at.rows * at.cols)

    def key(self, tile: int) -> TileKey:
        """The tile's name."""
        level, row, col = self._locate(tile)
        return TileKey(level, row, col)

    def index(self, key: TileKey) -> int:
        """The tile of a name."""
        at = self._levels[key.level]
        return at.base + key.row * at.cols + key.col

    def _locate(self, tile: int) -> tuple[int, int, int]:
        for level, at in enumerate(self._levels):
            if tile >= at.base:
                row, col = divmod(tile - at.base, at.cols)
                return level, row, col
        raise IndexError(f"no tile {tile}")

    def follows(self, tile: int) -> int | None:
        """The tile whose finished window this one begins from; None: it begins in noise."""
        return None

    def needs(self, tile: int) -> list[int]:
        """West and north of its level, and every coarse tile that owns a pixel of its window."""
        level, row, col = self._locate(tile)
        at = self._levels[level]
        needs = []
        if not at.grid.naive:
            if col:
                needs.append(tile - 1)
            if row:
                needs.append(tile - at.cols)
        if at.coarse_rows:
            coarse = self._levels[level + 1]
            cols = at.coarse_cols[col]
            needs += [coarse.base + r * coarse.cols + c for r in at.coarse_rows[row] for c in cols]
        return needs

    def feeds(self, tile: int) -> list[int]:
        """East and south of its level, and every fine tile whose window touches what it owns."""
        level, row, col = self._locate(tile)
        at = self._levels[level]
        feeds = []
        if not at.grid.naive:
            if col + 1 < at.cols:
                feeds.append(tile + 1)
            if row + 1 < at.rows:
                feeds.append(tile + at.cols)
        if at.fine_rows:
            fine = self._levels[level - 1]
            cols = at.fine_cols[col]
            feeds += [fine.base + r * fine.cols + c for r in at.fine_rows[row] for c in cols]
        return feeds

    def reads(self, tile: int) -> list[int]:
        """Every tile that owns a pixel this one takes as context or low frequencies."""
        level, row, col = self._locate(tile)
        at = self._levels[level]
        reads = {at.base + r * at.cols + c for strip in at.grid.context(row, col) for r, c in at.grid.owners(strip)}
        if at.coarse_rows:
            coarse = self._levels[level + 1]
            reads |= {coarse.base + r * coarse.cols + c for r in at.coarse_rows[row] for c in at.coarse_cols[col]}
        return sorted(reads)

    def sees(self, tile: int) -> Box:
        """The tile's window, in pixels of its level."""
        level, row, col = self._locate(tile)
        return self.levels[level].sees(row, col)

    def owns(self, tile: int) -> Box:
        """The pixels it alone writes."""
        level, row, col = self._locate(tile)
        return self.levels[level].owns(row, col)

    def rank(self, tile: int) -> int:
        """Tiles that must follow this one, one after the other."""
        level, row, col = self._locate(tile)
        tail_rows, tail_cols = self._levels[level].tail
        return level + tail_rows[row] + tail_cols[col]

    def depth(self, tile: int) -> int:
        """Tiles that must come before this one, one after the other."""
        level, row, col = self._locate(tile)
        head_rows, head_cols = self._levels[level].head
        return len(self.levels) - 1 - level + head_rows[row] + head_cols[col]

    @cached_property
    def critical_path(self) -> int:
        """Tiles on the longest chain."""
        return self.depth(self.count - 1) + 1

    def width_profile(self) -> NDArray[np.int64]:
        """How many tiles can run at each step of unit time, with workers without end."""
        profile = np.zeros(self.critical_path, np.int64)
        for level, at in enumerate(self._levels):
            rows, cols = (np.bincount(np.asarray(head, np.int64)) for head in at.head)
            width = np.convolve(rows, cols)
            first = len(self.levels) - 1 - level
            profile[first : first + len(width)] += width
        return profile

    def pending(self, done: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """For every tile, how many of its needs are not done."""
        pending = np.zeros(self.count, np.uint8)
        for level, at in enumerate(self._levels):
            open_ = ~done[at.base : at.base + at.rows * at.cols].reshape(at.rows, at.cols)
            out = pending[at.base : at.base + at.rows * at.cols].reshape(at.rows, at.cols)
            if not at.grid.naive:
                out[:, 1:] += open_[:, :-1]
                out[1:] += open_[:-1]
            if at.coarse_rows:
                coarse = self._levels[level + 1]
                todo = ~done[coarse.base : coarse.base + coarse.rows * coarse.cols].reshape(coarse.rows, coarse.cols)
                _add_window_counts(out, todo, at.coarse_rows, at.coarse_cols)
        return pending

    def __iter__(self) -> Iterator[int]:
        """All tiles, in a legal order."""
        return iter(range(self.count))


def _add_window_counts(out: NDArray[np.uint8], open_: NDArray[np.bool_], rows: Spans, cols: Spans) -> None:
    """Add how many cells are set in each window of consecutive rows and columns."""
    by_cols = np.empty((open_.shape[0], len(cols)), np.uint8)
    for col, span in enumerate(cols):
        np.sum(open_[:, span.start : span.stop], axis=1, dtype=np.uint8, out=by_cols[:, col])
    for row, span in enumerate(rows):
        out[row] += by_cols[span.start : span.stop].sum(axis=0, dtype=np.uint8)


def _lay_out(grids: tuple[Grid, ...], factor: int) -> tuple[_Level, ...]:
    """The levels' numbering, coarsest first, and their axis tables."""
    shapes = [(grid.rows.count, grid.cols.count) for grid in grids]
    laid: list[_Level] = []
    for level, grid in enumerate(grids):
        base = sum(rows * cols for rows, cols in shapes[level + 1 :])
        coarse = grids[level + 1] if level + 1 < len(grids) else None
        fine = grids[level - 1] if level else None
        coarse_rows, coarse_cols = _coarse_spans(grid, coarse, factor) if coarse else ((), ())
        if fine:
            fine_rows, fine_cols = (
                _inverse(spans, count)
                for spans, count in zip(_coarse_spans(fine, grid, factor), shapes[level], strict=True)
            )
        else:
            fine_rows, fine_cols = (), ()
        laid.append(_Level(grid, base, *shapes[level], coarse_rows, coarse_cols, fine_rows, fine_cols))
    tails: list[tuple[Table, Table]] = []
    for at in laid:
        below = tails[-1] if tails else None
        tails.append(
            (
                _tails(at.rows, at.fine_rows, below[0] if below else (), chained=not at.grid.naive),
                _tails(at.cols, at.fine_cols, below[1] if below else (), chained=not at.grid.naive),
            )
        )
    heads: list[tuple[Table, Table]] = []
    for at in reversed(laid):
        above = heads[-1] if heads else None
        heads.append(
            (
                _heads(at.rows, at.coarse_rows, above[0] if above else (), chained=not at.grid.naive),
                _heads(at.cols, at.coarse_cols, above[1] if above else (), chained=not at.grid.naive),
            )
        )
    return tuple(
        _Level(
            at.grid, at.base, at.rows, at.cols, at.coarse_rows, at.coarse_cols, at.fine_rows, at.fine_cols, head, tail
        )
        for at, head, tail in zip(laid, reversed(heads), tails, strict=True)
    )


def _coarse_spans(fine: Grid, coarse: Grid, factor: int) -> tuple[Spans, Spans]:
    """For each fine row (and column) the coarse rows that own a pixel of its window."""
    spans = []
    for axis, onto in ((fine.rows, coarse.rows), (fine.cols, coarse.cols)):
        spans.append(tuple(onto.owners(axis.start(j) // factor, axis.stop(j) // factor) for j in range(axis.count)))
    return spans[0], spans[1]


def _inverse(spans: Spans, count: int) -> Spans:
    """For each coarse row the fine rows whose span holds it (consecutive, since spans only move on)."""
    first, last = [len(spans)] * count, [-1] * count
    for j, span in enumerate(spans):
        for coarse in span:
            first[coarse] = min(first[coarse], j)
            last[coarse] = j
    return tuple(range(lo, hi + 1) for lo, hi in zip(first, last, strict=True))


def _tails(count: int, fine: Spans, below: Table, *, chained: bool) -> Table:
    """Along one axis, how far the longest chain goes on: down the axis, or into the finer level."""
    tail = [0] * count
    for j in reversed(range(count)):
        if fine and fine[j]:
            tail[j] = below[fine[j][0]]
        if chained and j + 1 < count:
            tail[j] = max(tail[j], tail[j + 1] + 1)
    return tuple(tail)


def _heads(count: int, coarse: Spans, above: Table, *, chained: bool) -> Table:
    """Along one axis, how far the longest chain has come: along the axis, or from the coarser level."""
    head = [0] * count
    for j in range(count):
        if coarse:
            head[j] = above[coarse[j][-1]]
        if chained and j:
            head[j] = max(head[j], head[j - 1] + 1)
    return tuple(head)

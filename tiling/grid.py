"""The grid of overlapping tiles over one level of an image: what a tile sees, keeps and owns.

One axis, tile T, stride s, guard g; far(j) = start(j) + T - g, and the image's end for the last tile::

    tile j-1   |<------ sees T ------------>|
               |<------ keeps T-g ---->|.g..|
    tile j              |<------ sees T ------------>|
                        |--context-----|<--owns s-->|.g..|

Owned boxes partition the level. The scratch canvas is chunked by the stride, with its origin moved
so that every far edge is a chunk border: an inner tile owns exactly one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm

from .box import Box
from .errors import InputError


@dataclass(frozen=True, slots=True)
class Axis:
    """Tiles along one axis of ``length`` padded pixels."""

    length: int
    tile: int
    stride: int
    guard: int

    @property
    def count(self) -> int:
        """Tiles along the axis."""
        return 1 + -(-(self.length - self.tile) // self.stride)

    @property
    def chunk_offset(self) -> int:
        """Pixels between the canvas array's origin and the image's, so that far edges are chunk borders."""
        return (self.guard - self.tile) % self.stride

    def start(self, j: int) -> int:
        """First pixel tile j sees; the last tile is shifted inward to end with the image."""
        return max(0, min(j * self.stride, self.length - self.tile))

    def stop(self, j: int) -> int:
        """End of what tile j sees."""
        return min(self.start(j) + self.tile, self.length)

    def far(self, j: int) -> int:
        """End of what tile j keeps: its guard band is drawn again by the next tile."""
        return self.length if j == self.count - 1 else j * self.stride + self.tile - self.guard

    def near(self, j: int) -> int:
        """First pixel tile j owns: the far edge of the tile before it."""
        return 0 if j == 0 else self.far(j - 1)

    def owner(self, pixel: int) -> int:
        """The tile that owns a pixel."""
        return max(0, min(self.count - 1, -(-(pixel + 1 - (self.tile - self.guard)) // self.stride)))

    def owners(self, lo: int, hi: int) -> range:
        """The tiles that own a pixel of ``[lo, hi)``."""
        return range(self.owner(lo), self.owner(hi - 1) + 1) if hi > lo else range(0)

    def seers(self, lo: int, hi: int) -> range:
        """The tiles that see a pixel of ``[lo, hi)``."""
        if hi <= lo:
            return range(0)
        last = self.count - 1
        first = min(max(0, (lo - self.tile) // self.stride + 1), last)
        end = min((hi - 1) // self.stride, last)
        if hi > self.length - self.tile:
            end = last
        return range(first, end + 1)


@dataclass(frozen=True, slots=True)
class Grid:
    """Overlapping tiles over a level of ``height`` x ``width`` real pixels.

    ``align`` is the block that every border must respect: the operator's block at this level and the
    factor to the next coarser one. The level is padded to ``align`` and to at least ``least`` pixels, or else to a
    whole tile.
    """

    height: int
    width: int
    tile: int
    stride: int
    guard: int = 0
    align: int = 1
    least: int | None = None

    def __post_init__(self) -> None:
        """Refuse a geometry that breaks the rules, with the nearest that keeps them."""
        if self.height < 1 or self.width < 1:
            raise InputError(f"an image of {self.height}x{self.width} pixels has no pixel to restore")
        legal = legal_triple(self.tile, self.stride, self.guard, align=self.align)
        naive = self.stride == self.tile and self.guard == 0 and self.tile % self.align == 0
        if not naive and legal != (self.tile, self.stride, self.guard):
            raise InputError(
                f"tile {self.tile}, stride {self.stride}, guard {self.guard} must be multiples of {self.align} "
                "with stride + guard < tile; "
                f"the nearest that are: tile {legal[0]}, stride {legal[1]}, guard {legal[2]}"
            )

    @property
    def rows(self) -> Axis:
        """The axis of rows."""
        return Axis(self._padded(self.height), self.tile, self.stride, self.guard)

    @property
    def cols(self) -> Axis:
        """The axis of columns."""
        return Axis(self._padded(self.width), self.tile, self.stride, self.guard)

    def _padded(self, size: int) -> int:
        least = self.tile if self.least is None else self.least
        return max(least, -(-size // self.align) * self.align)

    @property
    def box(self) -> Box:
        """The padded level."""
        return Box(0, 0, self.rows.length, self.cols.length)

    @property
    def image(self) -> Box:
        """The real pixels of the level."""
        return Box(0, 0, self.height, self.width)

    @property
    def count(self) -> int:
        """Tiles in the grid."""
        return self.rows.count * self.cols.count

    @property
    def naive(self) -> bool:
        """Whether tiles take nothing from each other."""
        return self.stride + self.guard >= self.tile

    def sees(self, row: int, col: int) -> Box:
        """The tile's window: what its network looks at."""
        rows, cols = self.rows, self.cols
        return Box(rows.start(row), cols.start(col), rows.stop(row), cols.stop(col))

    def keeps(self, row: int, col: int) -> Box:
        """The window less the guard band: what the tile's neighbours may take."""
        rows, cols = self.rows, self.cols
        return Box(rows.start(row), cols.start(col), rows.far(row), cols.far(col))

    def owns(self, row: int, col: int) -> Box:
        """The pixels this tile alone writes."""
        rows, cols = self.rows, self.cols
        return Box(rows.near(row), cols.near(col), rows.far(row), cols.far(col))

    def context(self, row: int, col: int) -> tuple[Box, ...]:
        """What the west and north neighbours keep of this tile's window: the mask-shift constraint."""
        if self.naive:
            return ()
        sees = self.sees(row, col)
        strips = []
        if col > 0:
            strips.append(self.keeps(row, col - 1).intersect(sees))
        if row > 0:
            strips.append(self.keeps(row - 1, col).intersect(sees))
        return tuple(strips)

    def owners(self, box: Box) -> Iterator[tuple[int, int]]:
        """(row, col) of every tile that owns a pixel of ``box``."""
        cols = self.cols.owners(box.left, box.right)
        for row in self.rows.owners(box.top, box.bottom):
            for col in cols:
                yield row, col


def grid_align(block: int, factor: int | None) -> int:
    """The block every border of a level must respect: its operator's, and the factor to the next level."""
    return lcm(block, factor or 1)


def legal_triple(tile: int, stride: int, guard: int, *, align: int, multiple: int = 1) -> tuple[int, int, int]:
    """The legal (tile, stride, guard) nearest to the one asked for.

    All three are multiples of ``align``, the tile also of ``multiple`` (the network's), and
    ``stride + guard < tile``, so that some context is left.
    """
    unit = lcm(align, multiple)
    tile = max(unit, 2 * align, round(tile / unit) * unit)
    tile = -(-tile // unit) * unit
    guard = min(max(0, round(guard / align) * align), tile - 2 * align)
    stride = min(max(align, round(stride / align) * align), tile - guard - align)
    return tile, stride, guard

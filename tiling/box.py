"""Half-open pixel rectangles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """The pixels with ``top <= row < bottom`` and ``left <= column < right``, in absolute coordinates."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows covered."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns covered."""
        return self.right - self.left

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Pixels covered."""
        return max(0, self.height) * max(0, self.width)

    @property
    def empty(self) -> bool:
        """Whether no pixel is covered."""
        return self.bottom <= self.top or self.right <= self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index into the last two axes of an array whose origin is the absolute origin."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Index into the last two axes of an array that holds ``outer``."""
        return self.shift(-outer.top, -outer.left).slices

    def contains(self, other: Box) -> bool:
        """Whether every pixel of ``other`` is covered."""
        return other.empty or (
            self.top <= other.top
            and self.left <= other.left
            and other.bottom <= self.bottom
            and other.right <= self.right
        )

    def intersect(self, other: Box) -> Box:
        """The pixels in both."""
        return Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def shift(self, rows: int, columns: int) -> Box:
        """The same rectangle moved."""
        return Box(self.top + rows, self.left + columns, self.bottom + rows, self.right + columns)

    def scale(self, factor: int) -> Box:
        """The rectangle on a grid ``factor`` times finer."""
        return Box(self.top * factor, self.left * factor, self.bottom * factor, self.right * factor)

    def coarsen(self, factor: int) -> Box:
        """The smallest rectangle on a grid ``factor`` times coarser that covers this one."""
        return Box(self.top // factor, self.left // factor, -(-self.bottom // factor), -(-self.right // factor))

    def pad(self, margin: int) -> Box:
        """The rectangle grown by ``margin`` on every side (shrunk when negative)."""
        return Box(self.top - margin, self.left - margin, self.bottom + margin, self.right + margin)

    def __str__(self) -> str:
        return f"rows {self.top}:{self.bottom}, columns {self.left}:{self.right}"


class TileKey(NamedTuple):
    """A tile's name at the edges of the system; inside, a tile is an int."""

    level: int
    row: int
    col: int

    def __str__(self) -> str:
        return f"level {self.level} row {self.row} column {self.col}"

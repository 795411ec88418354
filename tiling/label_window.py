"""What the pixels of a window show, for networks that are told it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box


@dataclass(frozen=True, eq=False)
class LabelWindow:
    """The class of every pixel of a box, and where ``edges`` of instances lie, if the network is told any.

    Both have the axes (row, column). A window stands for itself alone, so that what is made of it may be kept for it.
    """

    box: Box
    classes: NDArray[np.uint16]
    edges: NDArray[np.bool_] | None = None
    _parts: dict[Box, LabelWindow] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[type[LabelWindow], tuple[Any, ...]]:
        """Without its parts, which would be copies of it wherever it goes."""
        return LabelWindow, (self.box, self.classes, self.edges)

    def crop(self, box: Box) -> LabelWindow:
        """A part of it, the same one each time."""
        if box not in self._parts:
            inside = box.within(self.box)
            edges = None if self.edges is None else self.edges[inside]
            self._parts[box] = LabelWindow(box, self.classes[inside], edges)
        return self._parts[box]

    def turned(self, quarters: int, *, mirrored: bool) -> LabelWindow:
        """The same window mirrored left to right or not, and then turned by quarters."""
        turned = {name: np.rot90(array[:, ::-1] if mirrored else array, quarters) for name, array in self.arrays()}
        return LabelWindow(self.box, **turned)

    def arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Its arrays, by name."""
        yield "classes", self.classes
        if self.edges is not None:
            yield "edges", self.edges


def edges_of(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a pixel's instance is another one than that of any of its four neighbours.

    ::

        . . . . .      ids, (row, column)
        . e e e .      the edges of all but the outermost pixels, whose neighbours are not there
        . e e e .
        . . . . .

    Both sides of a border are edges.
    """
    inner = ids[1:-1, 1:-1]
    across = (inner != ids[1:-1, :-2]) | (inner != ids[1:-1, 2:])
    found: NDArray[np.bool_] = across | (inner != ids[:-2, 1:-1]) | (inner != ids[2:, 1:-1])
    return found

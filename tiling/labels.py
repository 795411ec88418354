"""Maps of what an image shows: read by window at any level, their values turned into a network's classes.

A coarser level shows what the nearest pixel of the finest one shows; edges of instances are those of its own pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .cache import ChunkCache
from .errors import InputError
from .inputs import TASK, boxes
from .label_window import LabelWindow, edges_of
from .observe import Read, mirrored
from .source import Source, open_labels

Table = tuple[tuple[int, int], ...]
"""(value of a map, class that it stands for), all of them."""
# Pixels along a side that are read at once of a map of which few are kept.
_READ = 1024
# No map holds it: what is painted is an instance of its own.
_PAINTED = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Preset:
    """How a published data set numbers what it shows: its classes and their ``table``."""

    classes: int
    table: Table


def same_numbers(classes: int) -> Table:
    """The table of maps that hold the classes themselves."""
    return tuple((number, number) for number in range(classes))


PRESETS = {
    # What is no object comes first in the maps and last in the network.
    "ade20k": Preset(151, ((0, 150), *((value, value - 1) for value in range(1, 151)))),
    "celeba": Preset(19, same_numbers(19)),
    "cityscapes": Preset(35, same_numbers(35)),
    "coco": Preset(183, (*same_numbers(182), (255, 182))),
}


@dataclass(frozen=True)
class LabelPlan:
    """The maps of an image as plain data, for a network of so many ``classes``; they have the size of the result.

    ``edges``: the network is told edges, of ``instances`` where there is such a map, else of classes. ``paint`` is the
    value that pixels under the image's mask have in place of their own.
    """

    labels: str
    classes: int
    table: Table
    instances: str | None = None
    edges: bool = False
    paint: int | None = None


@dataclass(frozen=True, order=True)
class Unknown:
    """A value that the table lacks: where the first such pixel lies, and how many there are, of whatever values."""

    row: int
    col: int
    value: int
    count: int


class LabelMaps:
    """The maps of an image, opened; ``factor`` is how much coarser a level is than the one before."""

    def __init__(self, plan: LabelPlan, *, mask: Source | None = None, factor: int = 2, cache: ChunkCache) -> None:
        """Open the files; ``mask`` is what is painted."""
        self.plan, self.factor = plan, factor
        self._labels = open_labels(plan.labels, cache=cache)
        self._instances = open_labels(plan.instances, cache=cache) if plan.instances else None
        self._mask = mask if plan.paint is not None else None
        self.height, self.width = self._labels.height, self._labels.width

    def window(self, level: int, box: Box) -> LabelWindow:
        """What the pixels of a box of a level show; beyond the image they show what they mirror.

        Edges are those of the whole map: they are found with a pixel more on every side.
        """
        read = partial(self._read, self.factor**level)
        if not self.plan.edges:
            return LabelWindow(box, self._classes(read(self._values, box), box))
        wide = box.pad(1)
        classes = self._classes(read(self._values, wide), box)
        ids = classes if self._instances is None else read(self._ids, wide)
        return LabelWindow(box, classes[1:-1, 1:-1], edges_of(ids))

    def checks(self) -> Iterator[Box]:
        """Boxes that cover the map."""
        return boxes(self.height, self.width, TASK)

    def unknown(self, box: Box) -> Unknown | None:
        """The first of a box's values that no class is known for; of many there may be as many as pixels."""
        values = self._values(box)
        lacking = ~self._known(values)[1]
        if not lacking.any():
            return None
        row, col = np.unravel_index(int(lacking.argmax()), lacking.shape)
        return Unknown(box.top + int(row), box.left + int(col), int(values[row, col]), int(lacking.sum()))

    def _read(self, step: int, values: Read, box: Box) -> NDArray[np.int64]:
        """A window of every ``step``-th pixel, whatever its size by few pixels at a time."""
        height, width = -(-self.height // step), -(-self.width // step)
        return mirrored(partial(_every, step, values), height, width, box)

    def _values(self, box: Box) -> NDArray[np.int64]:
        """The map's own values, what is painted among them."""
        values = self._labels.read(box)[0].astype(np.int64)
        return self._painted(box, values, self.plan.paint)

    def _ids(self, box: Box) -> NDArray[np.int64]:
        assert self._instances is not None
        return self._painted(box, self._instances.read(box)[0].astype(np.int64), _PAINTED)

    def _painted(self, box: Box, values: NDArray[np.int64], paint: int | None) -> NDArray[np.int64]:
        if self._mask is not None and paint is not None:
            values[self._mask.read(box)[0] != 0] = paint
        return values

    @cached_property
    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        values, classes = zip(*sorted(self.plan.table), strict=True)
        return np.array(values, np.int64), np.array(classes, np.uint16)

    def _known(self, values: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Each value's place in the table, and whether it has one."""
        known, _ = self._table
        at = np.searchsorted(known, values).clip(max=len(known) - 1)
        return at, known[at] == values

    def _classes(self, values: NDArray[np.int64], where: Box) -> NDArray[np.uint16]:
        at, known = self._known(values)
        if not known.all():
            raise InputError(
                f"{self.plan.labels} holds {values[~known][0]} near {where}, which stands for none of the network's "
                f"{self.plan.classes} classes: correct the map"
            )
        classes: NDArray[np.uint16] = self._table[1][at]
        return classes


def _every(step: int, values: Read, box: Box) -> NDArray[Any]:
    """Every ``step``-th pixel, for a box of these."""
    if step == 1:
        return values(box)
    found = np.empty(box.shape, np.int64)
    for part in boxes(box.height, box.width, max(1, _READ // step)):
        at = part.shift(box.top, box.left)
        below = Box(at.top * step, at.left * step, (at.bottom - 1) * step + 1, (at.right - 1) * step + 1)
        found[part.slices] = values(below)[::step, ::step]
    return found


def refuse_unknown(plan: LabelPlan, found: Iterable[Unknown | None]) -> None:
    """Refuse maps for what was found in each of their boxes, if anything was."""
    unknown = [one for one in found if one]
    if not unknown:
        return
    first, others = min(unknown), sum(one.count for one in unknown) - 1
    more = f" (nor do{'es' if others == 1 else ''} {others} more pixel{'s' if others > 1 else ''})" if others else ""
    raise InputError(
        f"{plan.labels} holds {first.value} at row {first.row}, column {first.col}, which stands for none of the "
        f"network's {plan.classes} classes{more}: correct the map, or say in classes what its values stand for"
    )

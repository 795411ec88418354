"""Publishing as tasks that any worker can do: one for each shard of the pyramid, which no other task writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .access import ImageAccess
from .errors import TileloomError
from .place import Place, place
from .pyramid import Pyramid, PyramidSpec

Shard = tuple[int, int, int]
"""(level, row, column) of a shard of the pyramid."""


def shards_of(pyramid: Pyramid) -> list[list[Shard]]:
    """Every shard, level by level: a level is made of the one before it, which has to be whole."""
    return [[(level, *shard) for shard in pyramid.tasks(level)] for level in range(len(pyramid.arrays))]


def lay_out(output: Place, spec: PyramidSpec, *, root: Place, attributes: Mapping[str, Any]) -> Pyramid:
    """Lay out an empty pyramid for the generation that works in ``root``; no other one's shards are written to it."""
    _whose(root).write(root.name.encode())
    return Pyramid.create(output, spec, attributes=attributes)


def publish_shard(access: ImageAccess, output: Place, shard: Shard, degraded: Collection[int]) -> Shard:
    """Write one shard; returns it.

    A worker that was cut off may come to this late, when the image has begun anew, and is refused.
    """
    pyramid, (level, row, col), root = Pyramid.open(output), shard, place(access.image.root)

    def refuse_late() -> None:
        if _laid_out_for(root) not in (None, root.name):
            raise TileloomError(f"{output} was laid out anew before shard {row, col} of level {level} could be written")

    if level == 0:
        pyramid.write_base((row, col), lambda box: access.render(box, degraded), before=refuse_late)
    else:
        pyramid.write_coarser(level, (row, col), before=refuse_late)
    return shard


def _laid_out_for(root: Place) -> str | None:
    """The generation that the pyramid is laid out for; None where that was done before this was noted."""
    try:
        return _whose(root).read().decode()
    except FileNotFoundError:
        return None


def _whose(root: Place) -> Place:
    """Not in the pyramid itself, whose bytes do not depend on how often an image was begun."""
    return root.parents[0] / "laid-out"

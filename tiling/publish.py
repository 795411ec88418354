"""Publishing as tasks that any worker can do: one for each shard of the pyramid, which no other task writes."""

from __future__ import annotations

from collections.abc import Collection

from .access import ImageAccess
from .place import Place
from .pyramid import Pyramid

Shard = tuple[int, int, int]
"""(level, row, column) of a shard of the pyramid."""


def shards_of(pyramid: Pyramid) -> list[list[Shard]]:
    """Every shard, level by level: a level is made of the one before it, which has to be whole."""
    return [[(level, *shard) for shard in pyramid.tasks(level)] for level in range(len(pyramid.arrays))]


def publish_shard(access: ImageAccess, output: Place, shard: Shard, degraded: Collection[int]) -> Shard:
    """Write one shard; returns it."""
    pyramid, (level, row, col) = Pyramid.open(output), shard
    if level == 0:
        pyramid.write_base((row, col), lambda box: access.render(box, degraded))
    else:
        pyramid.write_coarser(level, (row, col))
    return shard

"""What a job will cost, and the refusal of one that does not fit, before any network call."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.worker import CACHE_BYTES
from ..tiling.errors import InputError
from ..tiling.plan import WeavePlan
from ..tiling.pyramid import PyramidSpec

# An interpreter with torch loaded.
BASE_BYTES = 400 * 2**20
# Float32 windows a tile in flight holds: its inputs, its state, and what a step of it needs.
WINDOWS_IN_FLIGHT = 32
# Shards in memory while one is published: its pixels, what they are made of, and what is compressed.
SHARDS_IN_FLIGHT = 4
MARGIN = 1.1


@dataclass(frozen=True)
class Bill:
    """Tiles, network calls, bytes on disk and in memory; ``solve`` counts the tiles that will run, level by level."""

    tiles: tuple[int, ...]
    solve: tuple[int, ...]
    calls: int
    critical_path: int
    scratch_bytes: int
    result_bytes: int
    memory_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The bill as plain JSON."""
        return asdict(self)


def make_bill(
    plan: WeavePlan, result: PyramidSpec, *, solve: tuple[int, ...], calls_per_tile: int, in_flight: int
) -> Bill:
    """Add up what running ``solve`` tiles a level costs, with ``in_flight`` of them at a time."""
    owned = [grid.stride**2 * result.bands * 4 for grid in plan.levels]
    window = plan.levels[0].tile ** 2 * result.bands * 4
    itemsize = np.dtype(result.dtype).itemsize
    shard = prod(result.shards(0)) * itemsize
    tiles = tuple(grid.count for grid in plan.levels)
    return Bill(
        tiles=tiles,
        solve=solve,
        calls=sum(solve) * calls_per_tile,
        critical_path=plan.critical_path,
        scratch_bytes=sum(count * size for count, size in zip(solve, owned, strict=True)),
        result_bytes=sum(prod(result.shape(level)) for level in range(result.levels)) * itemsize,
        memory_bytes=BASE_BYTES
        + CACHE_BYTES
        + in_flight * WINDOWS_IN_FLIGHT * window
        + SHARDS_IN_FLIGHT * shard
        + 8 * sum(tiles),
    )


def refuse_unaffordable(bill: Bill, output: Path, *, max_memory: int | None) -> None:
    """One sentence for a job that needs more memory or disk than there is, or may not write where it should."""
    existing = next(folder for folder in (output, *output.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{output} cannot be written: {existing} is no folder that this user may write to")
    memory = _available_memory() if max_memory is None else max_memory
    if memory is not None and bill.memory_bytes > memory:
        limit = "is available" if max_memory is None else "max_memory allows"
        raise InputError(
            f"this job needs about {gigabytes(bill.memory_bytes)} of memory and {limit} {gigabytes(memory)}: "
            "lower batch, lanes or tile"
        )
    needed = int(MARGIN * (bill.scratch_bytes + bill.result_bytes))
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"this job writes up to {gigabytes(needed)} and {existing} has {gigabytes(free)} free: "
            "choose another output or free some space"
        )


def _available_memory() -> int | None:
    names = os.sysconf_names
    if "SC_AVPHYS_PAGES" not in names:
        return None
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def gigabytes(size: int) -> str:
    """Bytes in a person's units."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"

"""What a job will cost, and the refusal of one that does not fit, before any network call."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.worker import CACHE_BYTES
from ..models.contract import Contract
from ..tiling.access import ImagePlan
from ..tiling.errors import InputError
from ..tiling.inputs import CHUNK, OWNS
from ..tiling.place import Located, place
from ..tiling.plan import WeavePlan
from ..tiling.pyramid import PyramidSpec
from .lockstep_bill import LockstepBill

# An interpreter with torch loaded.
BASE_BYTES = 400 * 2**20
# Float32 windows a tile in flight holds where no engine says it: its inputs, its state, and what a step of it needs.
WINDOWS_IN_FLIGHT = 32
# Shards in memory while one is published: its pixels, what they are made of, and what is compressed.
SHARDS_IN_FLIGHT = 4
MARGIN = 1.1
# Versions 2 and 1; a container sees its own limit at either.
_GROUP_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Bill:
    """Tiles, network calls, bytes on disk and in memory; ``solve`` counts the tiles that will run, level by level.

    ``device_bytes`` are those of an accelerator's own memory, known once the job begins. ``lockstep`` is what blocks
    that advance together cost, of which the other figures hold their share; such levels run whole or not at all, and
    ``critical_path`` counts them.
    """

    tiles: tuple[int, ...]
    solve: tuple[int, ...]
    calls: int
    critical_path: int
    scratch_bytes: int
    result_bytes: int
    memory_bytes: int
    device_bytes: int = 0
    lockstep: LockstepBill | None = None

    def as_json(self) -> dict[str, Any]:
        """The bill as plain JSON."""
        return asdict(self)


def tiles_to_solve(bits: NDArray[np.uint8], plan: WeavePlan) -> tuple[int, ...]:
    """Tiles a level that own something to restore, from the survey's bits."""
    spans = (plan.tiles(level) for level in range(len(plan.levels)))
    return tuple(int(np.count_nonzero(bits[at.start : at.stop] & OWNS)) for at in spans)


def make_bill(
    plan: WeavePlan,
    result: PyramidSpec,
    *,
    solve: tuple[int, ...],
    calls_per_tile: int,
    work_bytes: int,
    inputs_bytes: int = 0,
    device_bytes: int = 0,
) -> Bill:
    """Add up what running ``solve`` tiles a level costs.

    ``inputs_bytes`` is what :func:`coarser_bytes` says; ``work_bytes`` what the engine says it needs for the
    tiles in flight, or :func:`planned_bytes`, and ``device_bytes`` what of it lies on an accelerator.
    """
    owned = [grid.stride**2 * result.bands * 4 for grid in plan.levels]
    itemsize = np.dtype(result.dtype).itemsize
    shard = prod(result.shards(0)) * itemsize
    tiles = tuple(grid.count for grid in plan.levels)
    return Bill(
        tiles=tiles,
        solve=solve,
        calls=sum(solve) * calls_per_tile,
        critical_path=plan.critical_path,
        scratch_bytes=inputs_bytes + sum(count * size for count, size in zip(solve, owned, strict=True)),
        result_bytes=sum(prod(result.shape(level)) for level in range(result.levels)) * itemsize,
        memory_bytes=BASE_BYTES + CACHE_BYTES + work_bytes + SHARDS_IN_FLIGHT * shard + 8 * sum(tiles),
        device_bytes=device_bytes,
    )


def in_lockstep(bill: Bill, lockstep: LockstepBill, *, workers_here: int) -> Bill:
    """The bill of an image whose levels advance in lock-step, with all their windows: ``bill`` is of their blocks."""
    windows = sum(count for count, solve in zip(lockstep.windows, bill.solve, strict=True) if solve)
    return replace(
        bill,
        calls=windows * lockstep.steps,
        critical_path=len(lockstep.windows),
        scratch_bytes=bill.scratch_bytes + lockstep.saved_bytes,
        memory_bytes=bill.memory_bytes + workers_here * lockstep.memory_bytes,
        lockstep=lockstep,
    )


def planned_bytes(contract: Contract, *, in_flight: int, tile: int, bands: int) -> int:
    """About what the model and so many tiles in flight will need, before there is an engine that could say it."""
    channels = WINDOWS_IN_FLIGHT * contract.shown(bands) + contract.live_channels
    return contract.weight_bytes + 4 * in_flight * tile**2 * channels


def coarser_bytes(image: ImagePlan) -> int:
    """Bytes on disk of the coarser levels' own inputs: float32 values and a byte of flags, in whole chunks."""
    bands, height, width = image.measured_shape
    total = 0
    for lift in () if image.blank else image.lifts:
        height, width = -(-height // lift.pool), -(-width // lift.pool)
        if not lift.identity:
            total += -(-height // CHUNK) * -(-width // CHUNK) * CHUNK**2 * (4 * bands + 1)
    return total


def affordable_memory(max_memory: int | None) -> int | None:
    """Bytes that a job may take here, for whatever it does; None where nobody knows."""
    return _available_memory() if max_memory is None else max_memory


def refuse_unaffordable(
    bill: Bill,
    output: Located,
    *,
    max_memory: int | None,
    available: int | None = None,
    device_memory: int | None = None,
) -> None:
    """One sentence for a job that needs more memory or disk than there is, or may not write where it should.

    ``available`` is what there was before the job took any of it, None to ask now.
    """
    room = place(output).room()
    memory = affordable_memory(max_memory) if available is None else available
    if memory is not None and bill.memory_bytes > memory:
        limit = f"{gigabytes(memory)} can be had" if max_memory is None else f"max_memory allows {gigabytes(memory)}"
        raise InputError(
            f"this job needs about {gigabytes(bill.memory_bytes)} of memory and {limit}: lower batch, lanes or tile"
        )
    if device_memory is not None and bill.device_bytes > device_memory:
        raise InputError(
            f"this job needs about {gigabytes(bill.device_bytes)} of the accelerator's own memory and "
            f"{gigabytes(device_memory)} can be had: lower batch or tile"
        )
    needed = int(MARGIN * (bill.scratch_bytes + bill.result_bytes))
    if room and needed > room[1]:
        raise InputError(
            f"this job writes up to {gigabytes(needed)} and {room[0]} has {gigabytes(room[1])} free: "
            "choose another output or free some space"
        )


def _available_memory(root: Path = Path("/")) -> int | None:
    """Bytes this process may still take: what the machine has free, or what its control group allows if less."""
    limits = (_number(root / name) for name in _GROUP_LIMITS)
    found = [size for size in (_free_memory(root / "proc/meminfo"), *limits) if size is not None]
    return min(found, default=None)


def _free_memory(meminfo: Path) -> int | None:
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: Path) -> int | None:
    """The number a file holds; None without the file, or where it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def gigabytes(size: int) -> str:
    """Bytes in a person's units."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"

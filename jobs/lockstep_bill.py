"""What blocks that advance together cost: network calls, state and halos of a worker, bytes between workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..tiling.access import ImagePlan
from ..tiling.exchange import VALUE_BYTES, Pattern, features, joint, pixels, runs, traffic, windows_of
from ..tiling.lockstep import AHEAD, Lattice
from ..tiling.measurement import MaskSite
from .compile import Compiled

# Saved steps of a level that lie on disk at once: the settled one, and as many as blocks may be ahead of it.
_SAVED = AHEAD + 1
# Of the class of a pixel; whether it is an edge takes a byte.
_CLASS_BYTES = 2
# So many more patches to encode cost more than what features weigh: blocks are tiny then.
_MUCH_ENCODED = 0.5


@dataclass(frozen=True)
class ExchangeBill:
    """Bytes between workers by one way of trading: of a step of the finest level phase by phase, and of all steps.

    ``encoded`` are the patches that go through the first half of a network that has halves, in a step of that level.
    """

    name: str
    phase_bytes: tuple[int, ...]
    total_bytes: int
    encoded: int = 0


@dataclass(frozen=True)
class LockstepBill:
    """What a level in lock-step costs at most; levels come one after the other.

    ``windows`` and ``blocks`` count level by level. A worker has ``state_bytes`` of blocks and of what others sent, and
    ``kept_bytes`` of what it sent itself; of both ``memory_bytes`` are in memory and ``file_bytes`` in files of its
    machine. ``saved_bytes`` are those of saved steps, beside the result. ``calls_one_by_one`` are what the busiest
    worker shows the network, one after the other. The first of the ``exchanges`` is the job's.
    """

    windows: tuple[int, ...]
    blocks: tuple[int, ...]
    block: int
    steps: int
    workers: int
    calls_one_by_one: int
    state_bytes: int
    kept_bytes: int
    memory_bytes: int
    file_bytes: int
    saved_bytes: int
    exchanges: tuple[ExchangeBill, ...]


def better_exchange(bill: LockstepBill) -> str | None:
    """Which of two ways of trading is the better one, and why; None where there is but one, or nothing is traded."""
    ways = {one.name: one for one in bill.exchanges}
    if len(ways) < 2 or not ways["pixels"].total_bytes:
        return None
    by_pixels, by_features = ways["pixels"], ways["features"]
    less = by_features.total_bytes / by_pixels.total_bytes
    more = by_pixels.encoded / by_features.encoded - 1
    told = f"pixels are {less:.0f} times fewer bytes, and {more:.0%} more patches to encode"
    return f"{'features' if more > _MUCH_ENCODED else 'pixels'}, since {told}"


def pattern_of(compiled: Compiled) -> Pattern:
    """The way in which an image's blocks trade."""
    return next(iter(patterns_of(compiled).values()))


def patterns_of(compiled: Compiled) -> dict[str, Pattern]:
    """The ways in which an image's blocks may trade, that of the job first."""
    bands, contract = compiled.image.bands, compiled.contract
    if compiled.weave == "joint":
        return {"pixels and windows": joint(bands)}
    found = {"pixels": pixels(bands), "features": features(bands, contract.features)}
    return dict(sorted(found.items(), key=lambda one: one[0] != compiled.spec.lockstep.exchange))


def lockstep_bill(compiled: Compiled, *, workers: int, slots: int) -> LockstepBill:
    """The bill of an image in lock-step, for workers that show the network so many windows at a time."""
    image, told, steps = compiled.image, compiled.spec.lockstep, compiled.calls_per_tile
    patterns = patterns_of(compiled)
    levels = image.lattices
    pattern = pattern_of(compiled)
    held = max(_state(image, level, pattern, workers) for level in range(len(levels)))
    ahead = min(steps, AHEAD * told.every)
    kept = ahead * max(traffic(lattice, pattern, workers).most_sent for lattice in levels)
    in_memory = min(held + kept, told.memory)
    saved = min(_SAVED, (steps - 1) // told.every)
    return LockstepBill(
        windows=tuple(lattice.windows.count for lattice in levels),
        blocks=tuple(lattice.count for lattice in levels),
        block=levels[0].blocks.tile,
        steps=steps,
        workers=workers,
        calls_one_by_one=steps * sum(_busiest(lattice, workers, slots) for lattice in levels),
        state_bytes=held,
        kept_bytes=kept,
        memory_bytes=in_memory,
        file_bytes=held + kept - in_memory,
        saved_bytes=saved * max(VALUE_BYTES * image.bands * lattice.blocks.box.area for lattice in levels),
        exchanges=_exchanges(levels, patterns, steps=steps, workers=workers),
    )


def _busiest(lattice: Lattice, workers: int, slots: int) -> int:
    """Network calls one after the other of a step, by the worker that has most windows."""
    return max(-(-windows_of(lattice, share) // slots) for share in runs(lattice.count, workers))


def _exchanges(
    levels: tuple[Lattice, ...], patterns: Mapping[str, Pattern], *, steps: int, workers: int
) -> tuple[ExchangeBill, ...]:
    found = []
    for name, pattern in patterns.items():
        sent = [traffic(lattice, pattern, workers) for lattice in levels]
        encoded = _encoded(levels[0], name)
        found.append(ExchangeBill(name, sent[0].phases, steps * sum(one.step for one in sent), encoded))
    return tuple(found)


def _encoded(lattice: Lattice, exchange: str) -> int:
    """Patches that all blocks encode in a step: with pixels those at a border more than once."""
    if not lattice.windows.naive:
        return 0
    if exchange == "features":
        return (lattice.windows.rows.count + 1) * (lattice.windows.cols.count + 1)
    blocks = (lattice.box(block) for block in range(lattice.count))
    return sum((box.height // lattice.cell + 1) * (box.width // lattice.cell + 1) for box in blocks)


def _state(image: ImagePlan, level: int, pattern: Pattern, workers: int) -> int:
    """Bytes of the blocks of the worker that has most of a level, and of the halos that lie with it in one phase."""
    lattice = image.lattices[level]
    return max(
        sum(_block(image, level, block, pattern) + _halos(lattice, pattern, block) for block in share)
        for share in runs(lattice.count, workers)
    )


def _block(image: ImagePlan, level: int, block: int, pattern: Pattern) -> int:
    """Bytes of a block: noisy pixels, all that is known and shown of it, and what the network said of its windows."""
    lattice, measurement = image.lattices[level], image.measurements[level]
    box = lattice.box(block)
    values = image.bands * box.area + len(lattice.begun(block)) * pattern.held(lattice)
    measured = box.coarsen(measurement.scale).area
    known = measured * (1 + VALUE_BYTES * (1 if measurement.gray else image.bands))
    visible = box.area if measurement.mask is MaskSite.TARGET else 0
    coarse = box.coarsen(image.plan.factor).area * (1 + VALUE_BYTES * image.bands)
    labels = lattice.reach(block).area * (_CLASS_BYTES + image.labels.edges) if image.labels else 0
    return VALUE_BYTES * values + known + visible + labels + (coarse if level + 1 < len(image.lattices) else 0)


def _halos(lattice: Lattice, pattern: Pattern, block: int) -> int:
    """Bytes of what all neighbours send a block, in the phase in which that is most."""
    return max(
        VALUE_BYTES * depth * sum(handed(lattice, other, block) for other in lattice.around[block])
        for handed, depth in zip(pattern.handed, pattern.depths, strict=True)
    )

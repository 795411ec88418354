"""Work that only sleeps, for benchmarks of who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import sleep

import numpy as np

from tileloom.tiling.errors import TileFailed
from tileloom.tiling.lockstep import Lattice
from tileloom.tiling.work import Block, Floats, Strip, TileInputs


@dataclass(frozen=True)
class Asleep:
    """A tile somewhere in its schedule."""

    window: Floats
    calls: int = 0


@dataclass(frozen=True)
class Sleeper:
    """What a worker needs of a :class:`~tileloom.tiling.work.TileWork`; its forward pass sleeps, however full it is."""

    slots: int
    tile: int
    calls_per_tile: int
    call_seconds: float
    device_memory: int | None = None
    numeric_class: dict[str, str] = field(default_factory=lambda: {"device": "none"})

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return (self.slots, 1, self.tile, self.tile)

    def memory(self, batch: int) -> int:
        return batch

    def begin(self, inputs: TileInputs) -> Asleep:
        return Asleep(inputs.y)

    def step(self, states: Sequence[Asleep]) -> list[Asleep | TileFailed]:
        sleep(self.call_seconds)
        return [replace(state, calls=state.calls + 1) for state in states]

    def finished(self, state: Asleep) -> bool:
        return state.calls == self.calls_per_tile

    def finish(self, state: Asleep) -> Floats:
        return state.window

    def pack(self, state: Asleep) -> bytes:
        return bytes([state.calls])

    def unpack(self, inputs: TileInputs, packed: bytes) -> Asleep:
        return Asleep(inputs.y, packed[0])


@dataclass(frozen=True)
class BlockSleeper:
    """What a worker needs of a :class:`~tileloom.tiling.work.BlockWork` with the rounds of joint weaving.

    Its forward pass sleeps, however full it is; the noisy pixels that windows see go from block to block.
    """

    slots: int
    tile: int
    steps: int
    call_seconds: float
    phases: int = 2
    room: int = 2**30
    device_memory: int | None = None
    numeric_class: dict[str, str] = field(default_factory=lambda: {"device": "none"})

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return (self.slots, 1, self.tile, self.tile)

    def memory(self, batch: int) -> int:
        return batch

    def begin(self, lattice: Lattice, number: int, inputs: TileInputs, saved: Floats | None, at: int) -> Block:
        return Block(lattice, number, inputs, at, inputs.y if saved is None else saved)

    def calls(self, block: Block) -> int:
        return 0 if block.between else len(block.lattice.begun(block.number))

    def strips(self, block: Block) -> dict[int, Strip]:
        lattice, box = block.lattice, block.inputs.box
        seen = {n: lattice.reach(n).intersect(box) for n in lattice.around[block.number]}
        return {n: (block.x[:, *part.within(box)].copy(),) for n, part in seen.items() if not part.empty}

    def advance(self, blocks: Sequence[tuple[Block, Mapping[int, Strip]]]) -> list[Block | TileFailed]:
        windows = sum(self.calls(block) for block, _ in blocks)
        sleep(-(-windows // self.slots) * self.call_seconds)
        nothing = (np.zeros(0, np.float32),)
        return [replace(block, round=block.round + 1, between=() if block.between else nothing) for block, _ in blocks]

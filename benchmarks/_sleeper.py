"""Work that only sleeps, for benchmarks of who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import sleep

from tileloom.tiling.errors import TileFailed
from tileloom.tiling.work import Floats, TileInputs


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

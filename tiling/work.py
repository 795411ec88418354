"""The seam between scheduling and restoring: what a tile is given, and what works on it.

``cluster`` drives a :class:`TileWork` without knowing tensors; ``models`` implements one without
knowing processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .box import Box, TileKey
from .errors import TileFailed
from .measurement import Measurement

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TileInputs:
    """Everything one tile is computed from, in model range; axes (band, row, column).

    ``box`` is what the tile sees, in pixels of its level. ``y`` lies on the measured grid
    (``measurement.scale`` target pixels a value), is 0 where ``measured`` is False; ``visible`` is
    the target mask of measurements that have one. ``context`` holds the neighbours' finished pixels
    where ``context_mask``; ``coarse`` the coarser level's where ``coarse_mask``, ``factor`` target
    pixels a value. ``start`` is the finished window that it begins from in place of noise.
    """

    image: str
    key: TileKey
    box: Box
    measurement: Measurement
    y: Floats
    measured: Bools
    visible: Bools | None = None
    context: Floats | None = None
    context_mask: Bools | None = None
    coarse: Floats | None = None
    coarse_mask: Bools | None = None
    factor: int = 2
    start: Floats | None = None

    def digest(self, settings: bytes) -> str:
        """A digest of all of it and of the settings it is computed under."""
        digest = blake2b(settings, digest_size=16)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                digest.update(f"{field.name}{value.shape}{value.dtype}".encode())
                digest.update(np.ascontiguousarray(value).data)
            else:
                digest.update(f"{field.name}={value}".encode())
        return digest.hexdigest()


S = TypeVar("S")


class TileWork(Protocol[S]):
    """Restores tiles in a running batch; a state is a tile somewhere in its schedule."""

    @property
    def slots(self) -> int:
        """States that one call of :meth:`step` advances at full use: padded batch times lanes."""
        ...

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The one padded shape of every forward pass."""
        ...

    @property
    def device_memory(self) -> int | None:
        """Bytes that it may hold on a device with memory of its own; None where that is the machine's."""
        ...

    @property
    def calls_per_tile(self) -> int:
        """Network calls from begin to finish."""
        ...

    @property
    def numeric_class(self) -> dict[str, str]:
        """What bits depend on besides the job: versions, precision and such; ``device`` is the device's model."""
        ...

    def memory(self, batch: int) -> int:
        """Bytes a worker needs to hold and advance ``batch`` states."""
        ...

    def begin(self, inputs: TileInputs) -> S:
        """A tile at the start of its schedule."""
        ...

    def step(self, states: Sequence[S]) -> list[S | TileFailed]:
        """Every state one network call further, in order; a failure takes the place of its own tile alone."""
        ...

    def finished(self, state: S) -> bool:
        """Whether the schedule has ended."""
        ...

    def finish(self, state: S) -> Floats:
        """The restored window, all bands, in model range."""
        ...

    def pack(self, state: S) -> bytes:
        """A state in the middle of its schedule, for another worker of the same numeric class."""
        ...

    def unpack(self, inputs: TileInputs, packed: bytes) -> S:
        """The state that :meth:`pack` saved, of a tile with these inputs."""
        ...

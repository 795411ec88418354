"""The seam between scheduling and restoring: what a tile is given, and what works on it.

``cluster`` drives a :class:`TileWork` without knowing tensors; ``models`` implements one without
knowing processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .box import Box, TileKey
from .errors import TileFailed
from .label_window import LabelWindow
from .lockstep import Lattice
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
    labels: LabelWindow | None = None

    def digest(self, settings: bytes) -> str:
        """A digest of all of it and of the settings it is computed under."""
        digest = blake2b(settings, digest_size=16)
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, np.ndarray | LabelWindow):
                digest.update(f"{field.name}={value}".encode())
        for name, array in self.arrays():
            digest.update(f"{name}{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """All of its arrays, by name."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                yield field.name, value
        if self.labels is not None:
            yield from self.labels.arrays()

    def crop(self, box: Box) -> TileInputs:
        """What a part of the window is computed from; its borders must be those of measured and coarse values."""
        measured = box.coarsen(self.measurement.scale).within(self.box.coarsen(self.measurement.scale))
        coarse = box.coarsen(self.factor).within(self.box.coarsen(self.factor))
        inside = box.within(self.box)
        return replace(
            self,
            box=box,
            y=self.y[:, *measured],
            measured=self.measured[..., *measured],
            visible=_cut(self.visible, inside),
            context=_cut(self.context, inside),
            context_mask=_cut(self.context_mask, inside),
            coarse=_cut(self.coarse, coarse),
            coarse_mask=_cut(self.coarse_mask, coarse),
            start=_cut(self.start, inside),
            labels=None if self.labels is None else self.labels.crop(box),
        )


A = TypeVar("A", Floats, Bools)


def _cut(array: A | None, at: tuple[slice, slice]) -> A | None:
    """A part of an array along its last two axes, if there is one."""
    return None if array is None else array[..., *at]


S = TypeVar("S")


class Batched(Protocol):
    """Shows windows to a network in forward passes of one padded shape."""

    @property
    def slots(self) -> int:
        """Windows that the network is shown at once, at full use: padded batch times lanes."""
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
    def numeric_class(self) -> dict[str, str]:
        """What bits depend on besides the job: versions, precision and such; ``device`` is the device's model."""
        ...

    def memory(self, batch: int) -> int:
        """Bytes a worker needs to hold so many windows and to show them to the network."""
        ...


class TileWork(Batched, Protocol[S]):
    """Restores tiles in a running batch; a state is a tile somewhere in its schedule."""

    @property
    def calls_per_tile(self) -> int:
        """Network calls from begin to finish."""
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


Strip = tuple[Floats, ...]
"""What a block needs of a neighbour for its next round."""


@dataclass(frozen=True, eq=False)
class Block:
    """A block of an image between two rounds: the noisy pixels ``x``, and what an unfinished step has come to.

    ``number`` is its place among the blocks of the ``lattice``, ``inputs`` all that is known of it.
    """

    lattice: Lattice
    number: int
    inputs: TileInputs
    round: int
    x: Floats
    between: Strip = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.nbytes for array in (self.x, *self.between, *(array for _, array in self.inputs.arrays())))


class BlockWork(Batched, Protocol):
    """Takes blocks through the rounds of a lock-step plan; each goes on with what its neighbours came to.

    What a block comes to depends on nothing but the level: not on how that is cut into blocks, nor on company.
    """

    @property
    def room(self) -> int:
        """Bytes of blocks and halos that a worker keeps in memory; what is more goes to files."""
        ...

    @property
    def steps(self) -> int:
        """Steps from noise to image."""
        ...

    @property
    def phases(self) -> int:
        """Rounds of a step."""
        ...

    def begin(self, lattice: Lattice, number: int, inputs: TileInputs, saved: Floats | None, at: int) -> Block:
        """A block at the round ``at`` that ends a step, with the pixels it had then; or else in noise."""
        ...

    def calls(self, block: Block) -> int:
        """Windows that its next round shows to the network."""
        ...

    def strips(self, block: Block) -> dict[int, Strip]:
        """What its neighbours need of it for their next round, by their numbers; nothing for those that need none."""
        ...

    def advance(self, blocks: Sequence[tuple[Block, Mapping[int, Strip]]]) -> list[Block | TileFailed]:
        """Every block one round further, in order, given its neighbours' strips; a failure takes its own place."""
        ...


Work = TileWork[Any] | BlockWork
"""What a worker is made with: tiles go their way alone, or blocks advance together."""

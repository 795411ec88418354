"""What all lock-step works have in common: a batch for the network, and a sampler that goes on cell by cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..tiling.box import Box
from ..tiling.errors import TileFailed
from ..tiling.lockstep import Lattice
from ..tiling.work import Batched, Block, Floats, Strip, TileInputs
from .lanes import Given, Made
from .solvers import Walk


class Passes(Batched, Protocol):
    """Shows windows to a network in several forward passes side by side."""

    def in_lanes(self, call: Callable[[Given], Made], given: Iterable[Given]) -> list[Made]:
        """What a call makes of each, side by side and each on one thread."""
        ...


class CellWork(ABC):
    """Takes blocks through their rounds: a work says what the network is asked, and how its answers make a cell's.

    Whatever a pixel comes to is computed on the cell that holds it, so that blocks decide no bit.
    """

    phases: int

    def __init__(self, passes: Passes, walk: Walk, *, room: int) -> None:
        """Show windows to a network by ``passes``, and use a sampler; ``room`` is for blocks in memory."""
        self._passes = passes
        self.walk = walk
        self.room = room

    @property
    def slots(self) -> int:
        """Windows that the network is shown at once, at full use."""
        return self._passes.slots

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The one padded shape of every forward pass."""
        return self._passes.batch_shape

    @property
    def device_memory(self) -> int | None:
        """Bytes that it may hold on a device with memory of its own; None where that is the machine's."""
        return self._passes.device_memory

    @property
    def numeric_class(self) -> dict[str, str]:
        """What bits depend on besides the job."""
        return self._passes.numeric_class

    @property
    def steps(self) -> int:
        """Steps from noise to image, each with one call of the network for every window."""
        return self.walk.calls

    def memory(self, batch: int) -> int:
        """Bytes to show the network so many windows."""
        return self._passes.memory(batch)

    def begin(self, lattice: Lattice, number: int, inputs: TileInputs, saved: Floats | None, at: int) -> Block:
        """A block at the round ``at`` with the pixels it had then, or in noise."""
        if saved is None:
            x_CHW = np.empty((self.walk.bands, *inputs.box.shape), np.float32)
            for cell in lattice.cells(number):
                x_CHW[:, *cell.within(inputs.box)] = self.walk.first(inputs.crop(cell)).cpu().numpy()
            saved = x_CHW
        return Block(lattice, number, inputs, at, saved)

    def further(self, block: Block, between: Strip) -> Block:
        """A block in the middle of its step."""
        return replace(block, round=block.round + 1, between=between)

    def told(self, block: Block, answers: Iterable[tuple[Box, Tensor]]) -> Block | TileFailed:
        """A block at the end of its step, told what the network says of each of its cells."""
        call = block.round // self.phases
        x_CHW = np.empty_like(block.x)

        def tell(one: tuple[Box, Tensor]) -> bool:
            cell, answer_CHW = one
            at = cell.within(block.inputs.box)
            with torch.inference_mode():
                before_CHW = torch.from_numpy(np.ascontiguousarray(block.x[:, *at])).to(self.walk.device)
                state = self.walk.at(block.inputs.crop(cell), before_CHW, call)
                after_CHW = self.walk.tell(state, answer_CHW).x_CHW
                x_CHW[:, *at] = after_CHW.cpu().numpy()
                return bool(torch.isfinite(after_CHW).all())

        if all(self._passes.in_lanes(tell, answers)):
            return replace(block, round=block.round + 1, x=x_CHW, between=())
        inputs = block.inputs
        return TileFailed(
            f"image {inputs.image}, block {inputs.key} ({inputs.box}) has values that are not finite after step "
            f"{call + 1} of {self.steps}"
        )

    @abstractmethod
    def calls(self, block: Block) -> int:
        """Windows that its next round shows to the network."""

    @abstractmethod
    def strips(self, block: Block) -> dict[int, Strip]:
        """What its neighbours need of it for their next round."""

    @abstractmethod
    def advance(self, blocks: Sequence[tuple[Block, Mapping[int, Strip]]]) -> list[Block | TileFailed]:
        """Every block one round further."""


def noisy_strips(block: Block, reach: Callable[[int], Box]) -> dict[int, Strip]:
    """The noisy pixels of a block that its neighbours see, by how far each of them reaches."""
    box = block.inputs.box
    seen = {n: reach(n).intersect(box) for n in block.lattice.around[block.number]}
    return {n: (block.x[:, *part.within(box)].copy(),) for n, part in seen.items() if not part.empty}

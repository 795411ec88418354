"""Joint weaving: overlapping windows are predicted at every step and fused, then all that is known is imposed.

A step has two rounds. *Predict*: a block sees the noisy pixels around it and asks the network of the windows that
begin in it. *Fuse*: it is told what its neighbours' windows say of its own pixels; each of its cells adds up all
windows over it, in the order of the level's rows, and goes one step further by the sampler's ordinary arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..tiling.box import Box
from ..tiling.errors import TileFailed
from ..tiling.grid import Axis
from ..tiling.lockstep import Lattice
from ..tiling.work import Block, Floats, Strip
from .cells import CellWork, noisy_strips
from .engine import Engine
from .solvers import Walk

Window = tuple[int, int]


class JointWork(CellWork):
    """A :class:`~tileloom.tiling.work.BlockWork` over any denoiser of pixels and any sampler."""

    phases = 2

    def __init__(self, engine: Engine, walk: Walk, *, room: int) -> None:
        """Ask an engine's network; ``room`` is for blocks in memory."""
        super().__init__(engine, walk, room=room)
        self.engine = engine

    def calls(self, block: Block) -> int:
        """The windows that begin in the block, in the round that predicts."""
        return 0 if block.between else len(block.lattice.begun(block.number))

    def strips(self, block: Block) -> dict[int, Strip]:
        """Noisy pixels that a neighbour's windows see; then, window by window, what was predicted of its own."""
        lattice = block.lattice
        if not block.between:
            return noisy_strips(block, lattice.reach)
        predicted = _predicted(block)
        found: dict[int, Strip] = {}
        for n in lattice.around[block.number]:
            theirs = lattice.box(n)
            parts = [
                answer[:, *theirs.intersect(sees).within(sees)].copy()
                for window, answer in predicted.items()
                if not theirs.intersect(sees := lattice.windows.sees(*window)).empty
            ]
            if parts:
                found[n] = tuple(parts)
        return found

    def advance(self, blocks: Sequence[tuple[Block, Mapping[int, Strip]]]) -> list[Block | TileFailed]:
        """Every block one round further."""
        predicting = [at for at, (block, _) in enumerate(blocks) if not block.between]
        done: dict[int, Block | TileFailed] = dict(
            zip(predicting, self._predicted([blocks[at] for at in predicting]), strict=True)
        )
        return [
            done[at] if at in done else self.told(block, self._fused(block, strips))
            for at, (block, strips) in enumerate(blocks)
        ]

    def _predicted(self, blocks: Sequence[tuple[Block, Mapping[int, Strip]]]) -> list[Block]:
        """The blocks with the network's answers to all their windows, which share forward passes."""
        asked = []
        for block, strips in blocks:
            x_CHW, reach = self._surroundings(block, strips)
            level, call, labels = block.inputs.key.level, block.round // self.phases, block.inputs.labels
            for window in block.lattice.begun(block.number):
                sees = block.lattice.windows.sees(*window)
                shown = labels and labels.crop(sees)
                asked.append(self.walk.question(x_CHW[:, *sees.within(reach)], call, level, shown))
        answers = iter(self.engine.answers(asked))
        found = []
        for block, _ in blocks:
            between = tuple(next(answers).cpu().numpy() for _ in block.lattice.begun(block.number))
            # Where no window begins, the round has come to something all the same.
            found.append(self.further(block, between or (np.zeros(0, np.float32),)))
        return found

    def _surroundings(self, block: Block, strips: Mapping[int, Strip]) -> tuple[Tensor, Box]:
        """The noisy pixels that a block's windows see, put together from its own and its neighbours'."""
        lattice, reach = block.lattice, block.lattice.reach(block.number)
        x_CHW = np.empty((block.x.shape[0], *reach.shape), np.float32)
        x_CHW[:, *block.inputs.box.within(reach)] = block.x
        for n, (pixels,) in strips.items():
            x_CHW[:, *lattice.box(n).intersect(reach).within(reach)] = pixels
        return torch.from_numpy(x_CHW).to(self.walk.device), reach

    def _fused(self, block: Block, strips: Mapping[int, Strip]) -> Iterator[tuple[Box, Tensor]]:
        """Each cell, and what all windows over it say of it together."""
        lattice = block.lattice
        own = _predicted(block).items()
        parts: dict[Window, tuple[Box, Floats]] = {w: (lattice.windows.sees(*w), answer) for w, answer in own}
        for n, answers in strips.items():
            seen = [(w, lattice.windows.sees(*w).intersect(block.inputs.box)) for w in lattice.begun(n)]
            parts |= {
                w: (box, part)
                for (w, box), part in zip([one for one in seen if not one[1].empty], answers, strict=True)
            }
        for cell in lattice.cells(block.number):
            yield cell, torch.from_numpy(_sum(lattice, parts, cell)).to(self.walk.device)


def _predicted(block: Block) -> dict[Window, Floats]:
    """What the network said of the windows that begin in a block; it still holds something where none does."""
    return dict(zip(block.lattice.begun(block.number), block.between, strict=False))


def _sum(lattice: Lattice, parts: Mapping[Window, tuple[Box, Floats]], cell: Box) -> Floats:
    """The windows over a cell, each by its share, added up row by row of the level's windows."""
    rows, cols = shares(lattice.windows.rows), shares(lattice.windows.cols)
    fused: Floats | None = None
    for row, col in lattice.over(cell):
        box, part = parts[row, col]
        seen = cell.intersect(box)
        sees = lattice.windows.sees(row, col)
        down, right = seen.within(sees)
        share = rows[row][down, None] * cols[col][None, right]
        if fused is None:
            fused = np.zeros((part.shape[0], *cell.shape), np.float32)
        fused[:, *seen.within(cell)] += share * part[:, *seen.within(box)]
    assert fused is not None
    return fused


@lru_cache(maxsize=16)
def shares(axis: Axis) -> tuple[Floats, ...]:
    """The share that each window along an axis has in the pixels it sees: they add up to 1 at every pixel.

    A window says less of a pixel the nearer that is to an edge which other windows see beyond.
    """
    total = np.zeros(axis.length)
    bumps = []
    for j in range(axis.count):
        inside = np.arange(axis.tile) + 0.5
        ahead = inside if j else np.full(axis.tile, np.inf)
        behind = axis.tile - inside if j + 1 < axis.count else np.full(axis.tile, np.inf)
        bumps.append(np.minimum(np.minimum(ahead, behind), axis.tile))
        total[axis.start(j) : axis.stop(j)] += bumps[-1]
    return tuple((bump / total[axis.start(j) : axis.stop(j)]).astype(np.float32) for j, bump in enumerate(bumps))

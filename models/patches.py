"""Patch-DM in lock-step: at every step a patch is drawn from the features of all patches around it.

Blocks trade either *pixels*, a strip half a patch wide whose patches both encode, in one round a step; or *features*,
in two: each patch at a border is encoded by one block, which hands its quarters to those that need them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..tiling.box import Box
from ..tiling.errors import TileFailed
from ..tiling.exchange import CORNERS, PatchPlace, encoded_by, taken_of
from ..tiling.lockstep import Lattice
from ..tiling.work import Block, Floats, Strip
from .cells import CellWork, noisy_strips
from .collage import from_quarters
from .halves import Features, Halves, Told
from .prediction import Prediction, away_from
from .solvers import Walk

Exchange = Literal["pixels", "features"]

T = TypeVar("T")


class PatchWork(CellWork):
    """A :class:`~tileloom.tiling.work.BlockWork` over a Patch-DM network; cells are its patches."""

    def __init__(
        self,
        halves: Halves,
        walk: Walk,
        *,
        room: int,
        exchange: Exchange,
        guidance: float,
        styled: bool,
        prediction: Prediction | None = None,
    ) -> None:
        """Tell patches a style if they are ``styled``; ``guidance`` goes away from what it says when told nothing.

        A ``prediction`` turns what the network predicts into noise, None where it is that already.
        """
        super().__init__(halves, walk, room=room)
        self._halves, self._guidance, self._styled, self._prediction = halves, guidance, styled, prediction
        self._exchange = exchange
        self.phases = 2 if exchange == "features" else 1

    @property
    def _patch(self) -> int:
        return self._halves.config.patch

    def calls(self, block: Block) -> int:
        """The patches of the block, in the round that draws them."""
        decodes = self._exchange == "pixels" or bool(block.between)
        return len(block.lattice.begun(block.number)) if decodes else 0

    def strips(self, block: Block) -> dict[int, Strip]:
        """Noisy pixels half a patch around a neighbour, or the quarters of features that it takes."""
        lattice = block.lattice
        if block.between:
            encoded = _own(block)
            neighbours = ((n, taken_of(lattice, n, block.number)) for n in lattice.around[block.number])
            return {
                n: _stacked([_quarters(encoded[at], corner) for at, corner in taken])
                for n, taken in neighbours
                if taken
            }
        return noisy_strips(block, partial(self._reach, lattice))

    def advance(self, blocks: Sequence[tuple[Block, Mapping[int, Strip]]]) -> list[Block | TileFailed]:
        """Every block one round further."""
        return [self._advanced(block, strips) for block, strips in blocks]

    def _advanced(self, block: Block, strips: Mapping[int, Strip]) -> Block | TileFailed:
        if self._exchange == "pixels":
            return self.told(block, self._drawn(block, self._encoding(block, strips, _around(block))))
        if not block.between:
            encoding = self._encoding(block, strips, encoded_by(block.lattice, block.number))
            return self.further(block, _stacked([_as_numpy(variants) for _, variants in encoding]))
        return self.told(block, self._collaged(block, strips))

    def _reach(self, lattice: Lattice, number: int) -> Box:
        """The pixels that the encoder patches of a block see."""
        half = self._patch // 2
        box = lattice.box(number)
        if self._exchange == "pixels":
            return box.pad(half)
        return Box(box.top - half, box.left - half, box.bottom, box.right)

    def _variants(self, block: Block, row: float, col: float) -> list[Told]:
        """What the network is told of a patch: all there is; for guidance also nothing."""
        question = self.walk.question(torch.empty(0), block.round // self.phases, block.inputs.key.level)
        told = Told(question.timestep, row, col, no_style=not self._styled, no_position=False)
        untold = told._replace(no_style=True, no_position=True)
        return [told, untold] if self._guidance else [told]

    def _encoding(
        self, block: Block, strips: Mapping[int, Strip], places: Sequence[PatchPlace]
    ) -> Iterator[tuple[PatchPlace, list[Features]]]:
        """Encoder patches, a few at a time, and the features of each as it is told of in every variant."""
        patch, half, around = self._patch, self._patch // 2, block.inputs.box.pad(self._patch // 2)
        x_CHW = np.zeros((block.x.shape[0], *around.shape), np.float32)
        x_CHW[:, half:-half, half:-half] = block.x
        for n, (pixels,) in strips.items():
            x_CHW[:, *block.lattice.box(n).intersect(self._reach(block.lattice, block.number)).within(around)] = pixels
        pixels_CHW = torch.from_numpy(x_CHW).to(self.walk.device)
        for some in _groups(places, self._together):
            rows = [(place, told) for place in some for told in self._variants(block, *map(float, place))]
            corners = [(i * patch - half, j * patch - half) for (i, j), _ in rows]
            seen = [pixels_CHW[:, *Box(0, 0, patch, patch).shift(*corner).within(around)] for corner in corners]
            features = self._halves.encode(seen, [told for _, told in rows])
            yield from zip(some, _groups(features, len(rows) // len(some)), strict=True)

    @property
    def _together(self) -> int:
        """Patches that all lanes take at once."""
        return max(1, self._halves.slots // (2 if self._guidance else 1))

    def _drawn(
        self, block: Block, encoding: Iterator[tuple[PatchPlace, list[Features]]]
    ) -> Iterator[tuple[Box, Tensor]]:
        """The noise in every patch, drawn as soon as the four encoder patches around it are there, row by row."""
        encoded: dict[PatchPlace, list[Features]] = {}
        left = list(block.lattice.begun(block.number))
        waiting: list[PatchPlace] = []
        for place, features in encoding:
            encoded[place] = features
            i, j = place
            if (i - 1, j - 1) in encoded and left and left[0] == (i - 1, j - 1):
                waiting.append(left.pop(0))
            if len(waiting) == self._together or (waiting and not left):
                yield from self._decoded(block, waiting, [_corners(encoded, at) for at in waiting])
                # Whatever lies before the next patch in the order of rows is taken by no other.
                encoded = {at: kept for at, kept in encoded.items() if left and at >= left[0]}
                waiting = []

    def _collaged(self, block: Block, strips: Mapping[int, Strip]) -> Iterator[tuple[Box, Tensor]]:
        """The noise in every patch, from the quarters that the block and its neighbours have."""
        lattice, number = block.lattice, block.number
        own = _own(block)
        given: dict[tuple[PatchPlace, PatchPlace], Sequence[Floats]] = {
            taken: parts
            for n, strip in strips.items()
            for taken, parts in zip(taken_of(lattice, number, n), zip(*strip, strict=True), strict=True)
        }

        def quarters(at: PatchPlace, corner: PatchPlace) -> list[Features]:
            maps = _quarters(own[at], corner) if at in own else given[at, corner]
            dtype, device = self._halves.dtype, self.walk.device
            return [[torch.from_numpy(level[v]).to(device, dtype) for level in maps] for v in range(len(maps[0]))]

        for some in _groups(lattice.begun(number), self._together):
            around = [[quarters((i + down, j + right), (down, right)) for down, right in CORNERS] for i, j in some]
            yield from self._decoded(block, some, around)

    def _decoded(
        self, block: Block, places: Sequence[PatchPlace], around: Sequence[Sequence[list[Features]]]
    ) -> Iterator[tuple[Box, Tensor]]:
        """The noise in patches, given the quarters around each: by corner, then by variant, then by level."""
        told = [self._variants(block, i + 0.5, j + 0.5) for i, j in places]
        features = [
            [from_quarters(*(one[None] for one in level))[0] for level in zip(*corners, strict=True)]
            for by_corner in around
            for corners in zip(*by_corner, strict=True)
        ]
        predicted = self._halves.decode(features, [one for variants in told for one in variants])
        for (i, j), variants, told_and_not in zip(places, told, _groups(predicted, len(told[0])), strict=True):
            cell = Box(i, j, i + 1, j + 1).scale(self._patch)
            said_CHW = told_and_not[0]
            if self._guidance:
                said_CHW = away_from(told_and_not[1], said_CHW, self._guidance)
            eps_CHW = self._noise(block, cell, said_CHW, variants[0].timestep)
            # Ancestral steps of this network have the larger of the fixed variances.
            yield cell, torch.cat([eps_CHW, torch.ones_like(eps_CHW)])

    def _noise(self, block: Block, cell: Box, said_CHW: Tensor, timestep: float) -> Tensor:
        """The noise in a patch, from what the network predicts of it."""
        if self._prediction is None:
            return said_CHW
        x_CHW = torch.from_numpy(block.x[:, *cell.within(block.inputs.box)]).to(said_CHW.device)
        return self._prediction.answer(said_CHW[None], x_CHW[None], torch.tensor([timestep]))[0]


def _around(block: Block) -> list[PatchPlace]:
    """The encoder patches around the patches of a block, row by row."""
    begun = block.lattice.begun(block.number)
    (top, left), (bottom, right) = begun[0], begun[-1]
    return [(i, j) for i in range(top, bottom + 2) for j in range(left, right + 2)]


def _own(block: Block) -> dict[PatchPlace, tuple[Floats, ...]]:
    """The features of the encoder patches that a block has encoded, level by level (variant, channel, row, column)."""
    patches = zip(*block.between, strict=True)
    return dict(zip(encoded_by(block.lattice, block.number), patches, strict=True))


def _stacked(maps: Sequence[Sequence[Floats]]) -> tuple[Floats, ...]:
    """The levels of all patches, patch after patch."""
    return tuple(np.stack(level) for level in zip(*maps, strict=True))


def _as_numpy(variants: Sequence[Features]) -> list[Floats]:
    """The levels of a patch, variant after variant; float32 holds whatever a lesser precision does."""
    return [torch.stack(level).float().cpu().numpy() for level in zip(*variants, strict=True)]


def _quarters(maps: Sequence[Floats], corner: PatchPlace) -> list[Floats]:
    """The quarter of every level's map that a decoder patch takes of the encoder patch at one of its corners."""
    return [level[..., *_quarter(level.shape[-1], corner)] for level in maps]


def _corners(encoded: Mapping[PatchPlace, list[Features]], at: PatchPlace) -> list[list[Features]]:
    """The quarters around a decoder patch: by corner, then by variant, then by level."""
    i, j = at
    return [
        [[level[..., *_quarter(level.shape[-1], corner)] for level in features] for features in variants]
        for corner in CORNERS
        for variants in [encoded[i + corner[0], j + corner[1]]]
    ]


def _quarter(side: int, corner: PatchPlace) -> tuple[slice, slice]:
    """Where it lies in a map of so many values a side: on the side that is turned to the decoder patch."""
    half = side // 2
    rows, cols = (slice(0, half) if at else slice(half, None) for at in corner)
    return rows, cols


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """So many at a time."""
    for at in range(0, len(items), size):
        yield items[at : at + size]

"""The two halves of a Patch-DM network in forward passes of one padded shape, several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from ..tiling.errors import InputError
from .adapted import bytes_of
from .contract import live_in
from .device import fix_arithmetic, own_memory
from .engine import DependentRows, numeric_class
from .lanes import Given, Lanes, Made
from .patchdm import PatchUNet
from .rows import claim, dependent_row, run_in_parts, run_together

Features = list[Tensor]
_TRIALS = 3


class Told(NamedTuple):
    """What the network is told of a patch: its timestep, where its centre lies, and what of this is dropped."""

    timestep: float
    row: float
    col: float
    no_style: bool
    no_position: bool


class Halves:
    """Encodes and decodes any number of patches, ``batch`` in a pass and ``lanes`` passes side by side.

    All have one ``style``; where that is None, none of them is told any.
    """

    def __init__(self, network: PatchUNet, style: Tensor | None, *, batch: int, lanes: int, device: str) -> None:
        """Fix the threads and the batch's shape; refuse a shape in which a row's bits depend on its slot."""
        for name, value in (("batch", batch), ("lanes", lanes)):
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        self.config = network.config
        self._network, self._batch, self._lanes, self._device = network, batch, lanes, device
        self._style = torch.zeros(self.config.style_channels) if style is None else style
        self._style = self._style.to(device)
        fix_arithmetic()
        self._pool = Lanes(lanes)
        self._pool.once(self._settle_rows)

    @property
    def slots(self) -> int:
        """Patches that the network is shown at once, at full use."""
        return self._batch * self._lanes

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(batch, bands, rows, columns) of every pass."""
        return (self._batch, self.config.in_channels, self.config.patch, self.config.patch)

    @property
    def device_memory(self) -> int | None:
        """Bytes that it may hold on a device with memory of its own; None where that is the machine's."""
        return own_memory(self._device)

    @property
    def numeric_class(self) -> dict[str, str]:
        """What bits depend on besides the job."""
        return numeric_class(self._device, [self._network], self._network.numerics, self.batch_shape)

    def memory(self, batch: int) -> int:
        """Bytes of the weights, of the passes side by side, and of the features of so many patches."""
        return memory_of_halves(self._network, batch=self._batch, lanes=self._lanes, patches=batch)

    @property
    def dtype(self) -> torch.dtype:
        """The type of features."""
        return self._network.torso_dtype

    def in_lanes(self, call: Callable[[Given], Made], given: Iterable[Given]) -> list[Made]:
        """What a call makes of each, side by side and each on one thread."""
        return self._pool.each(call, given)

    def encode(self, patches: Sequence[Tensor], told: Sequence[Told]) -> list[Features]:
        """The features of encoder patches."""
        return self._passed(self._encoded, list(zip(([patch] for patch in patches), told, strict=True)))

    def decode(self, features: Sequence[Features], told: Sequence[Told]) -> list[Tensor]:
        """The noise in decoder patches."""
        return [eps for (eps,) in self._passed(self._decoded, list(zip(features, told, strict=True)))]

    def rate(self) -> float:
        """Patches a second through both halves with every slot in use: the best of a few short trials."""
        patches, told = self._trial()
        everything = patches * self._lanes, told * self._lanes
        fastest = inf
        for _ in range(_TRIALS):
            began = perf_counter()
            self.decode(self.encode(*everything), everything[1])
            fastest = min(fastest, perf_counter() - began)
        return self.slots / fastest

    def _passed(
        self,
        half: Callable[[Sequence[tuple[Features, Told]]], list[Features]],
        rows: Sequence[tuple[Features, Told]],
    ) -> list[Features]:
        groups = [rows[at : at + self._batch] for at in range(0, len(rows), self._batch)]
        return [made for group in self.in_lanes(half, groups) for made in group]

    @torch.inference_mode()
    def _encoded(self, rows: Sequence[tuple[Features, Told]]) -> list[Features]:
        (patches,), told = self._filled(rows)
        return _by_row(self._network.encode(patches, *told), len(rows))

    @torch.inference_mode()
    def _decoded(self, rows: Sequence[tuple[Features, Told]]) -> list[Features]:
        features, told = self._filled(rows)
        return _by_row([self._network.decode(features, *told)], len(rows))

    def _filled(self, rows: Sequence[tuple[Features, Told]]) -> tuple[Features, tuple[Tensor, ...]]:
        """Rows as a padded batch, and what is told of each."""
        padding = self._batch - len(rows)
        levels = zip(*(maps for maps, _ in rows), strict=True)
        stacked = [torch.stack([*level, *[torch.zeros_like(level[0])] * padding]) for level in levels]
        told = [*(one for _, one in rows), *[Told(0.0, 0.0, 0.0, no_style=False, no_position=False)] * padding]
        return stacked, (
            torch.tensor([one.timestep for one in told], device=self._device),
            torch.tensor([[one.row, one.col] for one in told], device=self._device),
            self._style.expand(self._batch, -1),
            torch.tensor([[one.no_style, one.no_position] for one in told], device=self._device),
        )

    def _trial(self) -> tuple[list[Tensor], list[Told]]:
        """A full batch of unlike patches."""
        patches = torch.randn(self.batch_shape, generator=torch.Generator().manual_seed(0)).to(self._device)
        told = [
            Told(999.0 * row / self._batch, float(row), 0.5 * row, no_style=row % 2 > 0, no_position=row % 3 > 0)
            for row in range(self._batch)
        ]
        return list(patches), told

    @torch.inference_mode()
    def _settle_rows(self) -> None:
        """See that a row's bits do not depend on its slot, if need be by running some layers in parts."""
        patches, told = self._trial()

        def forward(order: Sequence[int]) -> Tensor:
            features = self._encoded([([patches[row]], told[row]) for row in order])
            eps = self._decoded([(one, told[row]) for row, one in zip(order, features, strict=True)])
            return torch.stack(
                [
                    torch.cat([each.float().flatten() for each in (*one, *noise)])
                    for one, noise in zip(features, eps, strict=True)
                ]
            )

        claim(self._network, self)
        run_together(self._network)
        if dependent_row(forward, self._batch) is None:
            return
        run_in_parts(self._network, lambda: forward(range(self._batch)))
        if dependent_row(forward, self._batch) is not None:
            raise DependentRows(
                f"a Patch-DM network in batches of {'x'.join(map(str, self.batch_shape))} gives a patch other values "
                "in another slot or company; choose another batch size"
            )


def memory_of_halves(network: PatchUNet, *, batch: int, lanes: int, patches: int) -> int:
    """Bytes of the weights, of the passes side by side, and of the features of so many patches around theirs."""
    config = network.config
    passing = lanes * batch * config.patch**2 * live_in(config)
    return bytes_of(network.parameters()) + 4 * (passing + 4 * patches * config.feature_values)


def _by_row(maps: Sequence[Tensor], count: int) -> list[Features]:
    """Maps of a batch as those of each used row, laid out alike whatever the network made them."""
    return [[each[row].contiguous() for each in maps] for row in range(count)]

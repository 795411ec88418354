"""What a clean tile must agree with, as linear constraints on its prediction ``x0`` (band, row, column).

Later ones win where they conflict: low frequencies of the coarser level (HiR), then the measurement
(DDNM), then the neighbours' finished pixels (MSR's mask shift).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..tiling.errors import InputError
from ..tiling.work import Bools, Floats, TileInputs
from .operators import Operator, block_mean, block_repeat, operator_for
from .parity import AS_WRITTEN, Parity


class Constraint(Protocol):
    """One linear constraint on the predicted clean tile."""

    def apply(self, x0: Tensor, lam: float | Tensor) -> Tensor:
        """The nearest tile that meets it; ``lam``, by pixel or one, is the trust in a measurement, 1 for fully."""
        ...


@dataclass(frozen=True, eq=False)
class LowFrequency:
    """Block means equal the coarser level's pixels where ``mask``; HiR's ``x0 + up(coarse - pool(x0))``."""

    coarse: Tensor
    mask: Tensor
    factor: int

    def apply(self, x0: Tensor, lam: float | Tensor) -> Tensor:
        """``x0`` with its low frequencies exchanged, whatever ``lam``."""
        missing = torch.where(self.mask, self.coarse - block_mean(x0, self.factor), 0)
        return x0 + block_repeat(missing, self.factor)


@dataclass(frozen=True, eq=False)
class Measured:
    """The tile measures as y; ``back_projection`` is ``A+ y``, made once a tile."""

    operator: Operator
    back_projection: Tensor

    def apply(self, x0: Tensor, lam: float | Tensor) -> Tensor:
        """DDNM's range-space correction of strength ``lam``."""
        return self.operator.project(x0, self.back_projection, lam=lam)


@dataclass(frozen=True, eq=False)
class Overlap:
    """The neighbours' finished pixels, to the bit, where ``mask``."""

    values: Tensor
    mask: Tensor

    def apply(self, x0: Tensor, lam: float | Tensor) -> Tensor:
        """``x0`` with the finished pixels pasted in, whatever ``lam``."""
        return torch.where(self.mask, self.values, x0)


def constraints_for(
    inputs: TileInputs, bands: int, *, device: torch.device | str = "cpu", parity: Parity = AS_WRITTEN
) -> tuple[Constraint, ...]:
    """All of a tile's constraints, in the order in which they are applied."""
    operator = operator_for(inputs, bands, device=device, parity=parity)
    if inputs.y.shape != operator.y_shape:
        shapes = ["x".join(map(str, shape)) for shape in (inputs.y.shape, operator.y_shape)]
        raise InputError(f"image {inputs.image}, tile {inputs.key}: measurement is {shapes[0]}, must be {shapes[1]}")
    measured = Measured(operator, operator.pinv(torch.tensor(inputs.y, device=device)))
    return (*low_frequencies(inputs, device), measured, *overlaps(inputs, device))


def low_frequencies(inputs: TileInputs, device: torch.device | str) -> tuple[LowFrequency, ...]:
    """What a coarser level tells, if there is one."""
    if inputs.coarse is None:
        return ()
    return (LowFrequency(*_known(inputs.coarse, inputs.coarse_mask, device), inputs.factor),)


def overlaps(inputs: TileInputs, device: torch.device | str) -> tuple[Overlap, ...]:
    """What neighbours have finished, if any has."""
    return () if inputs.context is None else (Overlap(*_known(inputs.context, inputs.context_mask, device)),)


def known_pixels(inputs: TileInputs, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Pixels that are known exactly, of a tile measured on its own grid, and where they are (1, row, column)."""
    x, where = _known(inputs.y, inputs.measured, device)
    known = where.expand_as(x).all(dim=0, keepdim=True)
    for overlap in overlaps(inputs, device):
        x = overlap.apply(x, 1.0)
        known = known | overlap.mask.expand_as(x).all(dim=0, keepdim=True)
    return x, known.to(x.dtype)


def _known(values: Floats, mask: Bools | None, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Values and where they hold; without a mask, everywhere."""
    held = np.ones(values.shape, np.bool_) if mask is None else mask
    return torch.tensor(values, device=device), torch.tensor(held, device=device)

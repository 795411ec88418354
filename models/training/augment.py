"""Adaptive augmentation (Karras et al., 2020): a discriminator never sees a picture as it is, so that few suffice.

Each change happens to a share of the pictures, so that what is real can still be told from all that is seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .objective import Draws

# Signs of what the critic says of real crops: above this mean it learns them by heart, and sees more changes.
_HEEDED = 0.6
# Crops in which the share of changes goes from 0 to 1.
_CROPS = 100_000
_MOST = 0.8
# As shares of a side, of model range, and of a factor's logarithm.
_SHIFT, _BRIGHTNESS, _CONTRAST = 0.125, 0.2, 0.35


def augmented(x_BCHW: Tensor, share: float, draws: Draws, *, bands: int, rows: int) -> Tensor:
    """Square pictures, mirrored, turned, shifted, brighter and harder; planes after ``bands`` keep their values.

    There are ``rows`` changes, and every so many rows they are the same ones.
    """
    if not share:
        return x_BCHW
    u = draws.uniform("augment", (rows, 10)).repeat(len(x_BCHW) // rows, 1)
    on, how = u[:, :5] < share, u[:, 5:]
    x = _where(on[:, 0], x_BCHW.flip(3), x_BCHW)
    for turns in (1, 2, 3):
        x = _where(on[:, 1] & ((4 * how[:, 1]).long() == turns), x.rot90(turns, (2, 3)), x)
    x = _where(on[:, 2], _shifted(x, how[:, 2], how[:, 0]), x)
    pixels, planes = x[:, :bands], x[:, bands:]
    pixels = _where(on[:, 3], pixels + _BRIGHTNESS * _signed(how[:, 3]), pixels)
    pixels = _where(on[:, 4], pixels * (_CONTRAST * _signed(how[:, 4])).exp(), pixels)
    return torch.cat([pixels, planes], dim=1)


def adapted(share: float, sign: float, crops: int) -> float:
    """The share of changes after a step on so many real crops, of which the critic said so much on average."""
    step = crops / _CROPS
    return min(_MOST, max(0.0, share + (step if sign > _HEEDED else -step)))


def _where(on_B: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(on_B[:, None, None, None], changed, x)


def _signed(u_B: Tensor) -> Tensor:
    return (2 * u_B - 1)[:, None, None, None]


def _shifted(x: Tensor, down_B: Tensor, right_B: Tensor) -> Tensor:
    """Every picture moved by whole pixels, what leaves it coming back at the other side."""
    for axis, share_B in ((2, down_B), (3, right_B)):
        side = x.shape[axis]
        by_B = ((2 * share_B - 1) * _SHIFT * side).long()
        index = (torch.arange(side, device=x.device) - by_B[:, None]) % side
        index = index[:, None, :, None] if axis == 2 else index[:, None, None, :]
        x = x.take_along_dim(index, dim=axis)
    return x

"""Predict, pick, sample (Li et al., 2022): certain pixels of a hole become known first, the others next to them later.

Axes (..., band, row, column), any before these for windows; iterations count from 0 here. For t = 1..T, of K missing
pixels of each window::

    predict  mu_t, sigma_t^2 everywhere; u~ = the variance, scaled to [0, 1] over the pixels missing in m_{t-1}
    pick     of the missing pixels those with the smallest u~ join m_t, until floor(K g(t / T)) have
    sample   x_t = x_0 + (m_t - m_0) (mu_t + alpha sigma_t z), without noise at t = T

All that was filled is written anew from the latest mu_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sqrt

import torch
from torch import Tensor

from .spatial_config import ALPHA, Picking


def target(picking: Picking, missing: int, iteration: int, iterations: int) -> int:
    """How many pixels are filled after an iteration; all of them after the last."""
    done = iteration + 1
    if done == iterations or picking == "uniform":
        return missing * done // iterations
    part = done / iterations
    share = {"cosine": 1 - cos(pi / 2 * part), "sqrt": sqrt(part), "cubic": part**3}[picking]
    return int(missing * share)


def picks(picking: Picking, missing: int, iteration: int, iterations: int) -> int:
    """How many pixels an iteration fills."""
    before = target(picking, missing, iteration - 1, iterations) if iteration else 0
    return target(picking, missing, iteration, iterations) - before


@dataclass(frozen=True, eq=False)
class Spread:
    """A window with some of its hole filled, or many of one size.

    ``known`` (bool) are the pixels that are known now, ``u`` how uncertain each is: 0 where it was known from the
    beginning, 1 where it is missing, u~ of the latest iteration where it was filled.
    """

    x_CHW: Tensor
    known_HW: Tensor
    u_HW: Tensor

    @classmethod
    def begin(cls, x_CHW: Tensor, known_HW: Tensor) -> Spread:
        """Nothing is filled, and what is missing is 0."""
        return cls(torch.where(known_HW.unsqueeze(-3), x_CHW, 0), known_HW, (~known_HW).to(x_CHW.dtype))

    @property
    def window(self) -> Tensor:
        """What a network is shown of it: bands, what is known, and how uncertain each pixel is."""
        known_HW = self.known_HW.to(self.x_CHW.dtype)
        return torch.cat([self.x_CHW, known_HW.unsqueeze(-3), self.u_HW.unsqueeze(-3)], dim=-3)

    @classmethod
    def of(cls, window: Tensor) -> Spread:
        """What :attr:`window` shows."""
        return cls(window[..., :-2, :, :], window[..., -2, :, :] > 0, window[..., -1, :, :])


def uncertainty(variance_CHW: Tensor, known_HW: Tensor) -> Tensor:
    """u~: the mean of the bands' variances, scaled so that it runs from 0 to 1 where pixels are not known."""
    bands = variance_CHW.unbind(-3)
    # Band after band, so that a sum's bits depend on no kernel's choice.
    mean = sum(bands[1:], start=bands[0]) / len(bands)
    # Nothing here asks a device for a number, which would wait for all before it.
    low = torch.where(known_HW, torch.inf, mean).amin(dim=(-2, -1), keepdim=True)
    high = torch.where(known_HW, -torch.inf, mean).amax(dim=(-2, -1), keepdim=True)
    return torch.where(high > low, ((mean - low) / (high - low)).clamp(0, 1), 0)


def picked(u_HW: Tensor, known_HW: Tensor, count: int | Tensor) -> Tensor:
    """What is known once the ``count`` least uncertain of the missing pixels are, ties in row-major order."""
    order = torch.where(known_HW, torch.inf, u_HW).flatten(-2).sort(stable=True, dim=-1).indices
    rank = torch.arange(order.shape[-1], device=order.device)
    least = rank < (count[..., None] if isinstance(count, Tensor) else count)
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, least.expand_as(order))
    return known_HW | chosen.view_as(known_HW)


def spread(
    before: Spread,
    first: Spread,
    mean_CHW: Tensor,
    variance_CHW: Tensor,
    *,
    count: int | Tensor,
    noise_CHW: Tensor | None,
    alpha: float = ALPHA,
) -> tuple[Spread, Tensor]:
    """One iteration on from ``before``, and its u~; ``count`` pixels are picked of each, and no noise ends a run."""
    told_HW = uncertainty(variance_CHW, before.known_HW)
    known_HW = picked(told_HW, before.known_HW, count)
    filled_HW = known_HW & ~first.known_HW
    drawn_CHW = mean_CHW if noise_CHW is None else mean_CHW + alpha * variance_CHW.sqrt() * noise_CHW
    u_HW = torch.where(filled_HW, told_HW, first.u_HW)
    return Spread(torch.where(filled_HW.unsqueeze(-3), drawn_CHW, first.x_CHW), known_HW, u_HW), told_HW

"""From what a network predicts (eps, v, the clean window, a variance) to what a denoiser tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .schedule import Schedule, schedule

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What the channels of a network's output mean, for a chain with these ``betas``.

    ``predicts`` is "eps", "v" or "x0"; with a = sqrt(abar) and s = sqrt(1 - abar), v is ``a eps - s x_0``.
    A ``variance`` of "learned" is that of a step itself, any other is v of :class:`~tileloom.models.denoiser.Answer`
    already. Between timesteps, logarithms are interpolated.
    """

    predicts: str
    betas: Sequence[float]
    variance: str | None = None

    def answer(self, told_BCHW: Tensor, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """eps, and behind it the variance's place where the network learned it."""
        bands = x_BCHW.shape[1]
        eps_BCHW = self._eps(told_BCHW[:, :bands], x_BCHW, t_B)
        rest_BCHW = told_BCHW[:, bands:]
        if self.variance == "learned":
            rest_BCHW = self._place(rest_BCHW, t_B)
        return torch.cat([eps_BCHW, rest_BCHW], dim=1)

    def _eps(self, told_BCHW: Tensor, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        if self.predicts == "eps":
            return told_BCHW
        log_abar_B = self._at(self._log_abar, t_B)
        a_B111, s_B111 = (_column(np.sqrt(part), x_BCHW) for part in (np.exp(log_abar_B), -np.expm1(log_abar_B)))
        if self.predicts == "v":
            return a_B111 * told_BCHW + s_B111 * x_BCHW
        return (x_BCHW - a_B111 * told_BCHW) / s_B111

    def _place(self, variance_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Where a variance lies between the posterior's (-1) and beta's (1), by logarithms."""
        tables = self._chain
        low_B, high_B = (
            self._at(table, t_B) for table in (tables.posterior_log_variance_clipped, np.log(tables.betas))
        )
        log_BCHW = variance_BCHW.clamp(min=torch.finfo(torch.float32).tiny).log()
        return (log_BCHW - _column(low_B, log_BCHW)) * _column(2 / (high_B - low_B), log_BCHW) - 1

    @cached_property
    def _chain(self) -> Schedule:
        return schedule(self.betas, steps=len(self.betas), total=len(self.betas))

    @cached_property
    def _log_abar(self) -> Doubles:
        sums: Doubles = np.cumsum(np.log1p(-np.array(self.betas, np.float64)))
        return sums

    def _at(self, table: Doubles, t_B: Tensor) -> Doubles:
        values_B: Doubles = np.interp(t_B.cpu().numpy(), np.arange(len(table)), table)
        return values_B


def away_from(untold: Tensor, told: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, 2021): ``(1 + w) eps(told) - w eps(untold)``."""
    return (1 + scale) * told - scale * untold


def _column(values_B: Doubles, like: Tensor) -> Tensor:
    """A number a row, to be spread over the row's window."""
    return torch.from_numpy(values_B).to(like)[:, None, None, None]

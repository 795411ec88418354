"""Plain ancestral sampling, DDPM (Ho et al., 2020), with the learned variances of Nichol and Dhariwal (2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor

from .denoiser import Answer
from .solvers import TileState, Walk, impose


@dataclass(frozen=True)
class Ddpm(Walk):
    """Draws from q(x_{i-1} | x_i, x_0 = the clean guess), which agrees with all that is known.

    The variance is the network's own where it learned one, else the posterior's.
    """

    def reverse(self, state: TileState, answer: Answer, x0_CHW: Tensor) -> TileState:
        """``x_{i-1} = coef1 x0_hat + coef2 x_i + s^2 g + s n``; the last step adds no noise."""
        i = self.schedule.times[state.position]
        agreed_CHW = impose(state.constraints, x0_CHW)
        variance = self.log_variance(i, answer.v).exp()
        x_CHW = self.mean(state, agreed_CHW) if i else agreed_CHW
        if answer.gradient is not None:
            x_CHW = x_CHW + variance * answer.gradient
            if not i:
                # Guidance moved what is known, and no later step would set it right.
                x_CHW = impose(state.constraints, x_CHW)
        if i:
            x_CHW = x_CHW + variance.sqrt() * self.draw(state)
        return replace(state, x_CHW=x_CHW, position=state.position + 1)

    def log_variance(self, i: int, v: Tensor | None) -> Tensor:
        """The logarithm of a step's variance: ``v`` in [-1, 1] goes from the posterior's to beta's."""
        least = float(self.schedule.posterior_log_variance_clipped[i])
        if v is None:
            return torch.tensor(least)
        share = (v + 1) / 2
        return share * log(float(self.schedule.betas[i])) + (1 - share) * least

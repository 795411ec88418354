"""Implicit sampling: DDIM (Song et al., 2021), and DDNM in the form of its main program, which builds on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor

from .constraints import Measured
from .denoiser import Answer
from .solvers import TileState, Walk, impose


@dataclass(frozen=True)
class Ddim(Walk):
    """DDIM: ``eta`` 0 draws no noise but x_T, 1 is ancestral sampling. Its eps is that of the bounded guess."""

    eta: float = 0.0

    def eps(self, state: TileState, answer: Answer) -> Tensor:
        """The network's noise, turned to the class that guides: ``eps - sqrt(1 - abar) g``."""
        if answer.gradient is None:
            return answer.eps
        abar = float(self.schedule.abar[self.schedule.times[state.position]])
        return answer.eps - sqrt(1 - abar) * answer.gradient

    def reverse(self, state: TileState, answer: Answer, x0_CHW: Tensor) -> TileState:
        """``x_{i-1} = sqrt(abar') x0_hat + sqrt(1 - abar' - s^2) eps + s n``; s is eta times the posterior's."""
        tables, i = self.schedule, self.schedule.times[state.position]
        x_CHW = impose(state.constraints, x0_CHW)
        if i:
            eps_CHW = (float(tables.sqrt_recip_abar[i]) * state.x_CHW - x0_CHW) / float(tables.sqrt_recipm1_abar[i])
            before, spread = float(tables.abar_prev[i]), self.eta * sqrt(float(tables.posterior_variance[i]))
            x_CHW = sqrt(before) * x_CHW + sqrt(1 - before - spread**2) * eps_CHW + spread * self.draw(state)
        return replace(state, x_CHW=x_CHW, position=state.position + 1)


@dataclass(frozen=True)
class DdnmImplicit(Ddim):
    """DDNM+ in its DDIM form: ``x_{i-1} = sqrt(abar') x0_hat + sqrt(1 - abar') (eta n + sqrt(1 - eta^2) eps)``.

    Time travel noises the last guess as it was before anything known was imposed. With a noisy
    measurement, what A sees of the tile and what it does not are weighed apart, by A's singular values.
    """

    eta: float = 0.85

    def reverse(self, state: TileState, answer: Answer, x0_CHW: Tensor) -> TileState:
        """The step of the class; the last one returns x0_hat itself."""
        before = float(self.schedule.abar_prev[self.schedule.times[state.position]])
        eps_CHW, n_CHW = self.eps(state, answer), self.draw(state)
        ours = sqrt(1 - self.eta**2)
        mixed_CHW = sqrt(1 - before) * (self.eta * n_CHW + ours * eps_CHW)
        if self.parity.simplified:
            lam, weight = _simplified(before, state.sigma)
            x_CHW = sqrt(before) * impose(state.constraints, x0_CHW, lam) + weight * mixed_CHW
        elif state.sigma:
            x_CHW = self._spectral(state, x0_CHW, n_CHW, mixed_CHW)
        else:
            x_CHW = sqrt(before) * impose(state.constraints, x0_CHW) + mixed_CHW
        return replace(state, x_CHW=x_CHW, position=state.position + 1)

    def undo(self, state: TileState, x0_CHW: Tensor) -> TileState:
        """``x_{i+1} = sqrt(abar_{i+1}) x0 + sqrt(1 - abar_{i+1}) n``."""
        abar = float(self.schedule.abar[self.schedule.times[state.position + 1]])
        x_CHW = sqrt(abar) * x0_CHW + sqrt(1 - abar) * self.draw(state)
        return replace(state, x_CHW=x_CHW, position=state.position + 1)

    def _spectral(self, state: TileState, x0_CHW: Tensor, n_CHW: Tensor, mixed_CHW: Tensor) -> Tensor:
        """At a singular value s of A, y brings ``sqrt(abar') sigma / s`` of noise, of ``sqrt(1 - abar')`` that fit."""
        before = float(self.schedule.abar_prev[self.schedule.times[state.position]])
        (measured,) = (one for one in state.constraints if isinstance(one, Measured))
        operator = measured.operator
        holds, brought = sqrt(1 - before), sqrt(before) * state.sigma / operator.singular
        fits = brought <= holds
        lam = torch.where(fits, 1.0, sqrt(1 - self.eta**2) * holds / brought)
        drawn = torch.where(fits, (holds**2 - brought**2).clamp(min=0).sqrt(), holds * self.eta)
        seen_CHW, unseen_CHW = operator.pinv(operator.A(n_CHW)), mixed_CHW - operator.pinv(operator.A(mixed_CHW))
        return sqrt(before) * impose(state.constraints, x0_CHW, lam) + drawn * seen_CHW + unseen_CHW


def _simplified(abar: float, sigma: float) -> tuple[float, float]:
    """(lam, weight of the noise) as the short form of the published program has them, from abar squared."""
    holds, brought = sqrt(1 - abar**2), abar * sigma
    if holds >= brought:
        return 1.0, sqrt(holds**2 - brought**2)
    return holds / brought, 0.0

"""Denoisers' losses: the simple one (Ho et al., 2020), and with a learned variance the hybrid (Nichol, 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..adm import AdmUNet
from ..schedule import Schedule, schedule
from ..semantic import SemanticUNet
from ..signatures import EPS
from .objective import LOSS, Batch, Draws

TIMESTEPS = 1000
_SHOWN_AT, _STEPS = 0.4, 25
# Pictures are stored in so many steps; the first decoder's likelihood is that of the right one.
_LEVELS = 256
# What lies beyond counts as the first or last of them, as in published programs.
_OUTER = 0.999


def normal_cdf(x: Tensor) -> Tensor:
    """A standard normal's mass below x."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


Guess = Callable[[Tensor, Tensor], Tensor]
"""The clean windows in noisy ones, at their timesteps, as a network sees them."""


@dataclass(frozen=True, eq=False)
class Chain:
    """The tables of a noise schedule, indexed by the timesteps of a batch.

    ``cdf`` is that of a standard normal, which the bound's first term is made of.
    """

    betas: str
    cdf: Callable[[Tensor], Tensor] = normal_cdf

    @cached_property
    def tables(self) -> Schedule:
        """All timesteps, walked once."""
        return schedule(self.betas, steps=TIMESTEPS, total=TIMESTEPS)

    def at(self, table: NDArray[np.float64], t_B: Tensor) -> Tensor:
        """A table's entries as float32 (batch, 1, 1, 1)."""
        return torch.from_numpy(table).to(t_B.device)[t_B].float()[:, None, None, None]

    def noised(self, x_BCHW: Tensor, eps_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """``x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps``."""
        abar = self.tables.abar
        return self.at(np.sqrt(abar), t_B) * x_BCHW + self.at(np.sqrt(1 - abar), t_B) * eps_BCHW

    def v(self, x_BCHW: Tensor, eps_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """``v = sqrt(abar) eps - sqrt(1 - abar) x_0``."""
        return self.noised(eps_BCHW, -x_BCHW, t_B)

    def clean(self, x_BCHW: Tensor, eps_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """``x_0`` of the noisy window and the noise that is taken to be in it."""
        recip, recipm1 = self.tables.sqrt_recip_abar, self.tables.sqrt_recipm1_abar
        return self.at(recip, t_B) * x_BCHW - self.at(recipm1, t_B) * eps_BCHW

    def bound(self, x_BCHW: Tensor, noisy_BCHW: Tensor, eps_BCHW: Tensor, v_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The term of the variational bound for each row, in bits a value; the mean learns nothing from it.

        It is KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at the first timestep the negative logarithm of the
        likelihood of x_0 among the 256 values a pixel may have.
        """
        tables = self.tables
        low_B = self.at(tables.posterior_log_variance_clipped, t_B)
        high_B = self.at(np.log(tables.betas), t_B)
        share_BCHW = (v_BCHW + 1) / 2
        log_variance = share_BCHW * high_B + (1 - share_BCHW) * low_B
        coef1, coef2 = (self.at(table, t_B) for table in (tables.posterior_mean_coef1, tables.posterior_mean_coef2))
        mean = coef1 * self.clean(noisy_BCHW, eps_BCHW.detach(), t_B) + coef2 * noisy_BCHW
        true_mean = coef1 * x_BCHW + coef2 * noisy_BCHW
        spread = (low_B - log_variance).exp() + (true_mean - mean) ** 2 * (-log_variance).exp()
        term_B = (0.5 * (log_variance - low_B + spread - 1)).mean(dim=(1, 2, 3))
        first_B = t_B == 0
        if first_B.any():
            # Few rows are at the first timestep, and their term is dear.
            likelihood = self._log_likelihood(x_BCHW[first_B], mean[first_B], 0.5 * log_variance[first_B])
            term_B = term_B.index_put((first_B,), -likelihood.mean(dim=(1, 2, 3)))
        return term_B / math.log(2)

    def _log_likelihood(self, x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """The logarithm of a normal's mass in the step of 1 / 127.5 around each value; the outer steps have no end."""
        half, scale = 1 / (_LEVELS - 1), (-log_std).exp()
        above, below = (self.cdf(scale * (x - mean + side)) for side in (half, -half))
        inner = (above - below).clamp(min=1e-12).log()
        lowest, highest = above.clamp(min=1e-12).log(), (1 - below).clamp(min=1e-12).log()
        return torch.where(x < -_OUTER, lowest, torch.where(x > _OUTER, highest, inner))


@dataclass(eq=False)
class Denoising:
    """An ADM U-Net that learns to see the noise in noisy crops, and the variance where it has channels for it.

    It ``predicts`` eps itself, or ``v = sqrt(abar) eps - sqrt(1 - abar) x_0``, which is easier to learn where there is
    much noise: from eps, x_0 could only be told there if it were known very exactly.
    A network of classes has one class more, its last, that stands for none: a share ``drop_label`` of the crops
    is told that one, so that guidance without a classifier has something to lean away from.
    """

    network: AdmUNet | SemanticUNet
    betas: str = "linear"
    predicts: str = EPS
    drop_label: float = 0.0
    description: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Tables for its schedule."""
        self.chain = Chain(self.betas)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The U-Net."""
        return {"unet": self.network}

    def loss(self, batch: Batch, draws: Draws, step: int) -> Mapping[str, Tensor]:
        """``mean (eps - eps')^2``, or the same of v; with a learned variance ``T / 1000`` times the bound is added."""
        x_BCHW = batch.x_BCHW
        t_B, eps_BCHW = timesteps(draws, len(x_BCHW)), draws.normal("eps", tuple(x_BCHW.shape))
        noisy_BCHW = self.chain.noised(x_BCHW, eps_BCHW, t_B)
        told_BCHW = self.network(noisy_BCHW, t_B, self.dropped(self.told(batch), draws))
        bands = x_BCHW.shape[1]
        wanted_BCHW = eps_BCHW if self.predicts == EPS else self.chain.v(x_BCHW, eps_BCHW, t_B)
        simple = ((told_BCHW[:, :bands] - wanted_BCHW) ** 2).mean()
        if told_BCHW.shape[1] == bands:
            return {LOSS: simple}
        guess_BCHW = self._eps(told_BCHW[:, :bands], noisy_BCHW, t_B)
        bound = self.chain.bound(x_BCHW, noisy_BCHW, guess_BCHW, told_BCHW[:, bands:], t_B).mean()
        return {LOSS: simple + bound * (TIMESTEPS / 1000), "simple": simple, "bound": bound}

    def pictures(self, batch: Batch, draws: Draws) -> Tensor | None:
        """Crops, the same with noise, what the network makes of those, and what it draws from noise alone."""
        return shown(self.chain, partial(self._guess, y_B=self.told(batch)), batch.x_BCHW, draws)

    def describe(self) -> dict[str, Any]:
        """What was said of it."""
        return dict(self.description)

    def told(self, batch: Batch) -> Tensor | None:
        """What the network is told of crops besides their timesteps."""
        return batch.y_B

    def dropped(self, y_B: Tensor | None, draws: Draws) -> Tensor | None:
        """The same, of some crops nothing."""
        if y_B is None or not self.drop_label:
            return y_B
        assert self.network.config.num_classes is not None
        dropped_B = draws.uniform("drop label", (len(y_B),)) < self.drop_label
        return torch.where(dropped_B, self.network.config.num_classes - 1, y_B)

    def _guess(self, noisy_BCHW: Tensor, t_B: Tensor, y_B: Tensor | None) -> Tensor:
        told_BCHW = self.network(noisy_BCHW, t_B, y_B)[:, : noisy_BCHW.shape[1]].float()
        return self.chain.clean(noisy_BCHW, self._eps(told_BCHW, noisy_BCHW, t_B), t_B)

    def _eps(self, told_BCHW: Tensor, noisy_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """``eps = sqrt(abar) v + sqrt(1 - abar) x_t``."""
        return told_BCHW if self.predicts == EPS else self.chain.noised(told_BCHW, noisy_BCHW, t_B)


def shown(chain: Chain, guess: Guess, x_BCHW: Tensor, draws: Draws) -> Tensor:
    """Crops, the same with noise, what a network makes of those, and what it draws from noise alone."""
    t_B = torch.full((len(x_BCHW),), int(_SHOWN_AT * TIMESTEPS), device=x_BCHW.device)
    noisy_BCHW = chain.noised(x_BCHW, draws.normal("shown", tuple(x_BCHW.shape)), t_B)
    drawn_BCHW = _sample(chain, guess, draws.normal("drawn", tuple(x_BCHW.shape)))
    return torch.stack([x_BCHW, noisy_BCHW, guess(noisy_BCHW, t_B).clamp(-1, 1), drawn_BCHW])


def _sample(chain: Chain, guess: Guess, x_BCHW: Tensor) -> Tensor:
    """DDIM without fresh noise."""
    abar = chain.tables.abar
    walk = np.linspace(TIMESTEPS - 1, 0, _STEPS).round().astype(int)
    for t, then in pairwise([*walk, -1]):
        t_B = torch.full((len(x_BCHW),), int(t), device=x_BCHW.device)
        guess_BCHW = guess(x_BCHW, t_B).clamp(-1, 1)
        if then < 0:
            return guess_BCHW
        eps_BCHW = (x_BCHW - math.sqrt(abar[t]) * guess_BCHW) / math.sqrt(1 - abar[t])
        x_BCHW = math.sqrt(abar[then]) * guess_BCHW + math.sqrt(1 - abar[then]) * eps_BCHW
    return x_BCHW


def timesteps(draws: Draws, count: int) -> Tensor:
    """Timesteps of a batch: each one uniform, and all of them spread evenly, which makes the loss less noisy."""
    spread_B = (torch.arange(count, device=draws.device) + draws.uniform("timesteps", (count,))) / count
    return (spread_B * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)

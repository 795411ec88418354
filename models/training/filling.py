"""What a network that fills holes learns from (Li et al., 2022): a critic, features, and its own uncertainty.

Three iterations of predict, pick and sample are unrolled, each going on from what the one before drew, and the losses
of all are added. Every one learns how likely the missing pixels are, from which the mean learns nothing, and how far
they are off. The first is a guess by which pixels are picked, and learns no more than to be as near as it can; those
after it draw anew all that is filled, and learn that it looks real, too, and how far they are off where much is
certain::

    first  30 (mean - crop)^2 - 1e-4 ln p(crop | mean, variance)
    later  30 (mean - crop)^2 / (1 + variance / 0.01) - 1e-4 ln p(crop | mean, variance)
           softplus(-D(filled)) + 2 |features(filled) - features(crop)|^2

All of a crop's iterations see the same noise.

The critic tells of each place how real it looks; only places that a hole touches count, and in each crop they count as
much as in any other, or thin holes would not be heard of. It learns from softplus(D(filled)) + softplus(-D(crop)) and
R1, of the mean of the places that count, and faster than its opponent, which would otherwise stay ahead of it. Features
are those of a trained trunk; a critic's stand in for them where there is none.
At first a training may leave out the critic and all iterations but the first, and learn from the squared distance of
pixels alone, which takes a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..critic import Critic
from ..likelihood import pixel_nll
from ..resnet import ResNetTrunk
from ..spatial import SpatialNet
from ..spatial_config import ITERATIONS
from ..spread import Spread, picks, spread
from .augment import adapted, augmented
from .holes import draw_holes
from .objective import LOSS, Batch, Draws, Rival

CRITIC, ERROR, REAL, PIXELS = "critic", "error", "real", "pixels"
_FEATURES, _LIKELIHOOD = 2.0, 1e-4
# Where a pixel may be many things, their mean is none of them, and the critic has more to say.
_PIXELS, _CERTAIN = 30.0, 0.01
_PACE = 5.0
# The gradient's penalty is computed once in so many steps, and counts as often then.
_R1, _LAZY = 10.0, 16
_SEEDS = 2**24


@dataclass(frozen=True, eq=False)
class Unrolled:
    """All iterations on a batch: what each one told, the crops with that in their holes, and what was drawn of it."""

    means: list[Tensor]
    log_variances: list[Tensor]
    filled: list[Tensor]
    drawn: list[Tensor]


@dataclass(frozen=True, eq=False)
class Judgement:
    """How real each place of some crops looks, and which of them a hole touches: 1 or 0."""

    real: Tensor
    touched: Tensor

    def by_crop(self, told: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean of what is told of the touched places of each crop."""
        return _in_holes(told(self.real), self.touched)


@dataclass(eq=False)
class Filling:
    """A spatial diffusion network and the critic that it learns against.

    Pictures are compared by the features of a ``trunk``, or by the critic's where there is none. Until step ``alone``
    there is no critic.
    """

    network: SpatialNet
    critic: Critic
    trunk: ResNetTrunk | None = None
    description: Mapping[str, Any] = field(default_factory=dict)
    alone: int = 0

    checked = ERROR

    def __post_init__(self) -> None:
        """No picture is changed before the critic begins to know them by heart."""
        self.memory = {"augmented": torch.zeros(())}

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The network and its critic."""
        return {"filler": self.network, CRITIC: self.critic}

    @property
    def rivals(self) -> Mapping[str, Rival]:
        """The critic learns from a loss of its own."""
        return {CRITIC: Rival(CRITIC, _PACE)}

    def loss(self, batch: Batch, draws: Draws, step: int) -> Mapping[str, Tensor]:
        """The losses of both networks, and how far the last iteration's mean is off inside the holes."""
        x, rows = batch.x_BCHW, len(batch.x_BCHW)
        known = self._known(batch, draws)
        # What is held out is told of in the same way all the time.
        if step < self.alone and torch.is_grad_enabled():
            return self._guessed(x, known, draws)
        run = self._unrolled(x, known, draws)
        share = float(self.memory["augmented"])
        how: dict[str, Any] = {"share": share, "draws": draws, "bands": x.shape[1], "rows": rows}
        drawn = run.filled[1:]
        fake = augmented(torch.cat([torch.cat([one, known], dim=1) for one in drawn]), **how)
        real = augmented(torch.cat([x, known], dim=1), **how)
        penalised = step % _LAZY == 0 and torch.is_grad_enabled()
        real.requires_grad_(penalised)
        faked, seen = self._judged(fake)
        told, known_features = self._judged(real)
        adversarial = len(drawn) * faked.by_crop(_wanted).mean()
        unlike = self._unlike(drawn, x, seen, known_features)
        missing = (known == 0).expand_as(x)
        every = list(zip(run.means, run.log_variances, strict=True))
        likelihood = torch.stack([_unlikely(x, known, *one) for one in every]).sum()
        off = _far(x, known, run.means[0]) + torch.stack([_off(x, known, *one) for one in every[1:]]).sum()
        judged = faked.by_crop(F.softplus).mean() + told.by_crop(_wanted).mean()
        if penalised:
            (gradient,) = torch.autograd.grad(_in_holes(told.real, told.touched).sum(), real, create_graph=True)
            # Which pixels are known is told to the critic, and never drawn.
            judged = judged + _LAZY * _R1 / 2 * gradient[:, : x.shape[1]].square().sum(dim=(1, 2, 3)).mean()
        return {
            LOSS: adversarial + _FEATURES * unlike + _PIXELS * off + _LIKELIHOOD * likelihood,
            "adversarial": adversarial,
            "features": unlike,
            PIXELS: off,
            "likelihood": likelihood,
            CRITIC: judged,
            REAL: told.by_crop(torch.sign).mean(),
            ERROR: (run.means[-1] - x)[missing].abs().mean(),
        }

    def _guessed(self, x: Tensor, known: Tensor, draws: Draws) -> Mapping[str, Tensor]:
        """The losses of the first iteration: each hole counts as much as any other, however wide it is."""
        mean, log_variance = self._predicted(Spread.begin(x, known[:, 0] > 0), _grain(x, draws))
        likelihood, distance = _unlikely(x, known, mean, log_variance), _far(x, known, mean)
        return {
            LOSS: distance + _LIKELIHOOD * likelihood,
            PIXELS: distance,
            "likelihood": likelihood,
            ERROR: (mean - x)[(known == 0).expand_as(x)].abs().mean(),
        }

    def learned(self, told: Mapping[str, float], crops: int) -> None:
        """Pictures are changed more often where the critic knows the real ones too well."""
        if REAL not in told:
            return
        share = self.memory["augmented"]
        share.fill_(adapted(float(share), told[REAL], crops))

    def pictures(self, batch: Batch, draws: Draws) -> Tensor | None:
        """Crops, the same with holes, and what is filled after each iteration, the rest still missing."""
        x, known = batch.x_BCHW, self._known(batch, draws)
        run = self._unrolled(x, known, draws)
        return torch.stack([x, x * known, *run.drawn])

    def describe(self) -> dict[str, Any]:
        """What was said of it."""
        return dict(self.description)

    def _known(self, batch: Batch, draws: Draws) -> Tensor:
        """Where each crop is known, 1 or 0 (batch, 1, row, column)."""
        x = batch.x_BCHW
        seeds = (draws.uniform("holes", (len(x),)) * _SEEDS).long().tolist()
        masks = np.stack([draw_holes(x.shape[-1], seed) for seed in seeds])
        return torch.from_numpy(masks)[:, None].to(x.device, x.dtype)

    def _unrolled(self, x: Tensor, known: Tensor, draws: Draws) -> Unrolled:
        """Every iteration of every crop; no gradient passes from one to the next, as what is picked has none."""
        first, grain = Spread.begin(x, known[:, 0] > 0), _grain(x, draws)
        missing = (~first.known_HW).sum(dim=(1, 2)).tolist()
        state, run = first, Unrolled([], [], [], [])
        for at in range(ITERATIONS):
            mean, log_variance = self._predicted(state, grain)
            last = at + 1 == ITERATIONS
            state, _ = spread(
                state,
                first,
                mean.detach(),
                log_variance.detach().exp(),
                count=torch.tensor([picks("uniform", count, at, ITERATIONS) for count in missing], device=x.device),
                noise_CHW=None if last else draws.normal(f"noise {at}", tuple(x.shape)),
            )
            run.means.append(mean)
            run.log_variances.append(log_variance)
            run.filled.append(torch.where(known > 0, x, mean))
            run.drawn.append(state.x_CHW)
        return run

    def _predicted(self, state: Spread, grain: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the logarithm of the variance of every window."""
        told: Tensor = self.network(torch.cat([state.window, grain], dim=1))
        mean, log_variance = told.chunk(2, dim=1)
        return mean, log_variance

    def _judged(self, x: Tensor) -> tuple[Judgement, list[Tensor]]:
        pixels, known = x[:, :-1], x[:, -1:]
        real, features = self.critic(pixels, known)
        touched = F.max_pool2d(1 - known.detach(), known.shape[-1] // real.shape[-1])
        return Judgement(real, touched), features

    def _unlike(self, filled: Sequence[Tensor], x: Tensor, seen: list[Tensor], known: list[Tensor]) -> Tensor:
        """The squared distance of features, added up over layers and iterations."""
        if self.trunk is not None:
            trunk = self.trunk.to(x.device)
            seen = trunk(torch.cat(list(filled)))
            with torch.no_grad():
                known = trunk(x)
        distances = [
            F.mse_loss(ours.float(), theirs.detach().float().repeat(len(filled), 1, 1, 1))
            for ours, theirs in zip(seen, known, strict=True)
        ]
        return len(filled) * torch.stack(distances).sum()


def _grain(x: Tensor, draws: Draws) -> Tensor:
    """The noise that a network sees of every crop."""
    return draws.normal("grain", (len(x), 1, *x.shape[2:]))


def _wanted(real: Tensor) -> Tensor:
    """Small where something looks real."""
    return F.softplus(-real)


def _in_holes(x_BCHW: Tensor, missing_B1HW: Tensor) -> Tensor:
    """The mean in each crop's hole, however wide it is."""
    counted = x_BCHW.shape[1] * missing_B1HW.sum(dim=(1, 2, 3))
    return (x_BCHW * missing_B1HW).sum(dim=(1, 2, 3)) / counted.clamp(min=1)


def _far(x: Tensor, known: Tensor, mean: Tensor) -> Tensor:
    """How far missing pixels are off, all alike."""
    return _in_holes((mean - x).square(), 1 - known).mean()


def _off(x: Tensor, known: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """How far missing pixels are off, those of which much is certain most."""
    return _in_holes((mean - x).square() / (1 + log_variance.detach().exp() / _CERTAIN), 1 - known).mean()


def _unlikely(x: Tensor, known: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Minus the logarithm of how likely the missing pixels of a crop are; the mean learns nothing from it."""
    missing = (known == 0).expand_as(x)
    return pixel_nll(x[missing], mean.detach()[missing], log_variance[missing] / 2).sum() / len(x)

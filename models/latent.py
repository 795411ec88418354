"""The network that draws styles for Patch-DM: a diffusion model of vectors (the latent DDIM of Diff-AE)."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import torch
from torch import Tensor, nn

from .adm_blocks import timestep_embedding, two_layers
from .patchdm_config import LatentConfig
from .schedule import Schedule, schedule

# The published chain of styles: the same variance at every step.
BETA, TOTAL, STEPS = 0.008, 1000, 50


class _Layer(nn.Module):
    """A linear layer, scaled by what it is told of the time, normalised, bent."""

    def __init__(self, width: int, wide: int, config: LatentConfig) -> None:
        super().__init__()
        self.bias = config.bias
        self.linear = nn.Linear(width, wide)
        self.linear_emb = nn.Linear(config.channels, wide)
        # The published checkpoints hold the same layer under this name too.
        self.cond_layers = nn.Sequential(nn.SiLU(), self.linear_emb)
        self.norm = nn.LayerNorm(wide) if config.norm else nn.Identity()
        self.act = nn.SiLU()

    def forward(self, h_BC: Tensor, time_BC: Tensor) -> Tensor:
        bent_BC: Tensor = self.act(self.norm(self.linear(h_BC) * (self.bias + self.cond_layers(time_BC))))
        return bent_BC


class _LastLayer(nn.Module):
    """A linear layer and nothing else."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, wide)

    def forward(self, h_BC: Tensor, time_BC: Tensor) -> Tensor:
        told_BC: Tensor = self.linear(h_BC)
        return told_BC


class LatentNet(nn.Module):
    """The noise in noisy styles."""

    def __init__(self, config: LatentConfig) -> None:
        """With PyTorch's own random weights."""
        super().__init__()
        self.config = config
        self.time_embed = two_layers(config.time_channels, config.channels, config.channels)
        inner = [config.hidden + config.channels * (layer in config.skips) for layer in range(1, config.layers)]
        *widths, last = config.channels, *inner
        layers = [_Layer(width, config.hidden, config) for width in widths]
        self.layers = nn.ModuleList([*layers, _LastLayer(last, config.channels)])

    def forward(self, x_BC: Tensor, t_B: Tensor) -> Tensor:
        """(batch, style) from noisy styles and their original timesteps."""
        time_BC = self.time_embed(timestep_embedding(t_B, self.config.time_channels))
        h_BC = x_BC
        for at, layer in enumerate(self.layers):
            h_BC = layer(torch.cat([h_BC, x_BC], dim=1) if at in self.config.skips else h_BC, time_BC)
        return h_BC


def style_schedule(steps: int = STEPS) -> Schedule:
    """The chain of styles, ``steps`` of it, a whole stride apart."""
    return schedule((BETA,) * TOTAL, steps=steps, total=TOTAL, spacing="stride")


def walk_styles(network: LatentNet, x_BC: Tensor, steps: Schedule) -> Iterator[tuple[Tensor, Tensor]]:
    """DDIM without noise and without bounds: (clean guess, next state) of each step, the last state being the style.

    ``x_0 = (x - sqrt(1 - abar) eps) / sqrt(abar)``, ``x' = sqrt(abar') x_0 + sqrt(1 - abar') eps``.
    """
    for i in reversed(range(len(steps.timesteps))):
        t_B = torch.full((len(x_BC),), float(steps.timesteps[i]), device=x_BC.device)
        eps_BC = network(x_BC, t_B)
        before = float(steps.abar_prev[i])
        clean_BC = float(steps.sqrt_recip_abar[i]) * x_BC - float(steps.sqrt_recipm1_abar[i]) * eps_BC
        x_BC = sqrt(before) * clean_BC + sqrt(1 - before) * eps_BC
        yield clean_BC, x_BC


def draw_styles(network: LatentNet, noise_BC: Tensor, steps: int = STEPS) -> Tensor:
    """Styles (batch, style) from pure noise of that shape."""
    *_, (_, style_BC) = walk_styles(network, noise_BC, style_schedule(steps))
    return style_BC

"""A discriminator of StyleGAN2's blocks: how real a picture with a filled hole looks, and what it sees in it."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .spatial_config import SpatialConfig
from .stylegan import ConvLayer, ScaledConv


class Stage(nn.Module):
    """Two convolutions and half the size, beside a skip."""

    def __init__(self, told: int, made: int) -> None:
        """Random weights."""
        super().__init__()
        self.first = ConvLayer(told, told)
        self.second = ConvLayer(told, made, resample="down")
        self.skip = ScaledConv(told, made, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of half the size."""
        told: Tensor = self.skip(F.avg_pool2d(x, 2)) + self.second(self.first(x))
        return told / sqrt(2)


class Critic(nn.Module):
    """Sees a picture and where its hole is; as wide and as deep as the network whose work it judges."""

    def __init__(self, config: SpatialConfig) -> None:
        """Random weights."""
        super().__init__()
        self.stem, widths = config.stem, config.widths
        shown = config.in_channels + 1
        # Folded pixels must fit into few channels: what is fine in them would not be seen.
        self.look = ConvLayer(shown, config.detail) if config.detail else None
        self.fold = ConvLayer((config.detail or shown) * config.stem**2, widths[0], 1)
        self.stages = nn.ModuleList(Stage(wide, wider) for wide, wider in pairwise(widths))
        self.last = ConvLayer(widths[-1], widths[-1])
        self.judge = ScaledConv(widths[-1], 1, 1)

    def forward(self, x_BCHW: Tensor, known_B1HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """How real each picture looks, the mean of all places of it; and the features of every level."""
        h, features = torch.cat([x_BCHW, known_B1HW], dim=1), []
        if self.look is not None:
            h = self.look(h)
            features.append(h)
        h = self.fold(F.pixel_unshuffle(h, self.stem))
        features.append(h)
        for stage in self.stages:
            h = stage(h)
            features.append(h)
        return self.judge(self.last(h)).float().mean(dim=(1, 2, 3)), features

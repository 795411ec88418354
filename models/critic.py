"""A discriminator of StyleGAN2's layers: how real each place of a picture with a filled hole looks."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .spatial_config import SpatialConfig
from .stylegan import ConvLayer, ScaledConv, evened

# A place is at most 2^3 pixels a side: it judges texture, and a wider hole consists of many places.
_HALVINGS = 3


class Critic(nn.Module):
    """Sees a picture and where its hole is, beginning with single pixels: what is fine is what gives a fill away."""

    def __init__(self, config: SpatialConfig) -> None:
        """Random weights; in its last two levels it is as wide as the first one of the network whose work it judges."""
        super().__init__()
        halvings = min(_HALVINGS, config.size_multiple.bit_length() - 1)
        widths = [max(1, config.widths[0] >> max(0, halvings - 1 - level)) for level in range(halvings + 1)]
        self.look = ConvLayer(config.in_channels + 1, widths[0])
        self.down = nn.ModuleList(ConvLayer(wide, wider, resample="down") for wide, wider in pairwise(widths))
        self.last = ConvLayer(widths[-1], widths[-1])
        self.judge = ScaledConv(widths[-1], 1, 1)

    def forward(self, x_BCHW: Tensor, known_B1HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """How real each place looks (batch, 1, row, column), and the features of every level."""
        features = [evened(self.look(torch.cat([x_BCHW, known_B1HW], dim=1)))]
        for down in self.down:
            features.append(evened(down(features[-1])))
        return self.judge(self.last(features[-1])).float(), features

"""The network of the spatial diffusion model (Li et al., 2022): from a partly filled window to its mean and variance.

::

    x, m, u, z -> fold -> conv -> down -> ... -> conv, attention(u) -> style
                   |                |                   |               |
      mean, var <- + <-- up ------- + <-- ... <-- styled conv, attention(u)

The way up is modulated by a style that is seen in the deepest features; its image grows level by level. What it adds
to is smooth already: a surface through the known pixels, bent as little as may be over the holes; it is also what the
network sees there. Deep in a hole nothing else differs from pixel to pixel, so that all it could draw would follow the
hole's outline; of the noise z it may draw texture.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tiling.errors import InputError
from .adm_blocks import split_heads
from .spatial_config import PLANES, SpatialConfig
from .stylegan import ConvLayer, ScaledConv, ScaledLinear, StyleLayer, ToImage, activate, evened, twice
from .surface import QUICK, bent

_DOUBTS, _DOUBT_LAYERS = 16, 4
# Logarithms of variances stay below this in size: a softer bound than clipping, which would stop learning.
_LOG_VARIANCE = 12.0


class UncertaintyAttention(nn.Module):
    """``softmax(q k^T / sqrt(d) + F(u)) v`` over all places, F four convolutions of the uncertainty of each key."""

    def __init__(self, width: int, head: int) -> None:
        """Random weights."""
        super().__init__()
        self.heads = width // head
        self.qkv = ScaledConv(width, 3 * width, 1)
        self.out = ScaledConv(width, width, 1)
        wide = [1, *[_DOUBTS] * (_DOUBT_LAYERS - 1)]
        self.doubts = nn.ModuleList(ConvLayer(told, _DOUBTS) for told in wide[:-1])
        self.doubt = ScaledConv(_DOUBTS, self.heads, 3)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """``x`` and what each place takes from all others; ``u`` (batch, 1, row, column) of the same size."""
        batch, width, height, wide = x.shape
        q, k, v = split_heads(self.qkv(x).flatten(2), self.heads, new_order=True)
        for layer in self.doubts:
            u = layer(u)
        bias = self.doubt(u).reshape(batch, self.heads, 1, -1)
        # Fused, so that what each place heeds of every other is never held at once.
        taken = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        told: Tensor = self.out(taken.mT.reshape(batch, width, height, wide))
        return (x + told) / sqrt(2)


class Level(nn.Module):
    """The convolutions of one level on the way down, or with a style on the way up, and its attention."""

    def __init__(self, config: SpatialConfig, level: int, *, styled: bool) -> None:
        """Random weights."""
        super().__init__()
        width, attended = config.widths[level], 2**level in config.attention_resolutions
        self.layers = nn.ModuleList(
            StyleLayer(width, width, config.style_channels) if styled else ConvLayer(width, width)
            for _ in range(config.num_res_blocks)
        )
        self.attention = UncertaintyAttention(width, config.num_head_channels) if attended else None

    def forward(self, h: Tensor, u: Tensor, *style: Tensor) -> Tensor:
        """Features of the same size; ``u`` is that of whole windows."""
        for layer in self.layers:
            h = layer(evened(h), *style)
        if self.attention is not None:
            h = self.attention(h, F.avg_pool2d(u, u.shape[-1] // h.shape[-1]))
        return h


class Finest(nn.Module):
    """What is drawn of every single pixel: by features, and by what the network sees of it.

    Features are filtered up to its size, and not unfolded: a hole that little is known of would show the fold's grid.
    """

    def __init__(self, config: SpatialConfig) -> None:
        """Random weights."""
        super().__init__()
        wide, bands = config.detail, config.in_channels
        self.narrow = ScaledConv(config.widths[0], wide, 1)
        self.layers = nn.ModuleList([ConvLayer(bands + PLANES + wide, wide), ConvLayer(wide, wide)])
        self.mean, self.variance = (ScaledConv(wide, bands) for _ in range(2))

    def forward(self, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the logarithm of the variance, as they are added to those of coarser levels."""
        h = torch.cat([seen, _grown_to(seen.shape[-1], self.narrow(h))], dim=1)
        for layer in self.layers:
            h = layer(h)
        return self.mean(h), self.variance(h.detach())


class SpatialNet(nn.Module):
    """f(x, m, u, z) -> (mean, log variance) of every pixel of windows whose sides are multiples of the total stride."""

    def __init__(self, config: SpatialConfig) -> None:
        """Random weights, but for the heads, which add nothing yet."""
        super().__init__()
        self.config = config
        widths, style, folded = config.widths, config.style_channels, config.stem**2
        self.fold = ConvLayer((config.in_channels + PLANES) * folded, widths[0], 1)
        self.encoder = nn.ModuleList(Level(config, level, styled=False) for level in range(len(widths)))
        self.down = nn.ModuleList(ConvLayer(wide, wider, resample="down") for wide, wider in pairwise(widths))
        self.see = ScaledLinear(widths[-1], style)
        self.map = ScaledLinear(style, style)
        self.decoder = nn.ModuleList(Level(config, level, styled=True) for level in range(len(widths)))
        self.up = nn.ModuleList(StyleLayer(wider, wide, style, resample="up") for wide, wider in pairwise(widths))
        # With details the finest level draws in a way of its own.
        self.means, self.variances = (
            nn.ModuleList(
                ToImage(width, config.in_channels * (1 if level else folded), style)
                for level, width in enumerate(widths)
                if level or not config.detail
            )
            for _ in range(2)
        )
        self.finest = Finest(config) if config.detail else None
        heads = [*self.means.modules(), *self.variances.modules()]
        if self.finest is not None:
            heads += [self.finest.mean, self.finest.variance]
        for head in heads:
            if isinstance(head, ScaledConv):
                nn.init.zeros_(head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The mean's bands and then those of the logarithm of the variance; x has bands, m, u and z."""
        size, stride = x.shape[-2:], self.config.size_multiple
        if any(side < stride or side % stride for side in size):
            raise InputError(f"a window is {size[0]}x{size[1]} pixels, and this network takes multiples of {stride}")
        bands = self.config.in_channels
        # Weights of what is known, so 1 or 0 also in windows that are drawn at random to see how rows run.
        known, u, z = (x[:, bands : bands + 1] > 0).to(x.dtype), x[:, -2:-1], x[:, -1:]
        # No weight is learned from the surface, so that none of its steps need be kept.
        with torch.no_grad():
            smooth = bent(x[:, :bands], known, QUICK)
        x = torch.cat([smooth.to(x.dtype), known, u, z], dim=1)
        h, skips = self.fold(F.pixel_unshuffle(x, self.config.stem)), []
        for level, stage in enumerate(self.encoder):
            h = stage(self.down[level - 1](h) if level else h, u)
            skips.append(h)
        style = activate(self.map(activate(self.see(h.mean(dim=(2, 3))))))
        mean: Tensor | None = None
        log_variance: Tensor | None = None
        for level in reversed(range(len(skips))):
            if level + 1 < len(skips):
                h = (self.up[level](h, style) + skips[level]) / sqrt(2)
            h = self.decoder[level](h, u, style)
            # What is learned of the variance must not draw features away from what fills holes well.
            if level or self.finest is None:
                head = level if self.finest is None else level - 1
                mean = self._grown(self.means[head], h, style, mean, finest=not level)
                told = h.detach(), style.detach()
                log_variance = self._grown(self.variances[head], *told, log_variance, finest=not level)
            else:
                drawn = self.finest(h, x)
                mean, log_variance = _with(drawn[0], mean), _with(drawn[1], log_variance)
        assert mean is not None
        assert log_variance is not None
        return torch.cat(
            [smooth + mean.float(), _LOG_VARIANCE * torch.tanh(log_variance.float() / _LOG_VARIANCE)], dim=1
        )

    def _grown(self, head: nn.Module, h: Tensor, style: Tensor, coarser: Tensor | None, *, finest: bool) -> Tensor:
        """The image of a level, with that of the coarser one in it; the finest is unfolded."""
        if finest and self.config.stem > 1:
            return _with(F.pixel_shuffle(head(h, style), self.config.stem), coarser)
        made: Tensor = head(h, style, coarser)
        return made


def _with(made: Tensor, coarser: Tensor | None) -> Tensor:
    """An image, and a coarser one in it."""
    return made if coarser is None else made + _grown_to(made.shape[-1], coarser)


def _grown_to(width: int, x: Tensor) -> Tensor:
    """Doubled by the filter until it is so many columns wide."""
    while x.shape[-1] < width:
        x = twice(x)
    return x

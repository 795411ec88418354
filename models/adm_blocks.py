"""The parts of an ADM network and of its relatives, under the parameter names of the published checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adm_config import NORM_GROUPS, EncoderConfig

Resample = Callable[[Tensor], Tensor]
Way = Literal["down", "up"]


def timestep_embedding(t_B: Tensor, width: int) -> Tensor:
    """``[cos(t f_k), sin(t f_k)]`` with ``f_k = 10000^(-k / half)``; t may be fractional. Axes (batch, width)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t_B.device) / half)
    angles_BK = t_B.float()[:, None] * frequencies
    return F.pad(torch.cat([angles_BK.cos(), angles_BK.sin()], dim=1), (0, width % 2))


def halve(x_BCHW: Tensor) -> Tensor:
    """Means of 2 x 2 pixels."""
    return F.avg_pool2d(x_BCHW, 2)


def double(x_BCHW: Tensor) -> Tensor:
    """Every pixel as 2 x 2."""
    return F.interpolate(x_BCHW, scale_factor=2, mode="nearest")


class Norm(nn.GroupNorm):
    """Group norm, computed in float32 whatever the precision of its input."""

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        """For a number of channels, each a group of its own where there are few."""
        super().__init__(min(NORM_GROUPS, channels), channels, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        """The same type as came in."""
        return super().forward(input.float()).to(input.dtype)


def conv3(width: int, wide: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution from ``width`` to ``wide`` channels that keeps the size (over the stride)."""
    return nn.Conv2d(width, wide, 3, stride=stride, padding=1)


def first_half(in_layers: nn.Sequential, x_BCHW: Tensor, resample: Resample | None) -> tuple[Tensor, Tensor]:
    """``conv(silu(norm(x)))`` of a residual block, and ``x`` itself, both resampled before the convolution."""
    h_BCHW = in_layers[:2](x_BCHW)
    if resample:
        h_BCHW, x_BCHW = resample(h_BCHW), resample(x_BCHW)
    return in_layers[2](h_BCHW), x_BCHW


def spread(told_BC: Tensor, over_BCHW: Tensor) -> Tensor:
    """A number a channel, in the type of the features that it is spread over."""
    return told_BC.to(over_BCHW.dtype)[:, :, None, None]


def shortcut(width: int, wide: int) -> nn.Module:
    """The way around a residual block."""
    return nn.Identity() if width == wide else nn.Conv2d(width, wide, 1)


class ToldBlock(nn.Module):
    """A block that is told the timestep, and whatever else there is to tell."""


class ResBlock(ToldBlock):
    """Two convolutions around a skip, told the timestep between them; may resample on the way."""

    def __init__(self, width: int, wide: int, config: EncoderConfig, *, resample: Resample | None = None) -> None:
        """From ``width`` to ``wide`` channels."""
        super().__init__()
        told = config.told_width
        self.scale_shift = config.use_scale_shift_norm
        self.resample = resample
        self.in_layers = nn.Sequential(Norm(width), nn.SiLU(), conv3(width, wide))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(told, 2 * wide if self.scale_shift else wide))
        # Dropout stood third: it does nothing outside training, but the convolution is numbered after it.
        self.out_layers = nn.Sequential(Norm(wide), nn.SiLU(), nn.Identity(), conv3(wide, wide))
        self.skip_connection = shortcut(width, wide)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        """``skip(x) + conv(silu(norm(h) (1 + scale) + shift))``; without scale-shift ``norm(h + e)``."""
        h_BCHW, x_BCHW = first_half(self.in_layers, x_BCHW, self.resample)
        e_BC11 = spread(self.emb_layers(emb_BE), h_BCHW)
        if self.scale_shift:
            scale, shift = e_BC11.chunk(2, dim=1)
            h_BCHW = self.out_layers[1:](self.out_layers[0](h_BCHW) * (1 + scale) + shift)
        else:
            h_BCHW = self.out_layers(h_BCHW + e_BC11)
        added: Tensor = self.skip_connection(x_BCHW) + h_BCHW
        return added


def split_heads(qkv_BCT: Tensor, heads: int, *, new_order: bool) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, each (batch, head, token, channel), from 3 C channels in either order."""
    batch, channels, tokens = qkv_BCT.shape
    each = channels // 3 // heads
    shape = (batch, 3, heads, each, tokens) if new_order else (batch, heads, 3, each, tokens)
    # Fused attention takes channels that lie side by side; for any others torch falls back to one many times slower.
    q, k, v = qkv_BCT.reshape(shape).transpose(-1, -2).contiguous().unbind(1 if new_order else 2)
    return q, k, v


class AttentionBlock(nn.Module):
    """Every pixel attends to every other, around a skip."""

    def __init__(self, width: int, config: EncoderConfig) -> None:
        """For ``width`` channels."""
        super().__init__()
        self.heads, self.new_order = config.heads(width), config.use_new_attention_order
        self.norm = Norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``x + proj(attention(qkv(norm(x))))``, softmax over keys of ``q k / sqrt(channels a head)``."""
        x_BCT = x_BCHW.flatten(2)
        q, k, v = split_heads(self.qkv(self.norm(x_BCT)), self.heads, new_order=self.new_order)
        attended_BCT = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x_BCT.shape)
        added_BCT: Tensor = x_BCT + self.proj_out(attended_BCT)
        return added_BCT.reshape(x_BCHW.shape)


def noise_head(config: EncoderConfig) -> nn.Sequential:
    """What a U-Net ends with."""
    width = config.widths[0]
    return nn.Sequential(Norm(width), nn.SiLU(), conv3(width, config.unfolded * config.stem**2))


class Detail(nn.Module):
    """The finest level of a U-Net with a stem: what comes out of the fold, beside the pixels that went in.

    What a stem folds must pass through the torso's few channels, in which fine noise does not fit. Here the way around
    is short, and costs little: no norm, and no more channels than a pixel needs.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """With PyTorch's own random weights."""
        super().__init__()
        wide = config.detail
        self.layers = nn.ModuleList([conv3(config.in_channels + config.unfolded, wide), conv3(wide, wide)])
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.told_width, 2 * wide * len(self.layers)))
        self.out = conv3(wide, config.out_channels)

    def forward(self, x_BCHW: Tensor, unfolded_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        """``out(silu(conv(...) (1 + scale) + shift))``, every convolution told the timestep."""
        h_BCHW = torch.cat([x_BCHW, unfolded_BCHW], dim=1)
        told = iter(self.emb_layers(emb_BE).chunk(2 * len(self.layers), dim=1))
        dtype = next(self.layers.parameters()).dtype
        for layer in self.layers:
            h_BCHW = layer(h_BCHW.to(dtype))
            scale, shift = spread(next(told), h_BCHW), spread(next(told), h_BCHW)
            h_BCHW = F.silu(h_BCHW * (1 + scale) + shift)
        made: Tensor = self.out(h_BCHW.float())
        return made


def mean_head(config: EncoderConfig) -> nn.Sequential:
    """One vector of what is seen at the last level: the mean of all pixels."""
    width = config.widths[-1]
    pool = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, config.out_channels, 1), nn.Flatten())
    return nn.Sequential(Norm(width), nn.SiLU(), *pool)


def two_layers(width: int, middle: int, wide: int) -> nn.Sequential:
    """What a network makes of a condition before its blocks are told."""
    return nn.Sequential(nn.Linear(width, middle), nn.SiLU(), nn.Linear(middle, wide))


class AttentionPool(nn.Module):
    """One vector of class scores: what the mean of all pixels finds when it attends to them."""

    def __init__(self, width: int, wide: int, *, positions: int, heads: int) -> None:
        """From ``width`` channels at ``positions - 1`` pixels to ``wide`` scores."""
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(width, positions) / width**0.5)
        self.qkv_proj = nn.Conv1d(width, 3 * width, 1)
        self.c_proj = nn.Conv1d(width, wide, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(batch, score). The order of q, k and v is the new one in every checkpoint."""
        x_BCT = x_BCHW.flatten(2)
        x_BCT = torch.cat([x_BCT.mean(dim=-1, keepdim=True), x_BCT], dim=-1) + self.positional_embedding
        q, k, v = split_heads(self.qkv_proj(x_BCT), self.heads, new_order=True)
        found_BC1 = F.scaled_dot_product_attention(q[:, :, :1], k, v).transpose(-1, -2).reshape(len(x_BCT), -1, 1)
        scores_BC1: Tensor = self.c_proj(found_BC1)
        return scores_BC1[..., 0]


class ConvDown(nn.Module):
    """Half the resolution by a convolution of stride 2."""

    def __init__(self, width: int) -> None:
        """For ``width`` channels."""
        super().__init__()
        self.op = conv3(width, width, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Half the rows and columns."""
        halved: Tensor = self.op(x_BCHW)
        return halved


class ConvUp(nn.Module):
    """Twice the resolution: pixels repeated, then a convolution."""

    def __init__(self, width: int) -> None:
        """For ``width`` channels."""
        super().__init__()
        self.conv = conv3(width, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Twice the rows and columns."""
        doubled: Tensor = self.conv(double(x_BCHW))
        return doubled


class Stage(nn.ModuleList):
    """Layers one after the other, of which the residual ones are told the timestep, and whatever else there is."""

    def forward(self, x_BCHW: Tensor, *told: object) -> Tensor:
        """The last layer's output."""
        for layer in self:
            x_BCHW = layer(x_BCHW, *told) if isinstance(layer, ToldBlock) else layer(x_BCHW)
        return x_BCHW


class MakeBlock(Protocol):
    """A kind of residual block, from ``width`` to ``wide`` channels."""

    def __call__(self, width: int, wide: int, config: EncoderConfig, *, resample: Resample | None = None) -> nn.Module:
        """One of them."""
        ...


def _resampled(width: int, config: EncoderConfig, way: Way, block: MakeBlock) -> nn.Module:
    if config.resblock_updown:
        return block(width, width, config, resample=halve if way == "down" else double)
    return ConvDown(width) if way == "down" else ConvUp(width)


def _attention(width: int, config: EncoderConfig, level: int) -> list[nn.Module]:
    return [AttentionBlock(width, config)] if 2**level in config.attention_resolutions else []


def encoder_blocks(config: EncoderConfig, block: MakeBlock = ResBlock) -> tuple[nn.ModuleList, list[int]]:
    """The way down, and the width of each block's output, all of which the way up takes in again."""
    width = config.widths[0]
    blocks, widths = [Stage([conv3(config.in_channels * config.stem**2, width)])], [width]
    for level, wide in enumerate(config.widths):
        for _ in range(config.num_res_blocks):
            blocks.append(Stage([block(width, wide, config), *_attention(wide, config, level)]))
            widths.append(width := wide)
        if level + 1 < len(config.widths):
            blocks.append(Stage([_resampled(width, config, "down", block)]))
            widths.append(width)
    return nn.ModuleList(blocks), widths


def middle_stage(config: EncoderConfig, block: MakeBlock = ResBlock) -> Stage:
    """The deepest point: a residual block on either side of attention."""
    width = config.widths[-1]
    return Stage([block(width, width, config), AttentionBlock(width, config), block(width, width, config)])


def decoder_blocks(config: EncoderConfig, widths: list[int], block: MakeBlock = ResBlock) -> nn.ModuleList:
    """The way up; each block also takes the output of the block of the way down that mirrors it."""
    width, skips = config.widths[-1], list(widths)
    blocks = []
    for level, wide in reversed(list(enumerate(config.widths))):
        for nth in range(config.num_res_blocks + 1):
            layers = [block(width + skips.pop(), wide, config), *_attention(wide, config, level)]
            if level and nth == config.num_res_blocks:
                layers.append(_resampled(wide, config, "up", block))
            blocks.append(Stage(layers))
            width = wide
    return nn.ModuleList(blocks)

"""The building blocks of StyleGAN2 (Karras et al., 2020): runtime weight gains, modulation, FIR resampling.

Weights are drawn from a standard normal, and multiplied by ``1 / sqrt(fan in)`` whenever they are used. Resampling by
2 filters with the outer product of [1, 3, 3, 1]. Axes (batch, channel, row, column).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Resample = Literal["same", "down", "up"]

_TAPS, _TAPS_LEFT = (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 1.0)
_LEAK, _GAIN = 0.2, sqrt(2)
_LEAST = 1e-8
_GROUPS = 8


def fir(x: Tensor, gain: float = 1.0) -> Tensor:
    """Filtered with taps that sum to ``gain`` along each axis, without padding: three rows and columns fewer."""
    return _filtered(x, _TAPS, gain)


def twice(x: Tensor) -> Tensor:
    """Twice as many rows and columns: zeros in between, padding (2, 1), and the filter of gain 2 along each axis.

    A pixel as 2 x 2 is what zeros in between come to under the taps [1, 1], which leave [1, 2, 1] of the filter.
    """
    return _filtered(F.interpolate(x, scale_factor=2), _TAPS_LEFT, padding=1)


def _filtered(x: Tensor, taps: Sequence[float], gain: float = 1.0, *, padding: int = 0) -> Tensor:
    row = torch.tensor(taps, device=x.device, dtype=x.dtype) * (gain / sum(taps))
    channels = x.shape[1]
    kernel = (row[:, None] * row).expand(channels, 1, -1, -1)
    return F.conv2d(x, kernel, padding=padding, groups=channels)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, _LEAK) * _GAIN


def evened(h: Tensor) -> Tensor:
    """Features whose groups have mean 0 and variance 1 in each window: from these one learns several times as fast."""
    return F.group_norm(h.float(), gcd(h.shape[1], _GROUPS)).to(h.dtype)


class ScaledLinear(nn.Linear):
    """A linear layer with a runtime gain."""

    def __init__(self, told: int, made: int, *, bias: float = 0.0) -> None:
        """Weights are normal, biases all begin as ``bias``."""
        super().__init__(told, made)
        nn.init.normal_(self.weight)
        nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """``x W / sqrt(fan in) + b``."""
        return F.linear(x, self.weight / sqrt(self.in_features), self.bias)


class ScaledConv(nn.Conv2d):
    """A convolution with a runtime gain and without bias, that may resample by 2 on the way.

    Down: FIR, then stride 2. Up: a transposed convolution with the kernel flipped in space, then the FIR; this is
    not the same as resampling first within three pixels of the border.
    """

    def __init__(self, told: int, made: int, side: int = 3, *, resample: Resample = "same") -> None:
        """Weights are normal."""
        super().__init__(told, made, side, bias=False)
        nn.init.normal_(self.weight)
        self.resample = resample

    @property
    def scaled(self) -> Tensor:
        """The weights as they are used."""
        return self.weight / sqrt(self.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        """The convolution, by default padded with zeros to the same size."""
        weight = self.scaled
        if self.resample == "down":
            return F.conv2d(fir(F.pad(x, (2, 2, 2, 2))), weight, stride=2)
        if self.resample == "up":
            made = F.conv_transpose2d(x, weight.flip((2, 3)).transpose(0, 1), stride=2)
            return fir(F.pad(made, (1, 1, 1, 1)), gain=2.0)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class ConvLayer(nn.Module):
    """A plain convolution, bias and activation."""

    def __init__(self, told: int, made: int, side: int = 3, *, resample: Resample = "same") -> None:
        """Random weights."""
        super().__init__()
        self.conv = ScaledConv(told, made, side, resample=resample)
        self.bias = nn.Parameter(torch.zeros(made))

    def forward(self, x: Tensor) -> Tensor:
        """The activated output."""
        made: Tensor = self.conv(x)
        return activate(made + self.bias[:, None, None].to(made.dtype))


class Modulated(nn.Module):
    """A convolution whose input channels are scaled by a style; demodulation undoes what that does to the variance."""

    def __init__(
        self, told: int, made: int, style: int, side: int = 3, *, resample: Resample = "same", demodulate: bool = True
    ) -> None:
        """Random weights; the scales begin around 1."""
        super().__init__()
        self.conv = ScaledConv(told, made, side, resample=resample)
        self.affine = ScaledLinear(style, told, bias=1.0)
        self.bias = nn.Parameter(torch.zeros(made))
        self.demodulate = demodulate

    def forward(self, x: Tensor, style_BS: Tensor) -> Tensor:
        """``conv(x s) / |w s| + b``: modulation of the weights, done to what comes in and goes out."""
        scales_BC = self.affine(style_BS)
        made: Tensor = self.conv(x * scales_BC[..., None, None].to(x.dtype))
        if self.demodulate:
            energy_OC = self.conv.scaled.float().square().sum(dim=(2, 3))
            # Summed by row and not as a product of matrices, whose bits may depend on the row's slot.
            lengths_BO = (energy_OC * scales_BC.float().square()[:, None]).sum(dim=2)
            made = made * (lengths_BO + _LEAST).rsqrt()[..., None, None].to(made.dtype)
        return made + self.bias[:, None, None].to(made.dtype)


class StyleLayer(Modulated):
    """A modulated convolution and its activation."""

    def forward(self, x: Tensor, style_BS: Tensor) -> Tensor:
        """The activated output."""
        return activate(super().forward(x, style_BS))


class ToImage(Modulated):
    """A modulated 1x1 convolution without demodulation, added to the image of the coarser level."""

    def __init__(self, told: int, made: int, style: int) -> None:
        """Random weights."""
        super().__init__(told, made, style, 1, demodulate=False)

    def forward(self, x: Tensor, style_BS: Tensor, skip: Tensor | None = None) -> Tensor:
        """The image; a ``skip`` of half its size is brought to it by the filter."""
        image = super().forward(x, style_BS)
        if skip is None:
            return image
        return image + (skip if skip.shape == image.shape else twice(skip))

"""The semantic diffusion network (Wang et al., 2022): an ADM U-Net that is told of every pixel what it shows.

The way down is ADM's and knows of no labels. In the middle and on the way up every norm has gains and shifts for each
pixel, which it makes of the labels there (SPADE, Park et al., 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tiling.errors import InputError
from .adm import UNet, embed_time
from .adm_blocks import (
    ConvUp,
    Norm,
    Resample,
    ToldBlock,
    conv3,
    shortcut,
    spread,
    timestep_embedding,
)
from .adm_config import EncoderConfig
from .semantic_config import HIDDEN, SemanticConfig

Modulation = tuple[Tensor, Tensor]
"""Gains and shifts of a norm, each (batch, channel, row, column)."""


class Labels(Protocol):
    """What a batch shows, as the norms ask for it."""

    def modulation(self, norm: SpadeNorm | Gains, size: torch.Size) -> Modulation:
        """What a norm makes of the labels at some (rows, columns)."""
        ...


@dataclass(frozen=True, eq=False)
class Together(Labels):
    """The labels of a batch, all of them at once: (batch, label channel, row, column)."""

    y_BLHW: Tensor

    def modulation(self, norm: SpadeNorm | Gains, size: torch.Size) -> Modulation:
        """Made of the nearest labels, each time that it is asked for."""
        return norm.modulation(self.y_BLHW, size)


class SpadeNorm(nn.Module):
    """``norm(x) (1 + gamma) + beta`` with gains and shifts that are made of the labels alone."""

    def __init__(self, channels: int, label_channels: int) -> None:
        """For a number of channels."""
        super().__init__()
        self.channels = channels
        self.norm = Norm(channels, affine=False)
        self.mlp_shared = nn.Sequential(conv3(label_channels, HIDDEN), nn.ReLU())
        self.mlp_gamma = conv3(HIDDEN, channels)
        self.mlp_beta = conv3(HIDDEN, channels)

    def forward(self, x_BCHW: Tensor, labels: Labels) -> Tensor:
        """The norm of the class."""
        gamma_BCHW, beta_BCHW = labels.modulation(self, x_BCHW.shape[-2:])
        normed_BCHW: Tensor = self.norm(x_BCHW)
        return normed_BCHW * (1 + gamma_BCHW) + beta_BCHW

    def modulation(self, y_BLHW: Tensor, size: torch.Size) -> Modulation:
        """Gains and shifts at (rows, columns), from labels of any size."""
        shared = self.mlp_shared(_near(y_BLHW, size).to(self.mlp_gamma.weight.dtype))
        return self.mlp_gamma(shared), self.mlp_beta(shared)


class Gains(nn.Module):
    """Gains and shifts of what a stem unfolds, by the labels of every single pixel, without a layer between."""

    def __init__(self, channels: int, label_channels: int) -> None:
        """For a number of channels."""
        super().__init__()
        self.channels = channels
        self.conv = conv3(label_channels, 2 * channels)

    def modulation(self, y_BLHW: Tensor, size: torch.Size) -> Modulation:
        """Gains and shifts at (rows, columns), from labels of any size."""
        gamma_BCHW, beta_BCHW = self.conv(_near(y_BLHW, size).to(self.conv.weight.dtype)).chunk(2, dim=1)
        return gamma_BCHW, beta_BCHW


def _near(y_BLHW: Tensor, size: torch.Size) -> Tensor:
    """The nearest labels at (rows, columns)."""
    return y_BLHW if y_BLHW.shape[-2:] == size else F.interpolate(y_BLHW, size=size, mode="nearest")


class SpadeBlock(ToldBlock):
    """ADM's residual block with SPADE norms in place of its own; it is told the labels, too."""

    def __init__(self, width: int, wide: int, config: EncoderConfig, *, resample: Resample | None = None) -> None:
        """From ``width`` to ``wide`` channels."""
        super().__init__()
        channels = cast(SemanticConfig, config).label_channels
        self.resample = resample
        self.in_norm = SpadeNorm(width, channels)
        self.in_layers = nn.Sequential(nn.SiLU(), conv3(width, wide))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.told_width, 2 * wide))
        self.out_norm = SpadeNorm(wide, channels)
        # Dropout stood second: it does nothing outside training, but the convolution is numbered after it.
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Identity(), conv3(wide, wide))
        self.skip_connection = shortcut(width, wide)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor, labels: Labels) -> Tensor:
        """``skip(x) + conv(silu(norm(h) (1 + scale) + shift))``."""
        h_BCHW = self.in_layers[0](self.in_norm(x_BCHW, labels))
        if self.resample:
            h_BCHW, x_BCHW = self.resample(h_BCHW), self.resample(x_BCHW)
        h_BCHW = self.in_layers[1](h_BCHW)
        scale, shift = spread(self.emb_layers(emb_BE), h_BCHW).chunk(2, dim=1)
        h_BCHW = self.out_layers(self.out_norm(h_BCHW, labels) * (1 + scale) + shift)
        added: Tensor = self.skip_connection(x_BCHW) + h_BCHW
        return added


class SemanticUNet(UNet):
    """The denoising U-Net of labels: noisy images, their timesteps and what they show, to noise and variance."""

    def __init__(self, config: SemanticConfig) -> None:
        """With PyTorch's own random weights."""
        super().__init__(config, embed_time(config), decoder=SpadeBlock)
        self.config = config
        if config.detail:
            self.gains = Gains(config.unfolded, config.label_channels)
        # Gains and shifts of all norms together, in numbers a pixel of the image.
        self.modulated = sum(2 * norm.channels / (config.stem << level) ** 2 for norm, level in self._norms())
        self.modulated += 2 * config.unfolded if config.detail else 0

    @property
    def inner(self) -> Sequence[nn.Module]:
        """All blocks below ``out``, and the finest ones."""
        return (*super().inner, *([self.gains] if self.detailed else []))

    def _norms(self) -> Iterator[tuple[SpadeNorm, int]]:
        """Every norm that is told the labels, and the level it lies on, 0 being the finest."""
        level = len(self.config.widths) - 1
        for stage in (self.middle_block, *self.output_blocks):
            for layer in stage:
                if isinstance(layer, SpadeBlock):
                    yield layer.in_norm, level
                    level -= layer.resample is not None
                    yield layer.out_norm, level
                level -= isinstance(layer, ConvUp)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, labels: Tensor | Labels) -> Tensor:
        """Float32 (batch, out channel, row, column) from images in [-1, 1], original timesteps and labels.

        Labels are one channel a class, 1 where a pixel shows it, and behind them that of edges; all 0 says nothing.
        """
        emb_BE: Tensor = self.time_embed(timestep_embedding(t_B, self.model_channels))
        told = Together(labels) if isinstance(labels, Tensor) else labels
        h_BCHW, skips = self.down_to_the_middle(x_BCHW, emb_BE)
        return self.way_up(self.middle_block(h_BCHW, emb_BE, told), skips, emb_BE, told)

    def finest(self, x_BCHW: Tensor, unfolded_BCHW: Tensor, emb_BE: Tensor, *told: object) -> Tensor:
        """Of what comes out of the fold as the labels of every single pixel change it."""
        [labels] = cast(tuple[Labels], told)
        gamma_BCHW, beta_BCHW = labels.modulation(self.gains, unfolded_BCHW.shape[-2:])
        return super().finest(x_BCHW, unfolded_BCHW * (1 + gamma_BCHW) + beta_BCHW, emb_BE)


def one_hot(classes_BHW: Tensor, edges_BHW: Tensor | None, config: SemanticConfig) -> Tensor:
    """The labels (batch, label channel, row, column) of classes by number, -1 for none, and of edges."""
    if config.edges and edges_BHW is None:
        raise InputError("the network is told edges of instances, and the labels have none")
    batch, *size = classes_BHW.shape
    # A channel before all others takes the pixels that show nothing.
    y_BLHW = torch.zeros((batch, 1 + config.label_channels, *size), device=classes_BHW.device)
    y_BLHW.scatter_(1, classes_BHW.long()[:, None] + 1, 1.0)
    if config.edges and edges_BHW is not None:
        y_BLHW[:, -1] = edges_BHW
    return y_BLHW[:, 1:]

"""Patch-DM (Ding et al., 2023): a U-Net of patches, its two halves apart, so that features can move between patches.

The encoder half runs on the patches of a zero-padded image, half a patch off; the decoder half runs on the
patches of the image itself, on features of the four encoder patches around each (:mod:`tileloom.models.collage`).
Parameter names are those of the published program.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..tiling.errors import InputError
from .adm import UNet
from .adm_blocks import (
    Norm,
    Resample,
    ResBlock,
    conv3,
    encoder_blocks,
    first_half,
    mean_head,
    middle_stage,
    shortcut,
    spread,
    timestep_embedding,
    two_layers,
)
from .adm_config import EncoderConfig
from .latent import LatentNet
from .patchdm_config import POSITION_CHANNELS, PatchConfig, StyleEncoderConfig

# Drop flags of a row: of its style, of its position.
DROPS = 2


class StyledBlock(ResBlock):
    """A residual block that is told time and position together, and a style apart."""

    def __init__(self, width: int, wide: int, config: EncoderConfig, *, resample: Resample | None = None) -> None:
        """From ``width`` to ``wide`` channels."""
        super().__init__(width, wide, config, resample=resample)
        self.cond_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.told_width, wide))

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor, style_BE: Tensor) -> Tensor:  # type: ignore[override]  # told more
        """``skip(x) + conv(silu((norm(h) (1 + scale) + shift) (1 + scale of the style)))``."""
        h_BCHW, x_BCHW = first_half(self.in_layers, x_BCHW, self.resample)
        scale, shift = spread(self.emb_layers(emb_BE), h_BCHW).chunk(2, dim=1)
        styled = spread(self.cond_emb_layers(style_BE), h_BCHW)
        h_BCHW = (self.out_layers[0](h_BCHW) * (1 + scale) + shift) * (1 + styled)
        added: Tensor = self.skip_connection(x_BCHW) + self.out_layers[1:](h_BCHW)
        return added


class _HalfBlock(nn.Module):
    """A residual block that is told nothing: the published program leaves its second convolution out."""

    def __init__(self, width: int, wide: int, config: EncoderConfig, *, resample: Resample | None = None) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(Norm(width), nn.SiLU(), conv3(width, wide))
        self.skip_connection = shortcut(width, wide)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``skip(x) + conv(silu(norm(x)))``."""
        h_BCHW, x_BCHW = first_half(self.in_layers, x_BCHW, self.resample)
        added: Tensor = self.skip_connection(x_BCHW) + h_BCHW
        return added


class StyleEncoder(nn.Module):
    """The style of an image: a way down of half blocks, then the mean."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        """With PyTorch's own random weights."""
        super().__init__()
        self.config = config
        self.input_blocks, _ = encoder_blocks(config, _HalfBlock)
        self.middle_block = middle_stage(config, _HalfBlock)
        self.out = mean_head(config)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(batch, style) of clean images in [-1, 1]."""
        for stage in (*self.input_blocks, self.middle_block):
            x_BCHW = stage(x_BCHW)
        style_BS: Tensor = self.out(x_BCHW)
        return style_BS


class StyleTable(nn.Module):
    """A style for each image of a collection, learned with the U-Net."""

    def __init__(self, codes: int, channels: int) -> None:
        """With PyTorch's own random weights."""
        super().__init__()
        self.semantic_enc = nn.Embedding(codes, channels)

    def forward(self, index_B: Tensor) -> Tensor:
        """(batch, style) of images by their number."""
        style_BS: Tensor = self.semantic_enc(index_B)
        return style_BS


class _Conditions(nn.Module):
    """What residual blocks are told: time and position side by side, and the style where there is such."""

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        width, each = config.embed_channels, config.embed_channels // 2
        self.model_channels = config.model_channels
        self.positions, self.styled = config.positions, config.style_channels > 0
        self.time_embed = two_layers(config.model_channels, each, each)
        self.pos_embed = two_layers(2 * POSITION_CHANNELS, each, each)
        alike = not self.styled or config.style_channels == width
        self.style = nn.Identity() if alike else two_layers(config.style_channels, width, width)

    def forward(self, t_B: Tensor, positions_B2: Tensor, style_BS: Tensor, drops_B2: Tensor) -> tuple[Tensor, ...]:
        """What is dropped is 0 where it enters; what is made of that 0 is learned."""
        keep_style_B1, keep_position_B1 = (~drops_B2).to(style_BS.dtype)[:, :, None].unbind(dim=1)
        time_BE = self.time_embed(timestep_embedding(t_B, self.model_channels))
        sinusoids = [timestep_embedding(axis_B, POSITION_CHANNELS) for axis_B in positions_B2.unbind(dim=1)]
        position_BE = self.pos_embed(torch.cat(sinusoids, dim=1) * keep_position_B1 * self.positions)
        told_BE = torch.cat([time_BE, position_BE], dim=1)
        return (told_BE, self.style(style_BS * keep_style_B1)) if self.styled else (told_BE,)


class PatchUNet(UNet):
    """The denoising U-Net of patches, which may belong to different images, timesteps and places.

    Of every row both halves are told: ``t`` (batch), the timestep of the original schedule, possibly fractional;
    ``positions`` (batch, 2), row and column of the patch's centre in units of a patch, whole for encoder patches
    and half-way between for decoder patches; ``style`` (batch, ``config.style_channels``); ``drops`` (batch, 2),
    booleans that drop the style and the position.
    """

    time_embed: _Conditions

    def __init__(self, config: PatchConfig) -> None:
        """With PyTorch's own random weights."""
        block = StyledBlock if config.style_channels else ResBlock
        super().__init__(config, _Conditions(config), block)
        self.config = config
        if config.codes is not None:
            self.encoder: StyleTable | StyleEncoder = StyleTable(config.codes, config.style_channels)
        elif config.encoder is not None:
            self.encoder = StyleEncoder(config.encoder)
        if config.latent is not None:
            self.latent_net = LatentNet(config.latent)

    def encode(
        self, patches_BCHW: Tensor, t_B: Tensor, positions_B2: Tensor, style_BS: Tensor, drops_B2: Tensor
    ) -> list[Tensor]:
        """The features of encoder patches, in the shapes of ``config.features``: every input block's, the middle's."""
        told = self.time_embed(t_B, positions_B2, style_BS, drops_B2)
        middle_BCHW, skips = self.way_down(patches_BCHW, *told)
        return [*skips, middle_BCHW]

    def decode(
        self, features: Sequence[Tensor], t_B: Tensor, positions_B2: Tensor, style_BS: Tensor, drops_B2: Tensor
    ) -> Tensor:
        """The noise in decoder patches, float32 (batch, band, row, column), of features as the collage makes them."""
        told = self.time_embed(t_B, positions_B2, style_BS, drops_B2)
        *skips, middle_BCHW = features
        return self.way_up(middle_BCHW, skips, *told)

    def styles(self, labels_B: Tensor) -> Tensor:
        """(batch, style) of the table, by number."""
        if self.config.codes is None:
            raise InputError("this Patch-DM network holds no table of styles")
        style_BS: Tensor = self.encoder(labels_B)
        return style_BS


def dropped(count: int, *, style: bool, position: bool, device: torch.device | str = "cpu") -> Tensor:
    """The same drop flags for ``count`` rows."""
    return torch.tensor([[style, position]], device=device).expand(count, DROPS)

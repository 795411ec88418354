"""The ADM U-Net and the classifier that guides it, exact to the published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tiling.errors import InputError
from .adm_blocks import (
    AttentionPool,
    Detail,
    MakeBlock,
    Norm,
    ResBlock,
    decoder_blocks,
    encoder_blocks,
    mean_head,
    middle_stage,
    noise_head,
    timestep_embedding,
    two_layers,
)
from .adm_config import AdmConfig, ClassifierConfig, EncoderConfig
from .contract import Precision

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Torso(nn.Module):
    """What networks of this family have: what embeds the time, the way down and the middle."""

    def __init__(
        self,
        config: EncoderConfig,
        time_embed: nn.Module,
        block: MakeBlock = ResBlock,
        middle: MakeBlock | None = None,
    ) -> None:
        """With PyTorch's own random weights; the middle is made of other blocks where it is told more."""
        super().__init__()
        self.model_channels = config.model_channels
        self.stem, self.detailed = config.stem, config.detail > 0
        self.precision: Precision = "fp32"
        self.channels_last = False
        self.time_embed = time_embed
        self.input_blocks, self.skip_widths = encoder_blocks(config, block)
        self.middle_block = middle_stage(config, middle or block)

    def set_precision(self, precision: Precision) -> None:
        """Hold and run the convolutions below ``out`` in a precision; all else, norms too, stays in float32."""
        self.precision = precision
        for part in self.inner:
            for module in part.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.to(self.torso_dtype)

    def set_channels_last(self) -> None:
        """Lay the numbers between the convolutions out channels last, which their weights decide."""
        self.channels_last = True
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own types leave it out

    @property
    def inner(self) -> Sequence[nn.Module]:
        """All blocks below ``out``."""
        return (self.input_blocks, self.middle_block)

    @property
    def numerics(self) -> dict[str, str]:
        """What its bits depend on besides weights, inputs and device."""
        laid = "channels last" if self.channels_last else "contiguous"
        return {"precision": self.precision, "memory format": laid}

    @property
    def torso_dtype(self) -> torch.dtype:
        """The type of the numbers between the convolutions."""
        return _DTYPES[self.precision]

    def way_down(self, x_BCHW: Tensor, *told: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The way down and the middle: the deepest features, and every block's output for the way up."""
        h_BCHW, skips = self.down_to_the_middle(x_BCHW, *told)
        return self.middle_block(h_BCHW, *told), skips

    def down_to_the_middle(self, x_BCHW: Tensor, *told: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The way down alone: what the middle is given, and every block's output; of details the pixels, before all."""
        skips = [x_BCHW.to(self.torso_dtype)] if self.detailed else []
        if self.stem > 1:
            x_BCHW = F.pixel_unshuffle(x_BCHW, self.stem)
        h_BCHW = x_BCHW.to(self.torso_dtype)
        for stage in self.input_blocks:
            h_BCHW = stage(h_BCHW, *told)
            skips.append(h_BCHW)
        return h_BCHW, skips


class UNet(Torso):
    """A torso with a way up."""

    output_blocks: nn.ModuleList
    out: nn.Sequential

    def __init__(
        self,
        config: EncoderConfig,
        time_embed: nn.Module,
        block: MakeBlock = ResBlock,
        decoder: MakeBlock | None = None,
    ) -> None:
        """With PyTorch's own random weights; from the middle on it is made of other blocks where it is told more."""
        super().__init__(config, time_embed, block, decoder)
        self.output_blocks = decoder_blocks(config, self.skip_widths, decoder or block)
        self.out = noise_head(config)
        if config.detail:
            self.detail = Detail(config)

    @property
    def inner(self) -> Sequence[nn.Module]:
        """All blocks below ``out``, and the finest ones."""
        return (*super().inner, self.output_blocks, *([self.detail.layers] if self.detailed else []))

    @property
    def last(self) -> nn.Module:
        """The layer whose output is the network's."""
        return self.detail.out if self.detailed else self.out[-1]

    def way_up(self, h_BCHW: Tensor, skips: Sequence[Tensor], emb_BE: Tensor, *told: object) -> Tensor:
        """From features of :meth:`way_down`, rearranged or not, to the output in float32."""
        left = list(skips)
        for stage in self.output_blocks:
            h_BCHW = stage(torch.cat([h_BCHW, left.pop()], dim=1), emb_BE, *told)
        predicted: Tensor = self.out(h_BCHW.float())
        if self.stem > 1:
            predicted = F.pixel_shuffle(predicted, self.stem)
        if self.detailed:
            predicted = self.finest(left.pop(), predicted, emb_BE, *told)
        return predicted.contiguous()

    def finest(self, x_BCHW: Tensor, unfolded_BCHW: Tensor, emb_BE: Tensor, *_: object) -> Tensor:
        """The output of what comes out of the fold, beside the pixels that went in."""
        made: Tensor = self.detail(x_BCHW, unfolded_BCHW, emb_BE)
        return made


def embed_time(config: EncoderConfig) -> nn.Module:
    """What a network makes of the timestep before its blocks are told."""
    return two_layers(config.model_channels, config.told_width, config.told_width)


class AdmUNet(UNet):
    """The denoising U-Net: a batch of noisy images and their timesteps to noise, and variance where it is learned.

    It is fully convolutional: rows and columns may be any multiples of ``config.size_multiple``.
    """

    def __init__(self, config: AdmConfig) -> None:
        """With PyTorch's own random weights."""
        super().__init__(config, embed_time(config))
        self.config = config
        if config.num_classes is not None:
            self.label_emb = nn.Embedding(config.num_classes, 4 * config.model_channels)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, y_B: Tensor | None = None) -> Tensor:
        """Float32 (batch, out channel, row, column) from images in [-1, 1], original timesteps, class labels."""
        emb_BE = self.embed(t_B, y_B)
        return self.way_up(*self.way_down(x_BCHW, emb_BE), emb_BE)

    def embed(self, t_B: Tensor, y_B: Tensor | None = None) -> Tensor:
        """What every residual block is told: the timestep, possibly fractional, and the class."""
        emb_BE: Tensor = self.time_embed(timestep_embedding(t_B, self.model_channels))
        if (self.config.num_classes is None) != (y_B is None):
            raise InputError("class labels are given to a network that takes none, or missing for one that does")
        return emb_BE if y_B is None else emb_BE + self.label_emb(y_B)


class AdmClassifier(Torso):
    """Which class a noisy image shows: the way down, then a pool. Attention pooling takes one image size only."""

    def __init__(self, config: ClassifierConfig) -> None:
        """With PyTorch's own random weights."""
        super().__init__(config, embed_time(config))
        self.config = config
        self.out = _attention_head(config) if config.pool == "attention" else mean_head(config)

    def forward(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Float32 scores (batch, class) of images in [-1, 1] at original timesteps."""
        size = self.config.image_size
        if self.config.pool == "attention" and x_BCHW.shape[-2:] != (size, size):
            rows, cols = x_BCHW.shape[-2:]
            raise InputError(
                f"the classifier takes {size}x{size} pixels and no other size, the tile has {rows}x{cols}: "
                f"set tile to {size}, or leave guidance out"
            )
        h_BCHW, _ = self.way_down(x_BCHW, self.time_embed(timestep_embedding(t_B, self.model_channels)))
        scores_BK: Tensor = self.out(h_BCHW.float())
        return scores_BK


def _attention_head(config: ClassifierConfig) -> nn.Sequential:
    width = config.widths[-1]
    pool = AttentionPool(width, config.out_channels, positions=config.positions, heads=config.heads(width))
    return nn.Sequential(Norm(width), nn.SiLU(), pool)

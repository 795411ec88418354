"""The shape of a Patch-DM network and of what gives it its style, as plain data; torch stays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..tiling.errors import InputError
from .adm_config import NORM_GROUPS, EncoderConfig

# Sinusoids of a patch's row, and as many of its column.
POSITION_CHANNELS = 64


class FeatureShape(NamedTuple):
    """One feature map of one patch."""

    channels: int
    side: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _FewChannels(EncoderConfig):
    """A way down whose levels may be narrower than the groups of a norm."""

    num_head_channels: int = -1
    num_heads: int = 1

    def __post_init__(self) -> None:
        """Refuse widths that the norms or the heads cannot divide."""
        for width in self.widths:
            refuse_width(width)
        for level, width in enumerate(self.widths):
            if level == len(self.widths) - 1 or 2**level in self.attention_resolutions:
                self.heads(width)


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleEncoderConfig(_FewChannels):
    """The network that sees a style in an image; ``out_channels`` is the style's width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentConfig:
    """The network that draws styles of ``channels`` values: ``layers`` linear ones, ``hidden`` wide.

    The layers of ``skips`` take the noisy style in once more. ``time_channels`` are the sinusoids of the timestep;
    a layer is scaled by ``bias`` and what it is told of the time; ``norm``: each is normalised, but for the last.
    """

    channels: int
    hidden: int
    layers: int
    skips: tuple[int, ...]
    time_channels: int = 64
    bias: float = 1.0
    norm: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchConfig(_FewChannels):
    """The U-Net of patches, ``patch`` pixels a side.

    A style is ``style_channels`` values, none where blocks are told of no style; ``embed_channels`` are told to every
    residual block, of the style as many as of time and position together. Styles come from a table of ``codes`` of
    them, from an ``encoder`` or from a ``latent`` network, where it has such; ``attention_resolutions`` as everywhere.
    Without ``positions`` no patch is ever told where it lies.
    """

    patch: int
    embed_channels: int
    style_channels: int
    out_channels: int = 3
    positions: bool = True
    codes: int | None = None
    encoder: StyleEncoderConfig | None = None
    latent: LatentConfig | None = None

    def __post_init__(self) -> None:
        """Refuse what the norms, the heads or the collage cannot divide."""
        _FewChannels.__post_init__(self)
        multiple = 2 * self.size_multiple
        if self.patch < 1 or self.patch % multiple:
            folded = f"folds {self.stem} x {self.stem} pixels into one and " if self.stem > 1 else ""
            raise InputError(
                f"model.patch is {self.patch}; this network {folded}halves its patches {len(self.widths) - 1} times, "
                f"and half of what is left must be whole: give a multiple of {multiple}"
            )
        if self.embed_channels % 2:
            raise InputError(f"time and position do not share {self.embed_channels} channels: embed_channels is even")

    @property
    def told_width(self) -> int:
        """Channels of what every residual block is told, twice."""
        return self.embed_channels

    @property
    def half(self) -> int:
        """Half a patch, in pixels."""
        return self.patch // 2

    @property
    def features(self) -> tuple[FeatureShape, ...]:
        """What the encoder half makes of a patch: every input block's output, and the middle's; details need pixels."""
        side = self.patch // self.stem
        pixels = [FeatureShape(self.in_channels, self.patch)] if self.detail else []
        shapes = [*pixels, FeatureShape(self.widths[0], side)]
        for level, width in enumerate(self.widths):
            shapes += [FeatureShape(width, side >> level)] * self.num_res_blocks
            if level + 1 < len(self.widths):
                shapes.append(FeatureShape(width, side >> level + 1))
        return (*shapes, shapes[-1])

    @property
    def feature_values(self) -> int:
        """Numbers in the features of one patch."""
        return sum(shape.channels * shape.side**2 for shape in self.features)


def refuse_width(width: int) -> None:
    """Refuse a number of channels that a group norm cannot divide."""
    if not width or (width > NORM_GROUPS and width % NORM_GROUPS):
        raise InputError(
            f"a level is {width} channels wide, which {NORM_GROUPS} norm groups do not divide: choose channels up to "
            f"{NORM_GROUPS}, or a multiple of it"
        )

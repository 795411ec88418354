"""The shape of an ADM network, as plain data; torch stays out, so that a plan can read it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Literal

from ..tiling.errors import InputError

NORM_GROUPS = 32
Pool = Literal["attention", "adaptive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """What U-Nets and classifiers have in common: the way down.

    ``channel_mult`` has a level's width in units of ``model_channels``, finest level first;
    ``attention_resolutions`` are the downsampling factors with attention (2: half resolution).
    A head has ``num_head_channels`` channels, or where that is -1 there are ``num_heads``.
    The new attention order splits q, k and v before the heads, the legacy order after.
    A ``stem`` of s folds every s x s pixels into the channels of one before the first convolution (pixel unshuffle);
    channels of the image are counted without that. What a U-Net with a stem predicts passes through ``detail``
    channels of every single pixel before it comes out, beside the noisy pixels themselves; 0: through none.
    """

    model_channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    in_channels: int = 3
    out_channels: int = 6
    num_head_channels: int = 64
    num_heads: int = 4
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    stem: int = 1
    detail: int = 0

    def __post_init__(self) -> None:
        """Refuse widths that the norms or the heads cannot divide."""
        if self.detail < 0 or self.detail % 2:
            raise InputError(f"detail is {self.detail}: give an even number of channels, or 0 for none")
        for width in self.widths:
            if not width or width % NORM_GROUPS:
                raise InputError(
                    f"a level is {width} channels wide, which {NORM_GROUPS} norm groups do not divide: "
                    "choose model_channels and channel_mult whose products they do"
                )
        for level, width in enumerate(self.widths):
            if level == len(self.widths) - 1 or 2**level in self.attention_resolutions:
                self.heads(width)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(int(mult * self.model_channels) for mult in self.channel_mult)

    @property
    def told_width(self) -> int:
        """Channels of what every residual block is told."""
        return 4 * self.model_channels

    @property
    def unfolded(self) -> int:
        """Channels that the way up makes of every single pixel: the output's, or what its details are drawn from."""
        return self.detail // 2 or self.out_channels

    @property
    def size_multiple(self) -> int:
        """Rows and columns that every image must be a multiple of."""
        return self.stem << len(self.channel_mult) - 1

    def heads(self, width: int) -> int:
        """Attention heads at a width."""
        each = self.num_head_channels if self.num_head_channels != -1 else width // max(1, self.num_heads)
        if each < 1 or width % each:
            raise InputError(
                f"attention {width} channels wide does not split into heads of {each}; "
                "give the model's option heads or head_channels"
            )
        return width // each


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmConfig(EncoderConfig):
    """The U-Net. ``out_channels`` is the noise's, twice that where the variance is learned; None: no classes."""

    num_classes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig(EncoderConfig):
    """The classifier of noisy images: ``out_channels`` classes; ``image_size`` is fixed by attention pooling."""

    pool: Pool = "attention"
    image_size: int | None = None

    @property
    def positions(self) -> int:
        """Tokens of the attention pool: one a pixel of the last level, and their mean."""
        if self.image_size is None or self.image_size % self.size_multiple:
            raise InputError(f"image_size is {self.image_size}; give a multiple of {self.size_multiple}")
        return (self.image_size // self.size_multiple) ** 2 + 1


def image_size_of(positions: int, levels: int) -> int:
    """The image size of a classifier by the tokens of its attention pool."""
    return isqrt(positions - 1) << levels - 1


def effort(config: AdmConfig) -> tuple[float, float]:
    """(a, b): a call on a window of n pixels takes about ``a n + b n^2`` floating-point operations.

    Those of convolutions and attention; a multiplication and an addition are two.
    """
    sizes = [1 / (config.stem << level) ** 2 for level in range(len(config.widths))]
    linear = quadratic = 0.0

    def convolve(width: int, wide: int, level: int, taps: int = 9) -> None:
        nonlocal linear
        linear += 2 * taps * width * wide * sizes[level]

    def refine(*widths: int) -> None:
        nonlocal linear
        linear += sum(2 * 9 * width * wide for width, wide in pairwise(widths))

    def block(width: int, wide: int, level: int) -> None:
        convolve(width, wide, level)
        convolve(wide, wide, level)
        if width != wide:
            convolve(width, wide, level, taps=1)

    def attend(width: int, level: int) -> None:
        nonlocal quadratic
        convolve(width, 4 * width, level, taps=1)
        quadratic += 4 * width * sizes[level] ** 2

    def resample(width: int, level: int) -> None:
        for _ in range(2 if config.resblock_updown else 1):
            convolve(width, width, level)

    last, folded = len(config.widths) - 1, config.stem**2
    attended = [2**level in config.attention_resolutions for level in range(last + 1)]
    width = config.widths[0]
    convolve(config.in_channels * folded, width, 0)
    skips = [width]
    for level, wide in enumerate(config.widths):
        for _ in range(config.num_res_blocks):
            block(width, wide, level)
            skips.append(width := wide)
            if attended[level]:
                attend(wide, level)
        if level < last:
            resample(width, level + 1)
            skips.append(width)
    for _ in range(2):
        block(width, width, last)
    attend(width, last)
    for level, wide in reversed(list(enumerate(config.widths))):
        for _ in range(config.num_res_blocks + 1):
            block(width + skips.pop(), wide, level)
            width = wide
            if attended[level]:
                attend(wide, level)
        if level:
            resample(wide, level - 1)
    convolve(width, config.unfolded * folded, 0)
    if config.detail:
        refine(config.in_channels + config.unfolded, config.detail, config.detail, config.out_channels)
    return linear, quadratic

"""Which style a Patch-DM network draws an image in, as a job says it; torch stays out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..tiling.errors import InputError
from ..tiling.source import open_source
from .patchdm_config import PatchConfig, StyleEncoderConfig

# Pixels of an image that is seen as a whole.
_LARGEST = 64_000_000
# The side of the images that an encoder without attention was made for, and at which attention has its place.
_USUAL_SIDE, _ATTENTIVE_SIDE = 256, 16


_DRAWN = re.compile(r"(row|sample)(?::(.*))?")


def names_file(style: object) -> bool:
    """Whether a style is the path of a file."""
    return isinstance(style, str) and not _DRAWN.fullmatch(style)


@dataclass(frozen=True, slots=True)
class Style:
    """A row of the network's own table, a draw of its latent network, or what a file holds: a code, or an image."""

    source: Literal["row", "sample", "code", "image"]
    number: int = 0
    file: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``row:N``, ``sample``, ``sample:SEED``, the path of a code (.npy) or of an image."""
        if drawn := _DRAWN.fullmatch(text):
            if (drawn[1] == "row" and drawn[2] is None) or not (drawn[2] or "0").isdecimal():
                raise InputError(f"model.style is {text}: write row:N or sample:SEED with a whole number from 0 up")
            return cls("row" if drawn[1] == "row" else "sample", int(drawn[2] or 0))
        if not Path(text).exists():
            raise InputError(
                f"model.style is {text!r}, which is no file: give row:N, sample, sample:SEED, or the path of an image "
                "or of a code saved as .npy"
            )
        return cls("code" if text.endswith(".npy") else "image", file=text)

    def check(self, config: PatchConfig, network: str) -> None:
        """Refuse a style that a network cannot draw, or that does not fit it."""
        if self.source == "row":
            if self.number >= (config.codes or 0):
                table = f"a table of rows 0 to {config.codes - 1}" if config.codes else "no table of styles"
                raise InputError(f"model.style is row:{self.number}, and {network} holds {table}: choose another style")
        elif self.source == "sample" and config.latent is None:
            raise InputError(f"model.style is sample, and {network} holds no network that draws styles: leave it out")
        elif self.source == "code":
            if not config.style_channels:
                raise InputError(f"model.style is {self.file}, and {network} is told of no style: leave it out")
            self.code(config.style_channels)
        elif self.source == "image":
            self._check_image(config.encoder, network)

    def code(self, width: int) -> NDArray[np.float32]:
        """The code of a file."""
        try:
            code = np.load(self.file, allow_pickle=False)
        except (ValueError, OSError) as error:
            raise InputError(f"model.style {self.file} is no array of numbers: write it with numpy.save") from error
        if code.size != width or code.dtype.kind not in "fiu":
            raise InputError(
                f"model.style {self.file} holds {code.size} values of {code.dtype}, and the network's style is "
                f"{width} numbers: give a code of this network"
            )
        return np.asarray(code.reshape(width), np.float32)

    def _check_image(self, encoder: StyleEncoderConfig | None, network: str) -> None:
        if encoder is None:
            raise InputError(
                f"model.style is {self.file}, and {network} holds no network that sees a style in an image: leave it "
                "out, or give a code saved as .npy"
            )
        source = open_source(self.file)
        if source.bands != encoder.in_channels:
            raise InputError(
                f"model.style {self.file} has {source.bands} bands, and styles are seen in images of "
                f"{encoder.in_channels}: choose another image"
            )
        if source.height * source.width > _LARGEST:
            raise InputError(
                f"model.style {self.file} is {source.height}x{source.width} pixels, and a style is seen in an image as "
                "a whole: shrink it first"
            )


def seen_side(encoder: StyleEncoderConfig) -> int:
    """Pixels along a side of the images that a style encoder was made for: it attends where 16 of them are left."""
    factors = encoder.attention_resolutions
    return _ATTENTIVE_SIDE * max(factors) if factors else _USUAL_SIDE

"""The collage of Patch-DM: from patches half a patch off to the patches of the image, and back in units of patches.

An image of rows x cols patches, p pixels a side, is padded by half a patch on all sides and cut into
(rows + 1) x (cols + 1) *encoder patches*. The image's own patches are the *decoder patches*. Here 2 x 2 of them::

    +---------+---------+---------+
    | 0  0  0 | 0  0  0 | 0  0  0 |    ---  encoder patches; their outermost halves are padding
    | 0  #====|====#====|====#  0 |    ===  decoder patches, which make up the image
    | 0  "    |    "    |    "  0 |
    +----"----+----"----+----"----+    #    centres of encoder patches, at whole positions:
    | 0  "    |    "    |    "  0 |           (0, 0) (0, 1) (0, 2), (1, 0) ...
    | 0  #====|====#====|====#  0 |    +    inside the image: centres of decoder patches, half-way between:
    | 0  "    |    "    |    "  0 |           (0.5, 0.5) (0.5, 1.5), (1.5, 0.5) (1.5, 1.5)
    +----"----+----"----+----"----+
    | 0  "    |    "    |    "  0 |
    | 0  #====|====#====|====#  0 |
    | 0  0  0 | 0  0  0 | 0  0  0 |
    +---------+---------+---------+

So decoder patch (i, j) is made of quarters of the four encoder patches around its centre, whatever the side of
a feature map is::

    lower right of (i, j)      | lower left of (i, j + 1)
    ---------------------------+---------------------------
    upper right of (i + 1, j)  | upper left of (i + 1, j + 1)

A block of an image is such an image too, whose first patch is (``top``, ``left``) of the whole and whose padding,
where it has neighbours, holds their pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiling.errors import InputError


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """``rows`` x ``cols`` decoder patches, the first of them at (``top``, ``left``), in units of patches."""

    rows: int
    cols: int
    top: int = 0
    left: int = 0

    @classmethod
    def of(cls, height: int, width: int, patch: int) -> Self:
        """The grid of a whole image, of sides in pixels."""
        if height % patch or width % patch or not height or not width:
            raise InputError(f"{height} x {width} pixels are not cut into whole patches of {patch} x {patch}")
        return cls(height // patch, width // patch)

    @property
    def encoder_count(self) -> int:
        """Encoder patches."""
        return (self.rows + 1) * (self.cols + 1)

    @property
    def decoder_count(self) -> int:
        """Decoder patches."""
        return self.rows * self.cols

    def encoder_positions(self) -> Tensor:
        """(encoder patch, 2): row and column of their centres, whole numbers, row by row."""
        return _positions(self.rows + 1, self.cols + 1, self.top, self.left)

    def decoder_positions(self) -> Tensor:
        """(decoder patch, 2): row and column of their centres, half-way between whole numbers, row by row."""
        return _positions(self.rows, self.cols, self.top + 0.5, self.left + 0.5)


def _positions(rows: int, cols: int, top: float, left: float) -> Tensor:
    return torch.cartesian_prod(torch.arange(rows) + float(top), torch.arange(cols) + float(left))


def pad(x_BCHW: Tensor, patch: int) -> Tensor:
    """Images with half a patch of zeros on all sides."""
    return F.pad(x_BCHW, (patch // 2,) * 4)


def cut(maps_BCHW: Tensor, side: int) -> Tensor:
    """Maps as patches (batch x patch, channel, side, side): image by image, row by row."""
    batch, channels, height, width = maps_BCHW.shape
    split = maps_BCHW.reshape(batch, channels, height // side, side, width // side, side)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side)


def stitch(patches_NCss: Tensor, rows: int, cols: int) -> Tensor:
    """Patches as maps of rows x cols of them (batch, channel, row, column); undoes :func:`cut`."""
    _, channels, side, _ = patches_NCss.shape
    split = patches_NCss.reshape(-1, rows, cols, channels, side, side).permute(0, 3, 1, 4, 2, 5)
    return split.reshape(-1, channels, rows * side, cols * side)


def collage(features_NCss: Tensor, grid: PatchGrid) -> Tensor:
    """One feature of all encoder patches as that of all decoder patches: stitched, cropped by half a patch, cut."""
    side = features_NCss.shape[-1]
    half = side // 2
    return cut(stitch(features_NCss, grid.rows + 1, grid.cols + 1)[..., half:-half, half:-half], side)


def quarters(features_NCss: Tensor) -> Tensor:
    """Features as (patch, 2, 2, channel, half side, half side): upper and lower, left and right."""
    count, channels, side, _ = features_NCss.shape
    half = side // 2
    return features_NCss.reshape(count, channels, 2, half, 2, half).permute(0, 2, 4, 1, 3, 5)


def from_quarters(northwest: Tensor, northeast: Tensor, southwest: Tensor, southeast: Tensor) -> Tensor:
    """Features of decoder patches (patch, channel, side, side), from quarters of the encoder patches around each.

    Each argument has (patch, channel, half side, half side): of the encoder patch to the north-west its lower
    right quarter, ``quarters(f)[:, 1, 1]``; to the north-east ``[:, 1, 0]``; to the south-west ``[:, 0, 1]``; to
    the south-east ``[:, 0, 0]``.
    """
    upper, lower = torch.cat([northwest, northeast], dim=-1), torch.cat([southwest, southeast], dim=-1)
    return torch.cat([upper, lower], dim=-2)

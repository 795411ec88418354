"""Patch-DM on whole images: pad, encode, collage, decode, stitch, a fixed number of patches at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .adapted import bytes_of
from .collage import PatchGrid, collage, cut, pad, stitch
from .contract import Contract, live_in
from .denoiser import Condition
from .patchdm import PatchUNet, dropped
from .prediction import Prediction, away_from

# Patches in one pass of either half of the network.
CELLS = 8


def in_cells(half: Callable[..., Sequence[Tensor]], cells: int, *rows: Tensor) -> list[Tensor]:
    """What half a network makes of any number of rows, ``cells`` of them a pass, the last pass filled up with zeros."""
    parts = []
    for first in range(0, len(rows[0]), cells):
        some = [row[first : first + cells] for row in rows]
        used = len(some[0])
        filled = [torch.cat([row, row.new_zeros(cells - used, *row.shape[1:])]) for row in some]
        parts.append([told[:used] for told in half(*filled)])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def image_eps(
    network: PatchUNet,
    x_BCHW: Tensor,
    t_B: Tensor,
    style_BS: Tensor,
    drops_B2: Tensor,
    *,
    prediction: Prediction | None = None,
    cells: int = CELLS,
) -> Tensor:
    """The noise in whole images (batch, band, row, column), of which each has a timestep, a style and drop flags.

    A ``prediction`` turns what the network predicts into it, None where it is that already.
    """
    patch = network.config.patch
    grid = PatchGrid.of(x_BCHW.shape[-2], x_BCHW.shape[-1], patch)

    def told(positions_N2: Tensor) -> list[Tensor]:
        """The conditions of every patch of every image."""
        count = len(positions_N2)
        t, style, drops = (each.repeat_interleave(count, dim=0) for each in (t_B, style_BS, drops_B2))
        return [t, positions_N2.to(x_BCHW.device).repeat(len(x_BCHW), 1), style, drops]

    def decode(*rows: Tensor) -> list[Tensor]:
        return [network.decode(rows[:-4], *rows[-4:])]

    encoder_patches = cut(pad(x_BCHW, patch), patch)
    features = in_cells(network.encode, cells, encoder_patches, *told(grid.encoder_positions()))
    moved = [collage(feature, grid) for feature in features]
    (patches_NCpp,) = in_cells(decode, cells, *moved, *told(grid.decoder_positions()))
    told_BCHW = stitch(patches_NCpp, grid.rows, grid.cols)
    return told_BCHW if prediction is None else prediction.answer(told_BCHW, x_BCHW, t_B)


@dataclass(frozen=True, eq=False)
class PatchDenoiser:
    """A Patch-DM network as a denoiser: each window is an image of its own, whose first patch lies at (0, 0).

    All are drawn in one ``style``; where that is None, none of them is told any.
    With ``guidance`` w the noise is ``(1 + w) eps - w eps'``, the style and position of eps' being dropped.
    ``prediction`` turns what the network predicts into the noise, None where it is that already.
    ``cells`` patches go through either half of the network in one pass.
    """

    network: PatchUNet
    contract: Contract
    guidance: float = 0.0
    style: Tensor | None = None
    cells: int = CELLS
    prediction: Prediction | None = None

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The U-Net."""
        return (self.network,)

    @property
    def numerics(self) -> Mapping[str, str]:
        """Precision of the convolutions, memory format, and the shape of a pass."""
        return {**self.network.numerics, "patches a pass": str(self.cells)}

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """The noise, and v = 1 everywhere: ancestral steps of this network have the larger of the fixed variances."""
        told = self.style is not None
        style_S = x_BCHW.new_zeros(self.network.config.style_channels) if self.style is None else self.style
        eps_BCHW = self.eps(x_BCHW, t_B, style_S.expand(len(t_B), -1), styled=told)
        return torch.cat([eps_BCHW, torch.ones_like(eps_BCHW)], dim=1)

    def eps(self, x_BCHW: Tensor, t_B: Tensor, style_BS: Tensor, *, styled: bool = True) -> Tensor:
        """The noise in images of given styles."""
        told_BCHW = self._eps(x_BCHW, t_B, style_BS, style=not styled, position=False)
        if not self.guidance:
            return told_BCHW
        return away_from(self._eps(x_BCHW, t_B, style_BS, style=True, position=True), told_BCHW, self.guidance)

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """The weights; then the features of all patches, before and after the collage, and one pass's own maps."""
        batch, _, height, width = batch_shape
        config = self.network.config
        grid = PatchGrid.of(height, width, config.patch)
        features = batch * (grid.encoder_count + grid.decoder_count) * config.feature_values
        passing = self.cells * config.patch**2 * live_in(config)
        images = 8 * batch * config.in_channels * height * width
        return bytes_of(self.network.parameters()), 4 * (features + passing + images)

    def _eps(self, x_BCHW: Tensor, t_B: Tensor, style_BS: Tensor, *, style: bool, position: bool) -> Tensor:
        drops_B2 = dropped(len(t_B), style=style, position=position, device=t_B.device)
        return image_eps(self.network, x_BCHW, t_B, style_BS, drops_B2, prediction=self.prediction, cells=self.cells)

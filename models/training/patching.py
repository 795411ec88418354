"""The losses of Patch-DM: two decodings of one window of noisy patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..patchdm import PatchUNet, dropped
from ..patchdm_denoiser import image_eps
from ..patchdm_losses import Draw, drops_of, patch_losses
from ..prediction import Prediction
from ..schedule import beta_table
from ..signatures import EPS
from .diffusion import TIMESTEPS, Chain, shown, timesteps
from .objective import LOSS, Batch, Draws


@dataclass(eq=False)
class Patching:
    """A Patch-DM network that learns to see the noise in patches, each crop an image of its own.

    Of every step all crops show one window of 2 x 2 encoder patches, wherever it lies in them; what lies beyond a
    crop's edges is 0. The network ``predicts`` eps or v. Where it has a table of styles, every image has its own.
    """

    network: PatchUNet
    betas: str = "linear"
    predicts: str = EPS
    description: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Tables for its schedule."""
        self.chain = Chain(self.betas)
        table = tuple(beta_table(self.betas, TIMESTEPS))
        self._prediction = None if self.predicts == EPS else Prediction(self.predicts, table)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The U-Net, with its table of styles."""
        return {"unet": self.network}

    def loss(self, batch: Batch, draws: Draws, step: int) -> Mapping[str, Tensor]:
        """The errors of patches made of their neighbours' features and of patches alone, in the mean of each."""
        x_BCHW, patch = batch.x_BCHW, self.network.config.patch
        count, bands, height, width = x_BCHW.shape
        row, col = draws.uniform("window", (2,)).tolist()
        draw = Draw(
            noise=draws.normal("eps", (count, bands, 2 * patch, 2 * patch)),
            t=timesteps(draws, count),
            drops=drops_of(draws.uniform("drop style", (count,)), draws.uniform("drop position", (count,))),
            corner=(int(row * (height // patch)), int(col * (width // patch))),
        )
        moved, alone = patch_losses(
            self.network, x_BCHW, self._styles(batch), draw, self.chain.tables, predicts=self.predicts
        )
        return {LOSS: moved + alone, "moved": moved, "alone": alone}

    def pictures(self, batch: Batch, draws: Draws) -> Tensor | None:
        """Crops, the same with noise, what the network makes of those, and what it draws from noise alone."""
        style_BS = self._styles(batch)
        drops_B2 = dropped(len(style_BS), style=False, position=False, device=style_BS.device)

        def guess(noisy_BCHW: Tensor, t_B: Tensor) -> Tensor:
            eps_BCHW = image_eps(self.network, noisy_BCHW, t_B, style_BS, drops_B2, prediction=self._prediction)
            return self.chain.clean(noisy_BCHW, eps_BCHW, t_B)

        return shown(self.chain, guess, batch.x_BCHW, draws)

    def describe(self) -> dict[str, Any]:
        """What was said of it."""
        return dict(self.description)

    def _styles(self, batch: Batch) -> Tensor:
        """The style of each crop's image: none is 0 values wide, or all 0."""
        config = self.network.config
        if config.codes is None:
            return batch.x_BCHW.new_zeros(len(batch.x_BCHW), config.style_channels)
        return self.network.styles(torch.tensor(batch.scenes, device=batch.x_BCHW.device))

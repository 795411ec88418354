"""The loss of a classifier of noisy crops, which guides a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...tiling.errors import InputError
from ..adm import AdmClassifier
from .diffusion import Chain, timesteps
from .objective import LOSS, Batch, Draws


@dataclass(eq=False)
class Classifying:
    """An ADM classifier that learns what noisy crops show, at every timestep."""

    network: AdmClassifier
    betas: str = "linear"
    description: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Tables for its schedule."""
        self.chain = Chain(self.betas)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The classifier."""
        return {"classifier": self.network}

    def loss(self, batch: Batch, draws: Draws, step: int) -> Mapping[str, Tensor]:
        """Cross-entropy of the classes, and the share that was told right."""
        if batch.y_B is None:
            raise InputError("a classifier learns from classes, and the data names none: give each image its label")
        x_BCHW = batch.x_BCHW
        t_B, eps_BCHW = timesteps(draws, len(x_BCHW)), draws.normal("eps", tuple(x_BCHW.shape))
        scores_BK = self.network(self.chain.noised(x_BCHW, eps_BCHW, t_B), t_B)
        right = (scores_BK.argmax(dim=1) == batch.y_B).float().mean()
        return {LOSS: F.cross_entropy(scores_BK, batch.y_B), "right": right}

    def pictures(self, batch: Batch, draws: Draws) -> Tensor | None:
        """A classifier draws nothing."""
        return None

    def describe(self) -> dict[str, Any]:
        """What was said of it."""
        return dict(self.description)

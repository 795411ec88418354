"""The loss of a semantic diffusion network (Wang et al., 2022): the hybrid one, of crops whose pixels are labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...tiling.errors import InputError
from ..semantic import SemanticUNet, one_hot
from .diffusion import Chain, Denoising
from .objective import Batch, Draws


def published_cdf(x: Tensor) -> Tensor:
    """A standard normal's mass below x, to within 2e-4 (Page, 1977)."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@dataclass(eq=False)
class Painting(Denoising):
    """A U-Net that learns to see the noise in noisy crops by what their pixels show.

    Of a share ``drop_label`` of the crops it is told nothing, which is labels of 0, so that guidance has something to
    lean away from.
    """

    network: SemanticUNet

    def __post_init__(self) -> None:
        """Tables for its schedule, and the likelihood as the published program has it."""
        self.chain = Chain(self.betas, published_cdf)

    def told(self, batch: Batch) -> Tensor:
        """The labels of all pixels, one channel a class."""
        if batch.labels_BNHW is None:
            raise InputError("a semantic network learns from labels, and the data names none: give each image classes")
        classes_BHW, *edges = batch.labels_BNHW.unbind(1)
        return one_hot(classes_BHW, edges[0] if edges else None, self.network.config)

    def dropped(self, y_B: Tensor | None, draws: Draws) -> Tensor | None:
        """The labels, of some crops all of them 0."""
        if y_B is None or not self.drop_label:
            return y_B
        kept_B = draws.uniform("drop label", (len(y_B),)) >= self.drop_label
        return torch.where(kept_B[:, None, None, None], y_B, 0)

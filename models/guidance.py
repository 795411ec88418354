"""Classifier guidance: a denoiser that also tells which way a class lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .adm import AdmClassifier
from .contract import Contract
from .denoiser import Condition, Denoiser
from .networks import class_gradient


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser with the gradient of a classifier of noisy images behind what it tells.

    The gradient is ``scale d/dx log p(label | x_t)``, at the noisy window itself; a solver weighs it with
    the variance of its step.
    """

    denoiser: Denoiser
    classifier: AdmClassifier
    label: int
    scale: float = 1.0

    @cached_property
    def contract(self) -> Contract:
        """The denoiser's terms; who guides is part of the name, since a tile's bits depend on it."""
        terms = self.denoiser.contract
        return replace(terms, name=f"{terms.name} guided to class {self.label} at {self.scale!r}")

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """eps, v (-1, the posterior's variance, where the denoiser does not tell it) and the gradient."""
        told_BCHW = self.denoiser.predict(x_BCHW, t_B, conditions)
        if told_BCHW.shape == x_BCHW.shape:
            told_BCHW = torch.cat([told_BCHW, -torch.ones_like(x_BCHW)], dim=1)
        y_B = torch.full((len(t_B),), self.label, device=t_B.device)
        return torch.cat([told_BCHW, class_gradient(self.classifier, x_BCHW, t_B, y_B, scale=self.scale)], dim=1)

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """Both networks; the way back through the classifier keeps every map of the way there."""
        weights, forward = self.denoiser.memory(batch_shape)
        weights += sum(tensor.numel() * tensor.element_size() for tensor in self.classifier.parameters())
        batch, _, height, width = batch_shape
        config = self.classifier.config
        maps = [wide * height * width >> 2 * level for level, wide in enumerate(config.widths)]
        # A block keeps about ten maps for the gradient: norms, activations and convolutions, in and out.
        return weights, forward + 4 * batch * 10 * sum(maps) * (config.num_res_blocks + 1)

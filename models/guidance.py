"""Classifier guidance: a denoiser that also tells which way a class lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from .adm import AdmClassifier
from .contract import Contract
from .denoiser import Condition, Denoiser, Pull, networks_of
from .networks import class_gradient

_NONE = Pull(label=0, scale=0.0)


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser with the gradient of a classifier of noisy images behind what it tells.

    The gradient is ``scale d/dx log p(label | x_t)``, at the noisy window itself, 0 for a window that
    nothing pulls; a solver weighs it with the variance of its step.
    """

    denoiser: Denoiser
    classifier: AdmClassifier

    @cached_property
    def contract(self) -> Contract:
        """The denoiser's terms, under a name of its own since bits depend on who guides, at the classifier's size.

        Only attention pooling fixes one, whatever size the classifier was trained at.
        """
        terms, config = self.denoiser.contract, self.classifier.config
        terms = replace(terms, name=f"{terms.name}, guided")
        if config.pool != "attention" or config.image_size is None:
            return terms
        return replace(
            terms, native_tile=config.image_size, smallest_tile=config.image_size, largest_tile=config.image_size
        )

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The denoiser's and the classifier."""
        return (*networks_of(self.denoiser), self.classifier)

    @property
    def numerics(self) -> Mapping[str, str]:
        """The denoiser's."""
        return self.denoiser.numerics

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """eps, v (-1, the posterior's variance, where the denoiser does not tell it) and the gradient."""
        told_BCHW = self.denoiser.predict(x_BCHW, t_B, conditions)
        if told_BCHW.shape == x_BCHW.shape:
            told_BCHW = torch.cat([told_BCHW, -torch.ones_like(x_BCHW)], dim=1)
        pulls = [condition.pull or _NONE for condition in conditions]
        pulls += [_NONE] * (len(t_B) - len(pulls))
        y_B = torch.tensor([pull.label for pull in pulls], device=t_B.device)
        scale_B111 = torch.tensor([pull.scale for pull in pulls], device=t_B.device)[:, None, None, None]
        gradient_BCHW = class_gradient(self.classifier, x_BCHW, t_B, y_B, scale=scale_B111)
        return torch.cat([told_BCHW, gradient_BCHW], dim=1)

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """Both networks; the way back through the classifier keeps every map of the way there."""
        weights, forward = self.denoiser.memory(batch_shape)
        weights += sum(tensor.numel() * tensor.element_size() for tensor in self.classifier.parameters())
        batch, _, height, width = batch_shape
        config = self.classifier.config
        maps = [wide * height * width >> 2 * level for level, wide in enumerate(config.widths)]
        # A block keeps about ten maps for the gradient: norms, activations and convolutions, in and out.
        return weights, forward + 4 * batch * 10 * sum(maps) * (config.num_res_blocks + 1)

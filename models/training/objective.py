"""What is trained, as the loop sees it: some networks, and a loss of a batch that is to become small.

An ADM U-Net, its classifier and any other method join the same loop by this protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ...tiling.chance import key, words

LOSS = "loss"
"""The name of the scalar that training makes small; others are only told."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Clean crops in model range, the class of each (None without classes), and where each was taken from.

    ``scenes`` are the numbers of the images that they are of. ``labels_BNHW`` are the classes of all pixels, and behind
    them edges where the network is told such.
    """

    x_BCHW: Tensor
    y_B: Tensor | None
    where: tuple[str, ...]
    scenes: tuple[int, ...] = ()
    labels_BNHW: Tensor | None = None


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step: those for each purpose depend on seed, step and rank, and on nothing before."""

    seed: int
    step: int
    rank: int = 0
    device: str = "cpu"

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normals."""
        return torch.randn(shape, generator=self._generator(purpose), device=self.device)

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers from 0 up to 1."""
        return torch.rand(shape, generator=self._generator(purpose), device=self.device)

    def _generator(self, purpose: str) -> torch.Generator:
        (word,) = words(key(self.seed, purpose), np.array([self.step]), np.array([self.rank]))
        return torch.Generator(self.device).manual_seed(int(word) >> 1)


class Objective(Protocol):
    """Networks and what they are to learn."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """What is trained, by name, in float32: parameters alone, as buffers are neither kept nor published."""
        ...

    def loss(self, batch: Batch, draws: Draws, step: int) -> Mapping[str, Tensor]:
        """Scalars by name, of which :data:`LOSS` is made small."""
        ...

    def pictures(self, batch: Batch, draws: Draws) -> Tensor | None:
        """What to look at now and then: (row, picture, band, row, column) in model range; None for nothing."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the published file says of the networks, as plain JSON."""
        ...


@dataclass(frozen=True)
class Rival:
    """Networks that learn from the ``scalar`` of this name, at ``pace`` times the rate."""

    scalar: str
    pace: float = 1.0


@runtime_checkable
class Contest(Protocol):
    """An objective whose networks learn against each other, and that remembers how it goes."""

    checked: str
    """The scalar that tells how good it is on what is held out, where :data:`LOSS` tells who is winning."""

    memory: Mapping[str, Tensor]
    """What else a training needs to go on, changed in place."""

    @property
    def rivals(self) -> Mapping[str, Rival]:
        """The networks that learn against the others, by name; they are not published."""
        ...

    def learned(self, told: Mapping[str, float], crops: int) -> None:
        """Remember a step on so many crops, of which all peers were told the same."""
        ...


def rivals_of(objective: Objective) -> Mapping[str, Rival]:
    """The networks that learn from a scalar of their own."""
    return objective.rivals if isinstance(objective, Contest) else {}


def checked_of(objective: Objective) -> str:
    """The scalar that is told of what is held out."""
    return objective.checked if isinstance(objective, Contest) else LOSS

"""Who else learns the same networks: each from its share of a step's crops, all from the mean of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch import distributed as group


class Peers(Protocol):
    """All who share a training, this process among them as ``rank``; rank 0 writes what is left of it."""

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor the mean of all peers' own; all call it, with as many tensors in the same order."""
        ...


class Alone:
    """Nobody else."""

    rank = 0
    count = 1

    def average(self, tensors: Sequence[Tensor]) -> None:
        """A single tensor is its own mean."""


class Group:
    """The processes of torch's process group, which whoever started them has made."""

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""
        return group.get_rank()

    @property
    def count(self) -> int:
        """How many there are."""
        return group.get_world_size()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """All tensors travel as one, so that a step waits once."""
        together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        group.all_reduce(together)
        together /= self.count
        for tensor, mean in zip(tensors, torch.split(together, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.reshape(tensor.shape))

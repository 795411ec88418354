"""Every network, wrapped into one meaning: the noise in a noisy window, and what else it has to say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..tiling.errors import InputError
from ..tiling.label_window import LabelWindow
from .contract import Contract


@dataclass(frozen=True, slots=True)
class Pull:
    """A class that a classifier pulls a window to, and how hard."""

    label: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Condition:
    """What a network may be told of a window.

    Its level, each ``factor`` times coarser than the one before; the class it shows, where the network
    draws classes; the class that a classifier pulls it to, None for no pull; what each of its pixels shows, where
    the network draws maps of labels, None for nothing.
    """

    level: int = 0
    factor: int = 2
    label: int | None = None
    pull: Pull | None = None
    labels: LabelWindow | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a network says of one noisy window, all in the window's shape.

    ``v`` places the logarithm of a step's variance between the posterior's (-1) and beta's (1), None
    where the network did not learn it; ``gradient`` is the pull of a classifier, None without one.
    """

    eps: Tensor
    v: Tensor | None = None
    gradient: Tensor | None = None


def labels_of(conditions: Sequence[Condition], count: int) -> Tensor:
    """The class of each of ``count`` rows, 0 for padding."""
    told = [condition.label for condition in conditions]
    if None in told:
        raise InputError("the model draws classes, and a tile is told none: give the job's model a label")
    return torch.tensor([*told, *[0] * (count - len(told))])


def split_answer(answer_CHW: Tensor, bands: int) -> Answer:
    """The parts of a denoiser's output for one window, which lie one after the other along its channels."""
    return Answer(*answer_CHW.reshape(-1, bands, *answer_CHW.shape[1:]).unbind())


class Denoiser(Protocol):
    """Predicts eps in ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps``, for a batch of unrelated windows.

    Further channels may follow, as many again for each part of :class:`Answer`.
    """

    @property
    def contract(self) -> Contract:
        """What it needs and promises."""
        ...

    @property
    def numerics(self) -> Mapping[str, str]:
        """What its bits depend on besides weights, inputs and device, by name: its precision at least."""
        ...

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """The noise in each window, float32 like ``x_BCHW``, and after it what else the network tells.

        ``t_B`` holds timesteps of the original schedule, possibly fractional. ``conditions`` has one
        entry a used row, from the first; the rows after are padding, and what is returned for them is
        not read. A row's bits depend on nothing but the row and the batch's shape.
        """
        ...

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """Bytes of its weights or tables, and of what one forward pass holds besides."""
        ...


@runtime_checkable
class Layered(Protocol):
    """A denoiser made of torch modules, whose layers can be looked at one by one."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """All of its modules."""
        ...


def networks_of(denoiser: Denoiser) -> Sequence[nn.Module]:
    """The modules of a denoiser; none of one that is something else."""
    return denoiser.networks if isinstance(denoiser, Layered) else ()

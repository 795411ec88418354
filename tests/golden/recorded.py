"""Recorded noise in place of a noise field, and solvers that note what passes through them."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class RecordedNoise:
    """The draws of a file: ``draws`` by box, each by the number that the product gives it."""

    name: str
    draws: dict = field(repr=False)
    device = "cpu"

    def windows(self, addresses, bands):
        return torch.stack([self.draws[box][draw] for _, _, draw, box in addresses])


@dataclass
class Notes:
    """What solvers noted of every box, step by step: guesses as they were and as they were constrained, and states."""

    guesses: dict = field(default_factory=dict)
    agreed: dict = field(default_factory=dict)
    states: dict = field(default_factory=dict)
    travelled: dict = field(default_factory=dict)

    def take(self, book, box, tensor):
        getattr(self, book).setdefault(box, []).append(tensor.numpy().copy())

    def all(self, book, boxes):
        """Everything of one kind, tile by tile, with the batch axis that files have."""
        return np.stack([one for box in boxes for one in getattr(self, book)[box]])[:, None]


@dataclass(frozen=True, eq=False)
class _Noted:
    """The last constraint of a tile, which only looks."""

    notes: Notes
    box: object

    def apply(self, x0, lam):
        self.notes.take("agreed", self.box, x0)
        return x0


def noting(kind, notes):
    """A solver of a kind that notes all that passes, and does the very same."""

    class Noting(kind):
        def begin(self, inputs):
            state = super().begin(inputs)
            return replace(state, constraints=(*state.constraints, _Noted(notes, inputs.box)))

        def reverse(self, state, answer, x0_CHW):
            told = super().reverse(state, answer, x0_CHW)
            notes.take("guesses", state.box, x0_CHW)
            # A last step may impose what is known on its result once more.
            del notes.agreed.get(state.box, [])[len(notes.guesses[state.box]) :]
            notes.take("states", state.box, told.x_CHW)
            notes.take("travelled", state.box, told.x_CHW)
            return told

        def undo(self, state, x0_CHW):
            told = super().undo(state, x0_CHW)
            notes.take("travelled", state.box, told.x_CHW)
            return told

    return Noting

"""Recorded noise in place of a noise field, and solvers that note what passes through them."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class RecordedNoise:
    """The draws of a file: ``draws`` by image and box, each by the number that the product gives it."""

    name: str
    draws: dict = field(repr=False)
    device = "cpu"

    def windows(self, addresses, bands):
        return torch.stack([self.draws[image, box][draw] for image, _, draw, box in addresses])


@dataclass
class Notes:
    """What solvers noted of every box, step by step: guesses as they were and as they were constrained, and states."""

    guesses: dict = field(default_factory=dict)
    agreed: dict = field(default_factory=dict)
    states: dict = field(default_factory=dict)
    travelled: dict = field(default_factory=dict)

    def take(self, book, place, tensor):
        getattr(self, book).setdefault(place, []).append(tensor.numpy().copy())

    def all(self, book, boxes, images):
        """Everything of one kind, tile by tile, with the axis of images that files have."""
        noted = getattr(self, book)
        return np.stack([[one for box in boxes for one in noted[str(image), box]] for image in range(images)], axis=1)


@dataclass(frozen=True, eq=False)
class _Noted:
    """The last constraint of a tile, which only looks."""

    notes: Notes
    place: tuple

    def apply(self, x0, lam):
        self.notes.take("agreed", self.place, x0)
        return x0


def noting(kind, notes):
    """A solver of a kind that notes all that passes, and does the very same."""

    class Noting(kind):
        def begin(self, inputs):
            state = super().begin(inputs)
            return replace(state, constraints=(*state.constraints, _Noted(notes, (inputs.image, inputs.box))))

        def reverse(self, state, answer, x0_CHW):
            told = super().reverse(state, answer, x0_CHW)
            place = state.image, state.box
            notes.take("guesses", place, x0_CHW)
            # A last step may impose what is known on its result once more.
            del notes.agreed.get(place, [])[len(notes.guesses[place]) :]
            notes.take("states", place, told.x_CHW)
            notes.take("travelled", place, told.x_CHW)
            return told

        def undo(self, state, x0_CHW):
            told = super().undo(state, x0_CHW)
            notes.take("travelled", (state.image, state.box), told.x_CHW)
            return told

    return Noting

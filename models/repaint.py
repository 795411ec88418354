"""RePaint (Lugmayr et al., 2022): known pixels are noised to the state's own level and put into it, step after step."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import sqrt

import torch
from torch import Tensor

from ..tiling.errors import InputError
from ..tiling.work import TileInputs
from .ancestral import Ddpm
from .constraints import LowFrequency, Overlap
from .solvers import TileState


@dataclass(frozen=True, slots=True, eq=False)
class RepaintState(TileState):
    """A tile and what is known of it, whether it was measured or a neighbour finished it."""

    known: Overlap = field(kw_only=True)


@dataclass(frozen=True)
class Repaint(Ddpm):
    """Ancestral sampling with the known pixels imposed on x_t instead of on the clean guess.

    The network is asked of ``m (sqrt(abar) x_known + sqrt(1 - abar) n) + (1 - m) x_t``, but for its first
    answer of pure noise. The noise of known pixels at position p is draw ``len(times) + p``. ``paste`` gives
    them back as they are; the published program returns what was drawn in their place.
    """

    paste: bool = True

    def at(self, inputs: TileInputs, x_CHW: Tensor, call: int) -> RepaintState:
        """The tile with so many network calls behind it, of which its noisy window is told."""
        if inputs.measurement.scale > 1 or inputs.measurement.gray or inputs.measurement.sigma:
            raise InputError("sampler repaint fills in missing pixels and does nothing else: choose ddnm for this task")
        state = super().at(inputs, x_CHW, call)
        here = self.device
        values = torch.tensor(inputs.y, device=here)
        mask = torch.tensor(inputs.measured, device=here).expand(values.shape)
        if inputs.context is not None:
            finished = torch.tensor(inputs.context_mask, device=here)
            values = torch.where(finished, torch.tensor(inputs.context, device=here), values)
            mask = mask | finished
        told = {own.name: getattr(state, own.name) for own in fields(state)}
        # What is known acts on x_t; only low frequencies are left to the guess.
        told["constraints"] = tuple(one for one in state.constraints if isinstance(one, LowFrequency))
        return RepaintState(**told, known=Overlap(values, mask))

    def tell(self, state: TileState, answer_CHW: Tensor) -> TileState:
        """The steps to the next question, its window mixed with what is known; the last one pastes that in."""
        drawn = state.drawn
        state = super().tell(state, answer_CHW)
        assert isinstance(state, RepaintState)
        if self.finished(state):
            return replace(state, x_CHW=state.known.apply(state.x_CHW, 1.0)) if self.paste else state
        abar = float(self.schedule.abar[self.schedule.times[state.position]])
        noise_CHW = self.noise_of(replace(state, drawn=drawn), self._draw_of_the_known(state.position))
        known_CHW = sqrt(abar) * state.known.values + sqrt(1 - abar) * noise_CHW
        return replace(state, x_CHW=torch.where(state.known.mask, known_CHW, state.x_CHW))

    def coming_draws(self, position: int) -> list[int]:
        """Also the noise that known pixels get at the position that is reached."""
        draws = super().coming_draws(position)
        after = draws[-1]
        return [*draws, self._draw_of_the_known(after)] if self.schedule.times[after] >= 0 else draws

    def _draw_of_the_known(self, position: int) -> int:
        return len(self.schedule.times) + position

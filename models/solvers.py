"""Samplers as pure functions: state + network output -> state. A tile can be batched with any other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from math import sqrt
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..tiling.box import Box, TileKey
from ..tiling.label_window import LabelWindow
from ..tiling.work import TileInputs
from .constraints import Constraint, constraints_for, known_pixels
from .denoiser import Answer, Condition, split_answer
from .noise import Address, NoiseField
from .parity import AS_WRITTEN, Parity
from .schedule import Schedule
from .surface import bent


@dataclass(frozen=True, slots=True, eq=False)
class TileState:
    """A tile somewhere in its schedule: the noisy window and its position in the list of indices visited.

    ``solver`` is what walks it; ``origin`` is a digest of all it began from, the solver's settings
    included; ``sigma`` is the measurement's noise in model range; ``constraints`` are what is known of
    the tile, in the order they are imposed. ``drawn`` is noise that was drawn ahead, by number of the draw; ``labels``
    are what the network is told of its pixels.
    """

    solver: Solver
    image: str
    key: TileKey
    box: Box
    origin: str
    sigma: float
    constraints: tuple[Constraint, ...]
    x_CHW: Tensor
    position: int = 0
    drawn: Mapping[int, Tensor] = field(default_factory=dict)
    labels: LabelWindow | None = None


class Question(NamedTuple):
    """What the network must see next: a noisy window, its timestep in the original schedule, what it is told."""

    x_CHW: Tensor
    timestep: float
    told: Condition


class Solver(Protocol):
    """Walks a tile from noise to an image, asking for one network output at a time."""

    @property
    def device(self) -> str:
        """Where its tensors lie."""
        ...

    @property
    def told(self) -> Condition:
        """What the network is told of every tile, but for the tile's level."""
        ...

    def draw_ahead(self, states: Sequence[TileState]) -> list[TileState]:
        """The same states with the noise that their next answers will need: many are cheaper together."""
        ...

    @property
    def calls(self) -> int:
        """Network calls from begin to end."""
        ...

    def begin(self, inputs: TileInputs) -> TileState:
        """The tile in pure noise."""
        ...

    def ask(self, state: TileState) -> Question:
        """What the network must see next."""
        ...

    def tell(self, state: TileState, answer_CHW: Tensor) -> TileState:
        """The state after the network's answer: it needs the network again, or is finished."""
        ...

    def finished(self, state: TileState) -> bool:
        """Whether nothing is left to ask."""
        ...

    def result(self, state: TileState) -> Tensor:
        """The finished window, in model range."""
        ...


@dataclass(frozen=True)
class Walk(ABC):
    """What solvers have in common: the way through the schedule, with one network call a reverse step.

    A solver defines :meth:`reverse`. ``clip`` bounds the network's clean guess first, in model range (None:
    no bounds). Draw 0 of the noise is x_T, draw p + 1 belongs to the transition that leaves position p. With ``bends``
    x_T is no pure noise: under it lies a surface through all that is known.
    """

    schedule: Schedule
    noise: NoiseField
    bands: int
    clip: tuple[float, float] | None = None
    told: Condition = field(default=Condition(), kw_only=True)
    parity: Parity = field(default=AS_WRITTEN, kw_only=True)
    bends: bool = field(default=False, kw_only=True)

    @property
    def device(self) -> str:
        """Where the noise lies, and so all else."""
        return self.noise.device

    @property
    def calls(self) -> int:
        """Network calls from begin to end."""
        return self.schedule.calls

    def begin(self, inputs: TileInputs) -> TileState:
        """The tile in noise, or where it is carried on from another one, in that."""
        x_CHW = self.first(inputs) if inputs.start is None else torch.tensor(inputs.start, device=self.device)
        state = replace(self.at(inputs, x_CHW, 0), origin=inputs.digest(self._settings))
        return self._over_surface(inputs, state) if self.bends else state

    def first(self, inputs: TileInputs) -> Tensor:
        """Pure noise in place of a window."""
        address = Address(inputs.image, inputs.key.level, 0, inputs.box)
        return self.noise.windows([address], self.bands)[0]

    def _over_surface(self, inputs: TileInputs, state: TileState) -> TileState:
        """A tile in pure noise, and under it a surface through all that is known of it."""
        abar = float(self.schedule.abar[self.schedule.times[state.position]])
        x_CHW, known_1HW = known_pixels(inputs, self.device)
        surface_CHW = impose(state.constraints, bent(x_CHW[None], known_1HW[None])[0])
        return replace(state, x_CHW=sqrt(abar) * surface_CHW + sqrt(1 - abar) * state.x_CHW)

    def at(self, inputs: TileInputs, x_CHW: Tensor, call: int) -> TileState:
        """The tile with so many network calls behind it, of which its noisy window is told."""
        # The measurement's sigma is stated on a data range of [0, 1]; the model's [-1, 1] is twice as wide.
        sigma = 2 * inputs.measurement.sigma
        constraints = constraints_for(inputs, self.bands, device=self.device, parity=self.parity)
        position, labels = self._asking[call], inputs.labels
        place = inputs.image, inputs.key, inputs.box
        return TileState(self, *place, "", sigma, constraints, x_CHW, position, labels=labels)

    @cached_property
    def _asking(self) -> list[int]:
        """The positions at which the network is called: those from which a reverse step leads on."""
        times = self.schedule.times
        return [at for at, (i, after) in enumerate(pairwise(times)) if after < i]

    def finished(self, state: TileState) -> bool:
        """Whether the state is clean."""
        return self.schedule.times[state.position] < 0

    def result(self, state: TileState) -> Tensor:
        """The last clean guess, in agreement with all that is known."""
        return state.x_CHW

    def ask(self, state: TileState) -> Question:
        """The noisy window as it is."""
        return self._question(state.x_CHW, state.position, state.key.level, state.labels)

    def question(self, x_CHW: Tensor, call: int, level: int, labels: LabelWindow | None = None) -> Question:
        """What the network must see of any window with so many network calls behind it."""
        return self._question(x_CHW, self._asking[call], level, labels)

    def _question(self, x_CHW: Tensor, position: int, level: int, labels: LabelWindow | None) -> Question:
        timestep = float(self.schedule.timesteps[self.schedule.times[position]])
        return Question(x_CHW, timestep, replace(self.told, level=level, labels=labels))

    def tell(self, state: TileState, answer_CHW: Tensor) -> TileState:
        """One reverse step, and the undo steps that follow it in the schedule."""
        times = self.schedule.times
        answer = split_answer(answer_CHW, self.bands)
        x0_CHW = self.guess(state, self.eps(state, answer))
        state = self.reverse(state, answer, x0_CHW)
        while not self.finished(state) and times[state.position + 1] > times[state.position]:
            state = self.undo(state, x0_CHW)
        return replace(state, drawn={})

    def eps(self, state: TileState, answer: Answer) -> Tensor:
        """The noise that the clean guess is made from."""
        return answer.eps

    def guess(self, state: TileState, eps_CHW: Tensor) -> Tensor:
        """The clean window that the network sees in the noisy one."""
        tables, i = self.schedule, self.schedule.times[state.position]
        x0_CHW = float(tables.sqrt_recip_abar[i]) * state.x_CHW - float(tables.sqrt_recipm1_abar[i]) * eps_CHW
        return x0_CHW.clamp(*self.clip) if self.clip else x0_CHW

    @abstractmethod
    def reverse(self, state: TileState, answer: Answer, x0_CHW: Tensor) -> TileState:
        """From index i to i - 1, given the clean guess."""

    def undo(self, state: TileState, x0_CHW: Tensor) -> TileState:
        """``x_{i+1} = sqrt(1 - beta_{i+1}) x_i + sqrt(beta_{i+1}) n``, whatever the last guess was."""
        beta = float(self.schedule.betas[self.schedule.times[state.position + 1]])
        x_CHW = sqrt(1 - beta) * state.x_CHW + sqrt(beta) * self.draw(state)
        return replace(state, x_CHW=x_CHW, position=state.position + 1)

    def mean(self, state: TileState, x0_CHW: Tensor) -> Tensor:
        """The mean of q(x_{i-1} | x_i, x_0)."""
        tables, i = self.schedule, self.schedule.times[state.position]
        return float(tables.posterior_mean_coef1[i]) * x0_CHW + float(tables.posterior_mean_coef2[i]) * state.x_CHW

    def draw(self, state: TileState) -> Tensor:
        """The noise of the transition that leaves the state's position."""
        return self.noise_of(state, state.position + 1)

    def noise_of(self, state: TileState, draw: int) -> Tensor:
        """One draw of a tile's noise."""
        ahead = state.drawn.get(draw)
        return self.noise.windows([_address(state, draw)], self.bands)[0] if ahead is None else ahead

    def coming_draws(self, position: int) -> list[int]:
        """The draws of one reverse step and the undo steps that follow it."""
        times, after = self.schedule.times, position + 1
        while times[after] >= 0 and times[after + 1] > times[after]:
            after += 1
        return list(range(position + 1, after + 1))

    def draw_ahead(self, states: Sequence[TileState]) -> list[TileState]:
        """The same states with the noise that their next answers will need: many are cheaper together."""
        drawn: list[dict[int, Tensor]] = [{} for _ in states]
        coming = [self.coming_draws(state.position) for state in states]
        # One draw of each at a time, so that no more is in the making than a window a tile.
        for nth in range(max(map(len, coming))):
            asked = [(at, draws[nth]) for at, draws in enumerate(coming) if nth < len(draws)]
            addresses = [_address(states[at], draw) for at, draw in asked]
            for (at, draw), noise_CHW in zip(asked, self.noise.windows(addresses, self.bands), strict=True):
                drawn[at][draw] = noise_CHW
        return [replace(state, drawn=ahead) for state, ahead in zip(states, drawn, strict=True)]

    @cached_property
    def _settings(self) -> bytes:
        """All that a tile's way to its result depends on besides its inputs and the network."""
        steps = self.schedule
        others = [f"{own.name}={getattr(self, own.name)}" for own in fields(self) if own.name != "schedule"]
        return f"{type(self).__name__}{steps.timesteps}{steps.times}{others}".encode() + steps.betas.tobytes()


def _address(state: TileState, draw: int) -> Address:
    return Address(state.image, state.key.level, draw, state.box)


def impose(constraints: tuple[Constraint, ...], x0_CHW: Tensor, lam: float | Tensor = 1.0) -> Tensor:
    """A clean guess that agrees with all that is known, later constraints having the last word."""
    for constraint in constraints:
        x0_CHW = constraint.apply(x0_CHW, lam)
    return x0_CHW


@dataclass(frozen=True)
class Ddnm(Walk):
    """DDNM+ with time travel: the network's clean guess is made to agree with all that is known, at each step.

    The last step returns that guess itself, so its draw has no weight. ``eta`` is the share of the posterior's noise
    that is drawn: 1 gives samples, less of it comes nearer to their mean.
    """

    eta: float = 1.0

    def reverse(self, state: TileState, answer: Answer, x0_CHW: Tensor) -> TileState:
        """``x_{i-1} = coef1 x0_hat + coef2 x_i + gamma g + sqrt(gamma) n``; the last step returns x0_hat itself."""
        i = self.schedule.times[state.position]
        lam, gamma = self.weights(i, state.sigma)
        x_CHW = impose(state.constraints, x0_CHW, lam)
        if i:
            x_CHW = self.mean(state, x_CHW)
            if answer.gradient is not None:
                x_CHW = x_CHW + gamma * answer.gradient
            x_CHW = x_CHW + self.eta * sqrt(gamma) * self.draw(state)
        return replace(state, x_CHW=x_CHW, position=state.position + 1)

    def weights(self, i: int, sigma: float) -> tuple[float, float]:
        """(lam, gamma) of the step at index i: the trust in a measurement of noise ``sigma``, the variance to add.

        Imposing y brings ``a sigma`` of its noise into x_{i-1}, which may hold sigma_i = sqrt(posterior
        variance). lam = 1 and gamma fills up the rest where it fits; else lam = sigma_i / (a sigma) makes it fit.
        """
        variance, a = float(self.schedule.posterior_variance[i]), float(self.schedule.posterior_mean_coef1[i])
        brought = a * sigma
        if sqrt(variance) >= brought:
            return 1.0, max(0.0, variance - brought**2)
        return sqrt(variance) / a * sigma if self.parity.released_lambda else sqrt(variance) / brought, 0.0

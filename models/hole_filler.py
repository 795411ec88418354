"""A network that fills holes, behind the face that an engine asks; and the solver that asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from ..tiling.errors import InputError
from ..tiling.work import TileInputs
from .adapted import bytes_of
from .constraints import low_frequencies, overlaps
from .contract import Contract, live_in
from .denoiser import Condition
from .noise import Address, NoiseField
from .solvers import Question, TileState, impose
from .spatial import SpatialNet
from .spatial_config import ALPHA, ITERATIONS, Picking
from .spread import Spread, picks, spread


@dataclass(frozen=True, eq=False)
class HoleFiller:
    """A spatial diffusion network. It is shown a window, what of it is known, how uncertain each pixel is, and noise.

    It answers with a mean and the logarithm of a variance, where a denoiser would tell the noise.
    """

    network: SpatialNet
    contract: Contract

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The network."""
        return (self.network,)

    @property
    def numerics(self) -> Mapping[str, str]:
        """It computes in float32."""
        return {"precision": "fp32"}

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """Mean and log variance; neither the iteration nor the level makes a difference to it."""
        told: Tensor = self.network(x_BCHW)
        return told

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """The weights; then the way down's features, all kept for the way up, and a level's own maps."""
        batch, _, height, width = batch_shape
        config = self.network.config
        live = live_in(config)
        return bytes_of(self.network.parameters()), 4 * batch * height * width * live


@dataclass(frozen=True, slots=True, eq=False)
class FillState(TileState):
    """A tile between two iterations, as the network is shown it.

    ``x_CHW`` has its bands, what is known now, how uncertain each pixel is, and noise that stays the same. ``first`` is
    what was known before the first one, and ``missing`` how many pixels were not.
    """

    first: Spread = field(kw_only=True)
    missing: int = field(kw_only=True)


@dataclass(frozen=True)
class Fill:
    """Predict, pick, sample: ``iterations`` network calls, after the last of which no pixel is missing.

    Pixels that were measured or that a neighbour finished are known, without any uncertainty; what a coarser level
    tells takes the place of the mean's low frequencies (HiR). ``clip`` bounds the mean, in model range. Draw t of the
    noise belongs to iteration t, from 1; draw 0 is what the network sees in all of them.
    """

    noise: NoiseField
    bands: int
    iterations: int = ITERATIONS
    picking: Picking = "uniform"
    alpha: float = ALPHA
    clip: tuple[float, float] | None = None
    told: Condition = field(default=Condition(), kw_only=True)

    @property
    def device(self) -> str:
        """Where the noise lies, and so all else."""
        return self.noise.device

    @property
    def calls(self) -> int:
        """Network calls from begin to end."""
        return self.iterations

    def begin(self, inputs: TileInputs) -> FillState:
        """The tile with its hole, in which nothing is filled."""
        if inputs.measurement.scale > 1 or inputs.measurement.gray or inputs.measurement.sigma:
            raise InputError("a network that fills holes does nothing else: name a denoiser for this task")
        known_CHW = torch.tensor(inputs.measured, device=self.device).expand(self.bands, *inputs.box.shape)
        values_CHW = torch.tensor(inputs.y, device=self.device)
        for finished in overlaps(inputs, self.device):
            # Whatever is measured was never drawn by a neighbour.
            values_CHW = torch.where(known_CHW, values_CHW, finished.values)
            known_CHW = known_CHW | finished.mask
        first = Spread.begin(values_CHW, known_CHW.all(dim=0))
        low = low_frequencies(inputs, self.device)
        told = (self, inputs.image, inputs.key, inputs.box, inputs.digest(self._settings), 0.0, low)
        (grain_1HW,) = self.noise.windows([Address(inputs.image, inputs.key.level, 0, inputs.box)], 1)
        shown_CHW = torch.cat([first.window, grain_1HW])
        return FillState(*told, shown_CHW, first=first, missing=int((~first.known_HW).sum()))

    def ask(self, state: TileState) -> Question:
        """The window as it is filled so far."""
        return Question(state.x_CHW, float(state.position), replace(self.told, level=state.key.level))

    def tell(self, state: TileState, answer_CHW: Tensor) -> TileState:
        """One iteration."""
        assert isinstance(state, FillState)
        first, at, window_CHW, grain_1HW = state.first, state.position, state.x_CHW[:-1], state.x_CHW[-1:]
        mean_CHW, log_variance_CHW = answer_CHW[: self.bands], answer_CHW[self.bands :]
        if self.clip:
            mean_CHW = mean_CHW.clamp(*self.clip)
        if state.constraints:
            mean_CHW = impose(state.constraints, torch.where(first.known_HW, first.x_CHW, mean_CHW))
        after, _ = spread(
            Spread.of(window_CHW),
            first,
            mean_CHW,
            log_variance_CHW.exp(),
            count=picks(self.picking, state.missing, at, self.iterations),
            noise_CHW=None if at + 1 == self.iterations else self._draw(state),
            alpha=self.alpha,
        )
        return replace(state, x_CHW=torch.cat([after.window, grain_1HW]), position=at + 1, drawn={})

    def finished(self, state: TileState) -> bool:
        """Whether nothing is missing any more."""
        return state.position == self.iterations

    def result(self, state: TileState) -> Tensor:
        """The bands, all filled."""
        return state.x_CHW[: self.bands]

    def draw_ahead(self, states: Sequence[TileState]) -> list[TileState]:
        """The same states with the noise of their next iteration; the last one has none."""
        drawing = [state for state in states if state.position + 1 < self.iterations]
        if not drawing:
            return list(states)
        noise = self.noise.windows([_address(state) for state in drawing], self.bands)
        ahead = {id(state): noise_CHW for state, noise_CHW in zip(drawing, noise, strict=True)}
        return [
            replace(state, drawn={state.position + 1: ahead[id(state)]}) if id(state) in ahead else state
            for state in states
        ]

    def _draw(self, state: TileState) -> Tensor:
        ahead = state.drawn.get(state.position + 1)
        return self.noise.windows([_address(state)], self.bands)[0] if ahead is None else ahead

    @property
    def _settings(self) -> bytes:
        """All that a tile's way to its result depends on besides its inputs and the network."""
        return f"Fill{[f'{own.name}={getattr(self, own.name)}' for own in fields(self)]}".encode()


def _address(state: TileState) -> Address:
    return Address(state.image, state.key.level, state.position + 1, state.box)

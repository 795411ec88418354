"""The running batch: tiles of any image, level and timestep share forward passes of one padded shape.

A tile's bits must not depend on its companions (rows are checked when the engine is built), nor on
threads: a forward pass runs on one, and *lanes* run several passes side by side.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from math import inf, prod
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from ..tiling.box import TileKey
from ..tiling.errors import CorruptChunk, InputError, TileFailed, TileloomError
from ..tiling.work import Floats, TileInputs
from .denoiser import Denoiser, networks_of
from .device import device_class, fix_arithmetic, own_memory, uncompiled
from .lanes import Given, Lanes, Made
from .rows import belongs, claim, dependent_row, layers_in_parts, run_in_parts, run_together
from .solvers import Question, Solver, TileState

_POSITION = struct.Struct("<I")
_FORMAT = "state 1"
_DIGEST = 16
# Windows of float32 that a state holds (the noisy window, the inputs and the constraints made of them),
# and that a lane needs for each tile it advances (the guess, the mean, the noise and its wide integers).
_STATE_WINDOWS = 8
_LANE_WINDOWS = 16
# A shape is tried so often, or for so long.
_TRIALS, _TRIAL_SECONDS = 3, 1.0


class DependentRows(TileloomError):
    """A network gives a tile other values in another slot or company."""


class Engine:
    """A :class:`~tileloom.tiling.work.TileWork` over a denoiser and a solver, on the solver's device.

    ``batch`` rows a forward pass, ``lanes`` passes side by side, ``tile`` (rows, columns); ``levels`` of
    tiles may come. ``identity`` stands for the networks' weights where states are saved. Whatever its
    precision, a network is given float32 and answers in it: constraints, noise and x_t are never anything else.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        solver: Solver,
        *,
        tile: tuple[int, int],
        bands: int,
        batch: int,
        lanes: int = 1,
        levels: int = 1,
        identity: str = "",
    ) -> None:
        """Fix the threads and the batch's shape; refuse what the network cannot do in that shape."""
        denoiser.contract.check(tile, bands)
        for name, value in (("batch", batch), ("lanes", lanes)):
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        self._denoiser, self._solver = denoiser, solver
        self._networks = networks_of(denoiser)
        self._batch, self._lanes, self._levels = batch, lanes, levels
        self._bands, self._identity = bands, identity
        self._window = (denoiser.contract.shown(bands), *tile)
        fix_arithmetic()
        self._pool = Lanes(lanes)
        self._pool.once(self._settle_rows)

    def beside(self, solver: Solver) -> Engine:
        """The same running batch for another job's tiles: states of both may be stepped in one call of either."""
        other = copy(self)
        other._solver = solver
        return other

    @property
    def slots(self) -> int:
        """States that one call of :meth:`step` advances at full use."""
        return self._batch * self._lanes

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(batch, bands and what else a window has, rows, columns) of every forward pass."""
        return (self._batch, *self._window)

    @property
    def calls_per_tile(self) -> int:
        """Network calls from begin to finish."""
        return self._solver.calls

    @property
    def numeric_class(self) -> dict[str, str]:
        """What a tile's bits depend on besides the job."""
        return numeric_class(self._solver.device, self._networks, self._denoiser.numerics, self.batch_shape)

    @property
    def device_memory(self) -> int | None:
        """Bytes that it may hold on a device with memory of its own; None where that is the machine's."""
        return own_memory(self._solver.device)

    def memory(self, batch: int) -> int:
        """Bytes to hold ``batch`` states and to advance them: an estimate from above."""
        return memory_of(self._denoiser, self.batch_shape, lanes=self._lanes, states=batch)

    def rate(self) -> float:
        """Tile-calls a second with every slot in use: the best of a few short trials."""
        asked = self._trial()

        def forward(_: int) -> None:
            with torch.inference_mode():
                _finite(self._forward(asked)).tolist()

        fastest, began = inf, perf_counter()
        for _ in range(_TRIALS):
            started = perf_counter()
            self._pool.each(forward, range(self._lanes))
            fastest = min(fastest, perf_counter() - started)
            if perf_counter() - began > _TRIAL_SECONDS:
                break
        return self.slots / fastest

    def begin(self, inputs: TileInputs) -> TileState:
        """A tile at the start of its schedule."""
        if inputs.box.shape != self._window[1:]:
            raise InputError(f"{_name(inputs)} is not {self._window[1]}x{self._window[2]} pixels, the engine's tile")
        with torch.inference_mode():
            return self._solver.begin(inputs)

    def step(self, states: Sequence[TileState]) -> list[TileState | TileFailed]:
        """Every state one network call further, in order; a failure takes the place of its own tile alone."""
        groups = self._pool.each(
            self._advance, [states[at : at + self._batch] for at in range(0, len(states), self._batch)]
        )
        return [state for group in groups for state in group]

    def finished(self, state: TileState) -> bool:
        """Whether the schedule has ended."""
        return state.solver.finished(state)

    def finish(self, state: TileState) -> Floats:
        """The restored window, all bands, in model range."""
        x_CHW: Floats = state.solver.result(state).cpu().numpy()
        return x_CHW

    def pack(self, state: TileState) -> bytes:
        """The noisy window and its position, signed with what they belong to."""
        x_CHW = state.x_CHW.cpu().numpy().astype("<f4", copy=False)
        body = _POSITION.pack(state.position) + x_CHW.tobytes()
        return body + self._sign(state, body)

    def unpack(self, inputs: TileInputs, packed: bytes) -> TileState:
        """The state that :meth:`pack` saved, of a tile with these inputs."""
        state = self.begin(inputs)
        body, signature = packed[:-_DIGEST], packed[-_DIGEST:]
        if signature != self._sign(state, body):
            raise CorruptChunk(f"the saved state of {_name(inputs)} is damaged, or of other inputs or another schedule")
        (position,) = _POSITION.unpack_from(body)
        x_CHW = np.frombuffer(body, "<f4", offset=_POSITION.size).reshape(self._window).astype(np.float32)
        return replace(state, x_CHW=torch.from_numpy(x_CHW).to(self._solver.device), position=position)

    def _sign(self, state: TileState, body: bytes) -> bytes:
        made_by = f"{self._denoiser.contract.name}|{self._identity}|{sorted(self.numeric_class.items())}"
        origin = f"{_FORMAT}|{made_by}|{state.origin}|"
        return blake2b(origin.encode() + body, digest_size=_DIGEST).digest()

    def in_lanes(self, call: Callable[[Given], Made], given: Iterable[Given]) -> list[Made]:
        """What a call makes of each, side by side and each on one thread."""
        return self._pool.each(call, given)

    def answers(self, asked: Sequence[Question]) -> list[Tensor]:
        """The network's answer to each question, in as many forward passes as they take."""
        groups = self.in_lanes(
            self._answered, [asked[at : at + self._batch] for at in range(0, len(asked), self._batch)]
        )
        return [answer for group in groups for answer in group]

    @torch.inference_mode()
    def _answered(self, asked: Sequence[Question]) -> Sequence[Tensor]:
        return self._forward(asked)[: len(asked)].unbind()

    def _advance(self, states: Sequence[TileState]) -> list[TileState | TileFailed]:
        """One forward pass in one lane; each tile's own arithmetic stays outside the batch."""
        with torch.inference_mode():
            asked = [state.solver.ask(state) for state in states]
            answers_BCHW = self._forward(asked)[: len(states)]
            states = _drawn_ahead(states)
            told = [state.solver.tell(state, one) for state, one in zip(states, answers_BCHW, strict=True)]
            # One question to the device for all tiles: each would wait for everything before it.
            finite = (_finite(answers_BCHW) & _finite(torch.stack([state.x_CHW for state in told]))).tolist()
        return [
            after if fine else TileFailed(f"{_name(after)} has values that are not finite after timestep {timestep:g}")
            for after, fine, (_, timestep, _) in zip(told, finite, asked, strict=True)
        ]

    def _forward(self, asked: Sequence[Question]) -> Tensor:
        """The network on windows in the first rows of a padded batch."""
        if not all(belongs(network, self._owner) for network in self._networks):
            raise TileloomError(
                f"model {self._denoiser.contract.name} was settled for another engine's batches since: "
                "load it once for each engine"
            )
        padding = self._batch - len(asked)
        nothing = [torch.zeros(self._window, device=self._solver.device)] * padding
        x_BCHW = torch.stack([*(question.x_CHW for question in asked), *nothing])
        t_B = torch.tensor([*(question.timestep for question in asked), *[0.0] * padding], device=x_BCHW.device)
        return self._denoiser.predict(x_BCHW, t_B, [question.told for question in asked])

    def _trial(self) -> list[Question]:
        """A full batch of unlike questions."""
        count, last = self._batch, self._denoiser.contract.timesteps - 1
        x_BCHW = torch.randn(self.batch_shape, generator=torch.Generator().manual_seed(0)).to(self._solver.device)
        told = [replace(self._solver.told, level=row % self._levels) for row in range(count)]
        return [
            Question(x_CHW, float(last * row // max(1, count - 1)), condition)
            for row, (x_CHW, condition) in enumerate(zip(x_BCHW, told, strict=True))
        ]

    def _check_answer(self, answer: Tensor, used: int) -> None:
        """Refuse a network that answers with something else than it should, before a tile is spent on it."""
        name, bands, (batch, _, *size) = self._denoiser.contract.name, self._bands, self.batch_shape
        parts = answer.shape[1] // bands if answer.ndim == len(self.batch_shape) else 0
        if answer.dtype is not torch.float32 or answer.shape != (batch, parts * bands, *size) or not 1 <= parts <= 3:
            shapes = ["x".join(map(str, shape)) for shape in (self.batch_shape, answer.shape)]
            raise InputError(
                f"model {name} was given {shapes[0]} and answers {shapes[1]} in {answer.dtype}: "
                "mend it until `tileloom models check` takes it"
            )
        if not torch.isfinite(answer[:used]).all():
            precision = self._denoiser.numerics.get("precision")
            mend = "use precision bf16 or fp32" if precision == "fp16" else "its weights may be damaged"
            raise TileloomError(f"model {name} answers with values that are not finite in {precision}: {mend}")

    @torch.inference_mode()
    def _settle_rows(self) -> None:
        """See that a row's bits do not depend on its slot, if need be by running some layers in parts."""
        trial = self._trial()

        def forward(order: Sequence[int]) -> Tensor:
            answer = self._forward([trial[row] for row in order])
            self._check_answer(answer, len(order))
            return answer

        self._owner = object()
        for network in self._networks:
            claim(network, self._owner)
            run_together(network)
        with uncompiled():
            dependent = dependent_row(forward, self._batch)
            for network in self._networks if dependent is not None else ():
                run_in_parts(network, partial(self._forward, trial))
        if dependent is not None or self._denoiser.numerics.get("compiled") == "yes":
            dependent = dependent_row(forward, self._batch)
        if dependent is not None:
            raise DependentRows(
                f"model {self._denoiser.contract.name} in batches of {'x'.join(map(str, self.batch_shape))} "
                "gives a tile other values in another slot or company; choose another batch size"
            )


def numeric_class(
    device: str, networks: Sequence[nn.Module], numerics: Mapping[str, str], batch_shape: tuple[int, ...]
) -> dict[str, str]:
    """What bits depend on besides the job, of networks that run on batches of one shape."""
    parts = Counter(rows for network in networks for rows in layers_in_parts(network))
    return {
        **device_class(device),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **numerics,
        **({"layers in parts": _counted(parts)} if parts else {}),
        "batch_shape": "x".join(map(str, batch_shape)),
    }


def _counted(parts: Counter[int]) -> str:
    return ", ".join(f"{count} of {rows} {'row' if rows == 1 else 'rows'}" for rows, count in sorted(parts.items()))


def _name(tile: TileInputs | TileState) -> str:
    key: TileKey = tile.key
    return f"image {tile.image}, tile {key} ({tile.box})"


def memory_of(denoiser: Denoiser, batch_shape: tuple[int, ...], *, lanes: int, states: int) -> int:
    """Bytes to hold so many states and to advance them in so many lanes: an estimate from above."""
    tables, forward = denoiser.memory(batch_shape)
    batch, *shape = batch_shape
    window = 4 * prod(shape)
    return tables + lanes * (forward + _LANE_WINDOWS * batch * window) + states * _STATE_WINDOWS * window


def _drawn_ahead(states: Sequence[TileState]) -> list[TileState]:
    """The states with their next noise, drawn together for all tiles of a job."""
    ahead: dict[int, TileState] = {}
    for solver in {id(state.solver): state.solver for state in states}.values():
        mine = [at for at, state in enumerate(states) if state.solver is solver]
        ahead.update(zip(mine, solver.draw_ahead([states[at] for at in mine]), strict=True))
    return [ahead[at] for at in range(len(states))]


def _finite(x_BCHW: Tensor) -> Tensor:
    """Whether all of a row is finite, by row."""
    return torch.isfinite(x_BCHW).flatten(1).all(dim=1)

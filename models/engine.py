"""The running batch: tiles of any image, level and timestep share forward passes of one padded shape.

A tile's bits must not depend on its companions (rows are checked when the engine is built), nor on
threads: a forward pass runs on one, and *lanes* run several passes side by side.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..tiling.box import TileKey
from ..tiling.errors import CorruptChunk, InputError, TileFailed, TileloomError
from ..tiling.work import Floats, TileInputs
from .denoiser import Condition, Denoiser
from .solvers import Solver, TileState

_POSITION = struct.Struct("<I")
_FORMAT = "state 1"
_DIGEST = 16
# Windows of float32 that a state holds (the noisy window, the inputs and the constraints made of them),
# and that a lane needs while it advances one tile (the guess, the mean, the noise and its wide integers).
_STATE_WINDOWS = 8
_LANE_WINDOWS = 16


class Engine:
    """A :class:`~tileloom.tiling.work.TileWork` over a denoiser and a solver, on the CPU in float32.

    ``batch`` rows a forward pass, ``lanes`` passes side by side, ``tile`` (rows, columns). ``levels``
    and ``factor`` are the plan's: each level ``factor`` times coarser than the one before.
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
        factor: int = 2,
    ) -> None:
        """Fix the threads and the batch's shape; refuse what the network cannot do in that shape."""
        denoiser.contract.check(tile, bands)
        for name, value in (("batch", batch), ("lanes", lanes)):
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        self._denoiser, self._solver = denoiser, solver
        self._batch, self._lanes, self._levels, self._factor = batch, lanes, levels, factor
        self._window = (bands, *tile)
        torch.set_num_threads(1)
        # OpenMP keeps the number of threads for each calling thread, so every lane sets its own.
        self._pool = ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(1,))
        self._pool.submit(self._refuse_dependent_rows).result()

    @property
    def slots(self) -> int:
        """States that one call of :meth:`step` advances at full use."""
        return self._batch * self._lanes

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(batch, bands, rows, columns) of every forward pass."""
        return (self._batch, *self._window)

    @property
    def calls_per_tile(self) -> int:
        """Network calls from begin to finish."""
        return self._solver.calls

    @property
    def numeric_class(self) -> dict[str, str]:
        """What a tile's bits depend on besides the job."""
        return {
            "device": _cpu_model(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "precision": "fp32",
            "batch_shape": "x".join(map(str, self.batch_shape)),
        }

    def memory(self, batch: int) -> int:
        """Bytes to hold ``batch`` states and to advance them: an estimate from above."""
        tables, forward = self._denoiser.memory(self.batch_shape)
        window = 4 * prod(self._window)
        lane = forward + (_LANE_WINDOWS + self._batch) * window
        return tables + self._lanes * lane + batch * _STATE_WINDOWS * window

    def begin(self, inputs: TileInputs) -> TileState:
        """A tile at the start of its schedule."""
        if inputs.box.shape != self._window[1:]:
            raise InputError(f"{_name(inputs)} is not {self._window[1]}x{self._window[2]} pixels, the engine's tile")
        with torch.inference_mode():
            return self._solver.begin(inputs)

    def step(self, states: Sequence[TileState]) -> list[TileState | TileFailed]:
        """Every state one network call further, in order; a failure takes the place of its own tile alone."""
        groups = self._pool.map(
            self._advance, [states[at : at + self._batch] for at in range(0, len(states), self._batch)]
        )
        return [state for group in groups for state in group]

    def finished(self, state: TileState) -> bool:
        """Whether the schedule has ended."""
        return self._solver.finished(state)

    def finish(self, state: TileState) -> Floats:
        """The restored window, all bands, in model range."""
        x_CHW: Floats = self._solver.result(state).numpy()
        return x_CHW

    def pack(self, state: TileState) -> bytes:
        """The noisy window and its position, signed with what they belong to."""
        x_CHW = state.x_CHW.numpy().astype("<f4", copy=False)
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
        return replace(state, x_CHW=torch.from_numpy(x_CHW), position=position)

    def _sign(self, state: TileState, body: bytes) -> bytes:
        belongs = f"{_FORMAT}|{self._denoiser.contract.name}|{state.origin}|".encode()
        return blake2b(belongs + body, digest_size=_DIGEST).digest()

    def _advance(self, states: Sequence[TileState]) -> list[TileState | TileFailed]:
        """One forward pass in one lane; each tile's own arithmetic stays outside the batch."""
        with torch.inference_mode():
            asked = [self._solver.ask(state) for state in states]
            windows, timesteps = zip(*asked, strict=True)
            eps_BCHW = self._forward(windows, timesteps, [self._condition(state.key.level) for state in states])
            return [self._tell(state, eps_CHW) for state, eps_CHW in zip(states, eps_BCHW, strict=False)]

    def _tell(self, state: TileState, eps_CHW: Tensor) -> TileState | TileFailed:
        told = self._solver.tell(state, eps_CHW)
        if torch.isfinite(eps_CHW).all() and torch.isfinite(told.x_CHW).all():
            return told
        timestep = self._solver.ask(state)[1]
        return TileFailed(f"{_name(state)} has values that are not finite after timestep {timestep:g}")

    def _condition(self, level: int) -> Condition:
        return Condition(level, self._factor)

    def _forward(self, windows: Sequence[Tensor], timesteps: Sequence[float], told: Sequence[Condition]) -> Tensor:
        """The network on windows in the first rows of a padded batch."""
        x_BCHW, t_B = torch.zeros(self.batch_shape), torch.zeros(self._batch)
        for row, (x_CHW, timestep) in enumerate(zip(windows, timesteps, strict=True)):
            x_BCHW[row] = x_CHW
            t_B[row] = timestep
        return self._denoiser.predict(x_BCHW, t_B, told)

    @torch.inference_mode()
    def _refuse_dependent_rows(self) -> None:
        """Run one set of rows in several arrangements: full, reversed, rotated, and half of it before padding."""
        count, last = self._batch, self._denoiser.contract.timesteps - 1
        x_BCHW = torch.randn(self.batch_shape, generator=torch.Generator().manual_seed(0))
        timesteps = [float(last * row // max(1, count - 1)) for row in range(count)]
        rows = list(range(count))
        seen: dict[int, Tensor] = {}
        for order in (rows, rows[::-1], rows[1:] + rows[:1], rows[: -(-count // 2)]):
            told = [self._condition(row % self._levels) for row in order]
            eps_BCHW = self._forward([x_BCHW[row] for row in order], [timesteps[row] for row in order], told)
            for row, eps_CHW in zip(order, eps_BCHW, strict=False):
                if not torch.equal(seen.setdefault(row, eps_CHW), eps_CHW):
                    raise TileloomError(
                        f"model {self._denoiser.contract.name} in batches of {'x'.join(map(str, self.batch_shape))} "
                        "gives a tile other values in another slot or company; choose another batch size"
                    )


def _name(tile: TileInputs | TileState) -> str:
    key: TileKey = tile.key
    return f"image {tile.image}, tile {key} ({tile.box})"


def _cpu_model() -> str:
    """The processor's name as the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

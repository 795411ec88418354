"""From a job's settings to a running engine: plain data that travels to a worker and is built there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .contract import Model, contract_of, split_model
from .denoiser import Denoiser
from .engine import Engine
from .gaussian import Gaussian
from .networks import load_denoiser
from .noise import PositionNoise
from .schedule import schedule
from .solvers import Ddnm
from .weights import is_weights

_DENOISERS: dict[str, Callable[[Mapping[str, object]], Denoiser]] = {"gaussian": Gaussian.of}


def denoiser_of(model: Model) -> Denoiser:
    """The denoiser of a model, its weights loaded where it has any."""
    name, options = split_model(model)
    return load_denoiser(model) if is_weights(name) else _DENOISERS[name](options)


@dataclass(frozen=True)
class EngineFactory:
    """Makes the engine of a job; ``tile`` in pixels a side, ``model`` a name or weights file and its options."""

    model: Mapping[str, object] = field(default_factory=lambda: {"name": "gaussian"})
    steps: int = 50
    travel_length: int = 1
    travel_repeat: int = 1
    seed: int = 0
    tile: int = 64
    bands: int = 3
    batch: int = 1
    lanes: int = 1
    levels: int = 1
    factor: int = 2

    def __call__(self) -> Engine:
        """Load the network and fix the batch."""
        contract = contract_of(self.model)
        steps = schedule(
            contract.betas,
            steps=self.steps,
            travel_length=self.travel_length,
            travel_repeat=self.travel_repeat,
            total=contract.timesteps,
        )
        return Engine(
            denoiser_of(self.model),
            Ddnm(steps, PositionNoise(self.seed), self.bands, contract.value_range),
            tile=(self.tile, self.tile),
            bands=self.bands,
            batch=self.batch,
            lanes=self.lanes,
            levels=self.levels,
            factor=self.factor,
        )

"""From a job's settings to a running engine: plain data that travels to a worker and is built there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .ancestral import Ddpm
from .contract import Contract, Model, contract_of, split_model
from .ddim import Ddim, DdnmImplicit
from .denoiser import Denoiser
from .engine import Engine
from .gaussian import Gaussian
from .guidance import Guided
from .networks import load_classifier, load_denoiser
from .noise import PositionNoise
from .parity import AS_WRITTEN, Parity
from .recipe import Guidance, Sampler
from .repaint import Repaint
from .schedule import Schedule, schedule
from .solvers import Ddnm, Solver, Walk
from .weights import is_weights

_WALKS: dict[Sampler, type[Walk]] = {
    "ddnm": Ddnm,
    "ddim-ddnm": DdnmImplicit,
    "repaint": Repaint,
    "ddpm": Ddpm,
    "ddim": Ddim,
}
_DENOISERS: dict[str, Callable[[Mapping[str, object]], Denoiser]] = {"gaussian": Gaussian.of}


def denoiser_of(model: Model) -> Denoiser:
    """The denoiser of a model, its weights loaded where it has any."""
    name, options = split_model(model)
    return load_denoiser(model) if is_weights(name) else _DENOISERS[name](options)


@dataclass(frozen=True)
class EngineFactory:
    """Makes the engine of a job; ``tile`` in pixels a side, ``model`` a name or weights file and its options.

    ``jumps`` are parameters of :func:`~tileloom.models.schedule.jump_times` besides the first family's;
    ``eta`` None is the sampler's own.
    """

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
    sampler: Sampler = "ddnm"
    eta: float | None = None
    jumps: Mapping[str, int] = field(default_factory=dict)
    guidance: Guidance | None = None
    parity: Parity = AS_WRITTEN

    def __call__(self) -> Engine:
        """Load the network and fix the batch."""
        contract = contract_of(self.model)
        steps = schedule(
            contract.betas,
            steps=self.steps,
            travel_length=self.travel_length,
            travel_repeat=self.travel_repeat,
            total=contract.timesteps,
            jumps=self.jumps,
        )
        return Engine(
            self._denoiser(),
            self._solver(steps, contract),
            tile=(self.tile, self.tile),
            bands=self.bands,
            batch=self.batch,
            lanes=self.lanes,
            levels=self.levels,
            factor=self.factor,
        )

    def _denoiser(self) -> Denoiser:
        denoiser = denoiser_of(self.model)
        if self.guidance is None:
            return denoiser
        told = self.guidance
        told.check(self.tile)
        return Guided(denoiser, load_classifier(told.classifier), told.label, told.scale)

    def _solver(self, steps: Schedule, contract: Contract) -> Solver:
        kind = _WALKS[self.sampler]
        own = {} if self.eta is None else {"eta": self.eta}
        # The DDIM form is published without bounds: its eps must stay that of its guess.
        clip = None if kind is DdnmImplicit else contract.value_range
        return kind(steps, PositionNoise(self.seed), self.bands, clip, parity=self.parity, **own)

"""From a job's settings to a running engine: plain data that travels to a worker and is built there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TypeVar

from ..tiling.errors import InputError, OutOfMemory, lacks_memory
from .ancestral import Ddpm
from .contract import Contract, Model, label_of, network_options, split_model
from .ddim import Ddim, DdnmImplicit
from .denoiser import Condition, Denoiser, Pull
from .device import CPU, best_device, device_class, own_memory
from .engine import Engine, memory_of
from .folder_network import load_folder
from .gaussian import Gaussian
from .guidance import Guided
from .halves import Halves, memory_of_halves
from .hole_filler import Fill
from .joint import JointWork
from .kinds import Kind, contract_of, trusted_kind
from .networks import load_classifier, load_denoiser
from .noise import PositionNoise
from .parity import AS_WRITTEN, Parity
from .patchdm_denoiser import PatchDenoiser
from .patches import Exchange, PatchWork
from .plugins import load_plugin
from .probe import Rated, fastest_shape, most_lanes
from .program_network import load_exported, load_torchscript
from .recipe import Guidance, Sampler
from .repaint import Repaint
from .schedule import Spacing, schedule
from .semantic_denoiser import SemanticDenoiser
from .solvers import Ddnm, Solver, Walk

_WALKS: dict[Sampler, type[Walk]] = {
    "ddnm": Ddnm,
    "ddim-ddnm": DdnmImplicit,
    "repaint": Repaint,
    "ddpm": Ddpm,
    "ddim": Ddim,
}
M = TypeVar("M", bound=Rated)
_BUILT_IN: dict[str, Callable[[Mapping[str, object]], Denoiser]] = {"gaussian": Gaussian.of}
_LOADERS: dict[Kind, Callable[..., Denoiser]] = {
    Kind.WEIGHTS: load_denoiser,
    Kind.FOLDER: load_folder,
    Kind.TORCHSCRIPT: load_torchscript,
    Kind.EXPORTED: load_exported,
    Kind.PLUGIN: load_plugin,
}


def denoiser_of(model: Model, *, device: str = CPU, trusted: bool = False) -> Denoiser:
    """The denoiser of a model, its weights loaded onto a device where it has any; code is run only if trusted."""
    kind = trusted_kind(model, trusted=trusted)
    name, options = split_model(model)
    return _BUILT_IN[name](options) if kind is Kind.BUILT_IN else _LOADERS[kind](model, device=device)


@dataclass(frozen=True)
class EngineFactory:
    """Makes the engine of a job; ``tile`` in pixels a side, ``model`` a name or weights file and its options.

    ``batch`` and ``lanes`` are found by a trial where they are None and the device's batch is not among those that
    the work is made with, within ``affordable`` bytes of the machine's memory (None: no limit), or this share of
    the accelerator's, and for no more tiles than can ever run ``side_by_side``. ``jumps`` are parameters of
    :func:`~tileloom.models.schedule.jump_times` besides the first family's; ``eta`` None is the sampler's own; with a
    ``begin`` below 1 tiles begin as a surface under so much noise.
    ``identity`` stands for the weights in what is saved of tiles in the middle of their schedules. ``trusted``: a
    model that is code may be run.
    """

    model: Mapping[str, object] = field(default_factory=lambda: {"name": "gaussian"})
    steps: int = 50
    travel_length: int = 1
    travel_repeat: int = 1
    seed: int = 0
    tile: int = 64
    bands: int = 3
    batch: int | None = 1
    lanes: int | None = 1
    affordable: int | None = None
    device_share: float = 1.0
    side_by_side: int | None = None
    levels: int = 1
    factor: int = 2
    sampler: Sampler = "ddnm"
    eta: float | None = None
    spacing: Spacing = "even"
    begin: float = 1.0
    jumps: Mapping[str, int] = field(default_factory=dict)
    guidance: Guidance | None = None
    parity: Parity = AS_WRITTEN
    identity: str = ""
    trusted: bool = False

    def __call__(self, batches: Mapping[str, int] = MappingProxyType({})) -> Engine:
        """Load the network and fix the batch; ``batches`` are those found before, by the devices' models."""
        device = best_device()
        denoiser = self.denoiser(device)
        solver: Solver = self._fill(device) if self._contract.holes else self.solver(device)

        def make(batch: int, lanes: int) -> Engine:
            return self._engine(denoiser, solver, batch, lanes)

        def needs(batch: int, lanes: int) -> int:
            shape = (batch, self._contract.shown(self.bands), self.tile, self.tile)
            return memory_of(denoiser, shape, lanes=lanes, states=batch * lanes)

        return self.fitted(make, needs, device, batches)

    def fitted(
        self,
        make: Callable[[int, int], M],
        needs: Callable[[int, int], int],
        device: str,
        batches: Mapping[str, int],
    ) -> M:
        """What is made with the batch and lanes of the job, or with those found by a trial; ``needs`` are its bytes."""
        fewest, most = self._contract.batch_limits
        own = own_memory(device)
        limit = self.affordable if own is None else int(self.device_share * own)

        def worthwhile(batch: int, lanes: int) -> bool:
            idle = self.side_by_side is not None and batch > 1 and batch * lanes > self.side_by_side
            return not idle and (most is None or batch <= most) and (limit is None or needs(batch, lanes) <= limit)

        known = batches.get(device_class(device)["device"])
        batch = self.batch or known or (fewest if fewest > 1 else None)
        if self._contract.batches:
            found = fastest_shape(make, batch=batch, lanes=self.lanes, device=device, worthwhile=worthwhile)
        else:
            found = batch or 1, self.lanes or most_lanes(device)
        if limit is not None and needs(*found) > limit:
            raise InputError(
                f"batches of {found[0]} in {found[1]} lanes need about {needs(*found) / 1e9:.2f} GB of memory, and "
                f"{max(0, limit) / 1e9:.2f} GB are left for them: lower batch, lanes or tile"
            )
        return make(*found)

    def _engine(self, denoiser: Denoiser, solver: Solver, batch: int, lanes: int) -> Engine:
        try:
            return Engine(
                denoiser,
                solver,
                tile=(self.tile, self.tile),
                bands=self.bands,
                batch=batch,
                lanes=lanes,
                levels=self.levels,
                identity=self.identity,
            )
        except Exception as error:
            if not lacks_memory(error):
                raise
            raise OutOfMemory(
                f"out of memory with batches of {batch} in {lanes} lanes: lower batch, lanes or tile"
            ) from error

    def solver(self, device: str) -> Walk:
        """What walks the job's tiles, its tensors on a device."""
        contract = self._contract
        steps = schedule(
            contract.betas,
            steps=self.steps,
            travel_length=self.travel_length,
            travel_repeat=self.travel_repeat,
            total=contract.timesteps,
            jumps=self.jumps,
            spacing=self.spacing,
            begin=self.begin,
        )
        kind = _WALKS[self.sampler]
        own = {} if self.eta is None else {"eta": self.eta}
        # The DDIM form is published without bounds: its eps must stay that of its guess.
        clip = None if kind is DdnmImplicit else contract.value_range
        noise = PositionNoise(self.seed, device)
        return kind(steps, noise, self.bands, clip, told=self._told(), parity=self.parity, bends=self.begin < 1, **own)

    def _fill(self, device: str) -> Fill:
        """What fills the holes of the job's tiles, its tensors on a device."""
        asked = network_options(*split_model(self.model))
        noise, clip = PositionNoise(self.seed, device), self._contract.value_range
        return Fill(noise, self.bands, self.steps, asked.picking, asked.alpha, clip, told=self._told())

    @cached_property
    def _contract(self) -> Contract:
        return contract_of(self.model, trusted=self.trusted)

    def _told(self) -> Condition:
        guide = self.guidance
        pull = Pull(guide.label, guide.scale) if guide else None
        return Condition(factor=self.factor, label=label_of(self.model), pull=pull)

    def denoiser(self, device: str) -> Denoiser:
        """The job's denoiser, loaded, with the classifier that guides it."""
        denoiser = denoiser_of(self.model, device=device, trusted=self.trusted)
        if isinstance(denoiser, SemanticDenoiser):
            denoiser = replace(denoiser, room=int(self.device_share * denoiser.room))
        if self.guidance is None:
            return denoiser
        self.guidance.check(self.tile)
        return Guided(denoiser, load_classifier(self.guidance.classifier, device=device))


@dataclass(frozen=True)
class JointFactory:
    """Makes what weaves blocks of tiles jointly, ``room`` bytes of them in memory, with the engine of a job."""

    engine: EngineFactory
    room: int

    def __call__(self, batches: Mapping[str, int] = MappingProxyType({})) -> JointWork:
        """Load the network and fix the batch; ``batches`` are those found before, by the devices' models."""
        return JointWork(self.engine(batches), self.engine.solver(best_device()), room=self.room)


@dataclass(frozen=True)
class PatchFactory:
    """Makes what weaves blocks of a Patch-DM network's patches, with the model, sampler and batch of ``engine``."""

    engine: EngineFactory
    room: int
    exchange: Exchange

    def __call__(self, batches: Mapping[str, int] = MappingProxyType({})) -> PatchWork:
        """Load the network and fix the batch; ``batches`` are those found before, by the devices' models."""
        device = best_device()
        model = self.engine.denoiser(device)
        if not isinstance(model, PatchDenoiser):
            raise InputError(f"model {model.contract.name} has no patches that exchange anything: set weave to msr")

        def make(batch: int, lanes: int) -> Halves:
            return Halves(model.network, model.style, batch=batch, lanes=lanes, device=device)

        def needs(batch: int, lanes: int) -> int:
            return memory_of_halves(model.network, batch=batch, lanes=lanes, patches=batch * lanes)

        halves = self.engine.fitted(make, needs, device, batches)
        return PatchWork(
            halves,
            self.engine.solver(device),
            room=self.room,
            exchange=self.exchange,
            guidance=model.guidance,
            styled=model.style is not None,
            prediction=model.prediction,
        )

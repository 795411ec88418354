"""A small network that is watched or spoiled, and engines of it, for the tests of the running batch."""

from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from torch.nn.functional import conv2d

from tests.tiles import BANDS, LEVELS, TILE, run, tile
from tileloom.models.contract import Contract, GaussianSpec
from tileloom.models.denoiser import Condition
from tileloom.models.engine import Engine
from tileloom.models.gaussian import Gaussian
from tileloom.models.noise import PositionNoise
from tileloom.models.schedule import schedule
from tileloom.models.solvers import Ddnm

FACTOR = 2
STEPS = schedule(steps=5, travel_length=2, travel_repeat=2)
CALLS = STEPS.calls


class Network:
    """A small convolution over the whole batch at once, told of timestep and level."""

    contract = Contract("network", value_range=None, smallest_tile=4)
    numerics = MappingProxyType({"precision": "fp32"})

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self._kernel = 0.2 * torch.randn((BANDS, BANDS, 3, 3), generator=generator)

    def predict(self, x_BCHW, t_B, conditions):
        level_B = torch.zeros(len(x_BCHW))
        level_B[: len(conditions)] = torch.tensor([float(told.factor**told.level) for told in conditions])
        gain_B, shift_B = 1 - t_B / 2000, level_B / 10
        return conv2d(x_BCHW, self._kernel, padding=1) * gain_B[:, None, None, None] + shift_B[:, None, None, None]

    def memory(self, batch_shape):
        return 4 * self._kernel.numel(), 8 * int(np.prod(batch_shape))


class Wrapped(Network):
    """A network that is watched or spoiled: ``spoil`` gets its output, then its inputs."""

    def __init__(self, spoil):
        super().__init__()
        self._spoil = spoil

    def predict(self, x_BCHW, t_B, conditions):
        return self._spoil(super().predict(x_BCHW, t_B, conditions), x_BCHW, t_B, conditions)


def engine(denoiser=None, *, batch=3, lanes=1, steps=STEPS, seed=4, clip=None, solver=None, **more):
    bands = more.pop("bands", BANDS)
    told = Condition(factor=more.pop("factor", FACTOR))
    options = {"tile": (TILE, TILE), "levels": LEVELS, **more}
    solver = solver or Ddnm(steps, PositionNoise(seed), bands, clip, told=told)
    return Engine(denoiser or Network(), solver, bands=bands, batch=batch, lanes=lanes, **options)


@cache
def alone(make, batch, at):
    """The result of a tile that had every forward pass to itself."""
    work = engine_of(make, batch, 1)
    return work.finish(run(work, work.begin(tile(at)))).tobytes()


@cache
def engine_of(make, batch, lanes):
    return engine(make(), batch=batch, lanes=lanes)


def gaussian():
    return Gaussian(GaussianSpec("exponential", length=4.0, band_correlation=0.3))

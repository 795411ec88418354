"""Small networks that fill holes, files of them, engines that ask them, and jobs."""

import json
from functools import cache

import numpy as np
import torch
from safetensors.torch import save_file

from tests.tiles import tile
from tileloom.models.checkpoint import make, with_weights
from tileloom.models.contract import Contract
from tileloom.models.engine import Engine
from tileloom.models.hole_filler import Fill, HoleFiller
from tileloom.models.noise import PositionNoise
from tileloom.models.spatial_config import SpatialConfig, SpatialDescription
from tileloom.models.weights import DESCRIPTION
from tileloom.tiling.measurement import MaskSite, Measurement

HOLES = SpatialConfig(
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    in_channels=2,
    num_head_channels=8,
    stem=2,
    style_channels=8,
)
SIDE, ITERATIONS = 8, 3


@cache
def network(config=HOLES, seed=0):
    """A network whose every parameter is random, its answers of the order of 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make(config)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return with_weights(config, made.state_dict())


def filler(config=HOLES):
    """A network as an engine asks it."""
    terms = Contract("holes", bands=config.in_channels, size_multiple=config.size_multiple, holes=True)
    return HoleFiller(with_weights(config, network(config).state_dict()), terms)


def file_of(folder, *, made=HOLES, size=16, **described):
    """A weights file as a training leaves it, as its path."""
    description = SpatialDescription(made, size, ((0.0, 1.0),) * made.in_channels, None, {"steps": 0})
    told = {**description.stored(), **described}
    path = folder / "holes.safetensors"
    save_file(network(made).state_dict(), path, {DESCRIPTION: json.dumps(told)})
    return str(path)


def engine(*, batch=3, seed=4, solver=None, **told):
    """An engine of tiles of 8 pixels."""
    solver = solver or Fill(PositionNoise(seed), HOLES.in_channels, ITERATIONS, **told)
    return Engine(filler(), solver, tile=(SIDE, SIDE), bands=HOLES.in_channels, batch=batch, levels=3)


def holed(at, **changes):
    """One of many tiles with holes, some with a finished neighbour."""
    rng = np.random.default_rng(at)
    known = rng.random((1, SIDE, SIDE)) < 0.5
    y = (rng.standard_normal((2, SIDE, SIDE)) * known).astype(np.float32)
    inputs = {"measurement": Measurement(mask=MaskSite.MEASURED), "measured": known, "y": y}
    return tile(at, **{**inputs, **changes})

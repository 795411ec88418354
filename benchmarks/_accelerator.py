"""The benchmark of the engine on an accelerator: the published 256-pixel network, in bfloat16, compiled."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._report import Figures
from tileloom.models.adm import AdmUNet
from tileloom.models.adm_config import AdmConfig
from tileloom.models.contract import Contract
from tileloom.models.device import CUDA, fix_arithmetic
from tileloom.models.engine import DependentRows, Engine
from tileloom.models.networks import AdmDenoiser
from tileloom.models.noise import PositionNoise
from tileloom.models.schedule import schedule
from tileloom.models.signatures import KNOWN
from tileloom.models.solvers import Ddnm, TileState
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.measurement import Measurement
from tileloom.tiling.work import TileInputs

BATCHES = (1, 32, 16, 8, 64, 4, 2)
"""The telling ones first; each is compiled for itself, which takes a minute."""
SIDE = 8192


def measure_accelerator(smoke: bool) -> Figures:
    """Milliseconds a tile-call by batch, with all of a job's arithmetic; and what the network alone takes of them.

    The network's share of the card's rate of matrix products counts the work that its layers ask for.
    """
    config, size = KNOWN[0].config, KNOWN[0].image_size
    if smoke:
        config, size = replace(config, model_channels=64), 128
    fix_arithmetic()
    rate = matrix_rate()
    network = random_network(config)
    flops = flops_of(network, size)
    found: dict[str, float] = {"matrix_tflops": rate / 1e12, "tflop_a_call": flops / 1e12}
    calls: dict[int, float] = {}
    network.compile(dynamic=False)
    for batch in BATCHES[:3] if smoke else BATCHES:
        try:
            engine, states = full_batch(network, batch, size)
        except DependentRows:
            # No job may have such a batch, however fast it is.
            found[f"dependent_rows_batch{batch}"] = 1
            continue
        calls[batch] = seconds_of(partial(engine.step, states)) / batch
        found[f"ms_batch{batch}"] = 1e3 * calls[batch]
        found[f"ms_network_batch{batch}"] = 1e3 * seconds_of(partial(network, *_inputs(batch, size))) / batch
        print(json.dumps(found), file=sys.stderr, flush=True)
    best = min(calls, key=lambda batch: calls[batch])
    reached = flops / (found[f"ms_network_batch{best}"] / 1e3)
    return {
        "batch_gain": calls[1] / calls[best],
        "best_batch": best,
        "tflops": reached / 1e12,
        "share_of_matrix_rate": reached / rate,
        **found,
    }


def random_network(config: AdmConfig) -> AdmUNet:
    """The network with PyTorch's own random weights, as a job in bfloat16 holds it."""
    with torch.device(CUDA):
        network = AdmUNet(config)
    network.requires_grad_(False).eval()
    network.set_precision("bf16")
    network.set_channels_last()
    return network


def full_batch(network: AdmUNet, batch: int, size: int) -> tuple[Engine, list[TileState]]:
    """An engine as a job makes it, and tiles for all of its slots, to be enlarged fourfold."""
    contract = Contract("random", bands=3, size_multiple=network.config.size_multiple, native_tile=size)
    solver = Ddnm(schedule(steps=50), PositionNoise(0, CUDA), 3, contract.value_range)
    denoiser = AdmDenoiser(network, contract, compiled=True)
    engine = Engine(denoiser, solver, tile=(size, size), bands=3, batch=batch)
    y = np.zeros((3, size // 4, size // 4), np.float32)
    box = Box(0, 0, size, size)
    tiles = [TileInputs(str(at), TileKey(0, 0, 0), box, Measurement(4), y, y == 0) for at in range(batch)]
    return engine, [engine.begin(inputs) for inputs in tiles]


def _inputs(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, size, size, device=CUDA), torch.full((batch,), 500.0, device=CUDA)


def flops_of(network: AdmUNet, size: int) -> float:
    """Floating-point operations of one tile's forward pass, a multiplication and an addition counting as two."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*_inputs(1, size))
    return float(counter.get_total_flops())


def matrix_rate() -> float:
    """Floating-point operations a second in a large product of random bfloat16 matrices."""
    a, b = (torch.randn(SIDE, SIDE, device=CUDA, dtype=torch.bfloat16) for _ in range(2))
    return 2 * SIDE**3 / seconds_of(lambda: a @ b)


@torch.inference_mode()
def seconds_of(call: Callable[[], object], *, least: float = 1.0) -> float:
    """Seconds a call takes on the device, once it has been compiled and warmed up."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    count, began = 0, perf_counter()
    while perf_counter() - began < least:
        for _ in range(5):
            call()
        torch.cuda.synchronize()
        count += 5
    return (perf_counter() - began) / count

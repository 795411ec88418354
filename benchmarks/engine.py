"""What the running batch gains over a loop that runs one tile at a time, on the device that torch finds.

On a processor every shape of the batch is compared with the plain loop of the published programs: one tile, float32,
all cores in one forward pass. All are measured in turn, round after round, and each is judged by its share of the
plain loop's time in the same round. Networks have random weights; a second there is a second of any weights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

# Torch reads it when it loads. Threads that wait by spinning, as it would have them, gain the plain loop a third
# where nobody else needs the cores, and bring everybody to a stand where somebody does: no job has such.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks._accelerator import measure_accelerator
from benchmarks._image import make_image, weave
from benchmarks._report import Benchmark, Figures, Limit
from tileloom.cluster.executor import LocalExecutor
from tileloom.cluster.worker import Worker
from tileloom.models.adm import AdmUNet
from tileloom.models.adm_config import AdmConfig
from tileloom.models.build import EngineFactory, denoiser_of
from tileloom.models.device import CPU, best_device
from tileloom.models.solvers import TileState
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.measurement import Measurement
from tileloom.tiling.work import TileInputs

TILE, BANDS, STEPS = 64, 3, 50
TILE_CALLS = 16
"""Tile-calls in one measurement of one shape."""
BATCHES, LANES = (1, 2, 4, 8), (1, 2)

FULL = AdmConfig(
    model_channels=64, channel_mult=(1, 2, 4), num_res_blocks=1, attention_resolutions=(4,), num_head_channels=32
)
SMALL = replace(FULL, channel_mult=(1, 2, 2))


@dataclass(frozen=True)
class Shape:
    """One way to run tiles; ``mixed``: every tile at another timestep; ``last``: channels last, None as is usual."""

    precision: str = "fp32"
    batch: int = 1
    lanes: int = 1
    mixed: bool = True
    last: bool | None = None
    compiled: bool = False

    @property
    def name(self) -> str:
        """As a figure's name."""
        marks = {"_uniform": not self.mixed, "_channels_last": self.last is True, "_compiled": self.compiled}
        extra = "".join(mark for mark, has in marks.items() if has)
        return f"{self.precision}_batch{self.batch}_lanes{self.lanes}{extra}"


def shapes(smoke: bool) -> list[Shape]:
    """Every batch and number of lanes in both precisions; one of each with uniform timesteps, and one compiled."""
    kinds = [Shape(precision, batch, lanes) for precision in ("fp32", "bf16") for batch in BATCHES for lanes in LANES]
    likes = [Shape(precision, 4, LANES[-1]) for precision in ("fp32", "bf16")]
    last = replace(likes[0], last=True)
    if smoke:
        return [*likes, last]
    return [
        *kinds,
        last,
        *(replace(shape, mixed=False) for shape in likes),
        *(replace(s, compiled=True) for s in likes),
    ]


@dataclass
class Bench:
    """Tiles to run, and a weights file of a random network."""

    folder: Path
    config: AdmConfig
    model: str = field(init=False)

    def __post_init__(self) -> None:
        """Draw the weights."""
        torch.manual_seed(0)
        self.model = str(self.folder / "random.safetensors")
        save_file(AdmUNet(self.config).state_dict(), self.model)

    def factory(self, shape: Shape) -> EngineFactory:
        """What makes the engine of a shape."""
        model: dict[str, object] = {"name": self.model, "precision": shape.precision, "compile": shape.compiled}
        if shape.last is not None:
            model["channels_last"] = shape.last
        return EngineFactory(model, steps=STEPS, tile=TILE, bands=BANDS, batch=shape.batch, lanes=shape.lanes)

    def runner(self, shape: Shape) -> Callable[[], float]:
        """What tells the seconds a tile-call takes."""
        engine = self.factory(shape)()
        states = [_placed(engine.begin(tile(at)), at if shape.mixed else 0) for at in range(engine.slots)]
        steps = max(1, TILE_CALLS // engine.slots)

        def seconds() -> float:
            began = perf_counter()
            for _ in range(steps):
                engine.step(states)
            return (perf_counter() - began) / (steps * engine.slots)

        seconds()
        return seconds

    @cached_property
    def plain(self) -> Callable[[], float]:
        """The loop of the published programs, likewise: the same sampler, one tile, all cores in one pass."""
        solver, denoiser = self.factory(Shape()).solver(CPU), denoiser_of(self.model)
        state = solver.begin(tile(0))

        def seconds() -> float:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
            began = perf_counter()
            with torch.inference_mode():
                for _ in range(TILE_CALLS):
                    x_CHW, timestep, told = solver.ask(state)
                    answer_BCHW = denoiser.predict(x_CHW[None], torch.tensor([timestep]), [told])
                    solver.tell(state, answer_BCHW[0])
            return (perf_counter() - began) / TILE_CALLS

        seconds()
        return seconds


def tile(at: int) -> TileInputs:
    """A tile to enlarge fourfold, of an image of its own."""
    y = np.random.default_rng(at).uniform(-1, 1, (BANDS, TILE // 4, TILE // 4)).astype(np.float32)
    known = np.ones(y.shape, np.bool_)
    return TileInputs(f"image {at}", TileKey(0, 0, 0), Box(0, 0, TILE, TILE), Measurement(4), y, known)


def _placed(state: TileState, at: int) -> TileState:
    return replace(state, position=at * 7 % (STEPS - 1))


def gains(smoke: bool) -> dict[str, float]:
    """How many times faster than the plain loop each shape is."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), SMALL if smoke else FULL)
        runners = {shape: bench.runner(shape) for shape in shapes(smoke)}
        found: dict[Shape, list[float]] = {shape: [] for shape in runners}
        for _ in range(3 if smoke else 5):
            for shape, seconds in runners.items():
                # The plain loop stands before each, so that a neighbour who comes and goes meets both.
                found[shape].append(bench.plain() / seconds())
    return {shape.name: median(ratios) for shape, ratios in found.items()}


def fill(images: int, side: int) -> float:
    """The share of batch slots that held a tile over a whole job of images, ``side`` tiles wide and unequally high."""
    size, stride, guard = 16, 12, 2
    grids = [
        Grid(size + stride * (side + at - 1), size + stride * (side - 1), size, stride, guard) for at in range(images)
    ]
    factory = EngineFactory(steps=8, tile=size, bands=1, batch=8, lanes=2)
    with TemporaryDirectory() as folder:
        plans = [make_image(Path(folder) / str(at), grid, bands=1, chunk=64) for at, grid in enumerate(grids)]
        worker: Worker[Any] = Worker(factory)
        weave(LocalExecutor(worker), plans, Frontier())
    return worker.usage.fill


def measure(smoke: bool) -> Figures:
    """The figures of the device that torch finds."""
    if best_device() != CPU:
        return measure_accelerator(smoke)
    found = gains(smoke)
    # As jobs are by default: at unlike timesteps, not compiled, laid out as the precision has it.
    usual = {name: gain for name, gain in found.items() if name.count("_") == 2}
    best = {kind: max(gain for name, gain in usual.items() if name.startswith(kind)) for kind in ("fp32", "bf16")}
    return {
        "lanes_gain": best["fp32"],
        "total_gain": best["bf16"],
        "fill": fill(8, 5 if smoke else 8),
        **{f"gain_{name}": gain for name, gain in found.items()},
    }


LIMITS: Mapping[str, Limit] = (
    {"lanes_gain": (">=", 1.2), "total_gain": (">=", 2.5), "fill": (">=", 0.9)}
    if best_device() == CPU
    else {"batch_gain": (">=", 2.5)}
)
BENCHMARK = Benchmark("engine", measure, LIMITS)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

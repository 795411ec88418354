"""How well the order of tiles fills a cluster, in the simulator, and how true the simulator is."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import zarr

from benchmarks._report import Benchmark, Figures
from tileloom.cluster.executor import ImageRun, LocalExecutor
from tileloom.cluster.worker import Worker
from tileloom.jobs.compile import compile_job
from tileloom.jobs.spec import from_options
from tileloom.tiling.frontier import Frontier, TileState
from tileloom.tiling.grid import Grid
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.simulate import simulate
from tileloom.tiling.work import Floats, TileInputs

WORKERS, SLOTS = 8, 8


def efficiency(images: int, side: int) -> float:
    """The faster of critical path and even sharing, over the makespan: images of side x side tiles on 64 slots."""
    size = 256 + 192 * (side - 1)
    plan = WeavePlan((Grid(size, size, 256, 192, 32),))
    return simulate([plan] * images, workers=WORKERS, slots=SLOTS, call_seconds=0.1, calls_per_tile=100).efficiency


@dataclass(frozen=True)
class Nap:
    """A tile that sleeps through its schedule."""

    window: Floats
    steps: int


@dataclass(frozen=True)
class Sleeper:
    """A TileWork whose network call takes ``seconds``, whatever the batch holds."""

    slots: int = 8
    seconds: float = 0.03
    calls_per_tile: int = 10
    batch_shape: tuple[int, ...] = (8, 1, 16, 16)

    @property
    def numeric_class(self) -> dict[str, str]:
        """None of its bits depend on anything."""
        return {}

    def memory(self, batch: int) -> int:
        """A window a state."""
        return 4 * 16 * 16 * batch

    def begin(self, inputs: TileInputs) -> Nap:
        """A tile that has not slept yet."""
        return Nap(np.zeros((1, *inputs.box.shape), np.float32), 0)

    def step(self, states: Sequence[Nap]) -> list[Nap]:
        """One nap for all."""
        sleep(self.seconds)
        return [replace(state, steps=state.steps + 1) for state in states]

    def finished(self, state: Nap) -> bool:
        """Whether it has slept enough."""
        return state.steps == self.calls_per_tile

    def finish(self, state: Nap) -> Floats:
        """Nothing but zeros."""
        return state.window


def prediction_error(side: int) -> float:
    """How far the simulated time of an image of side x side tiles is from a real run's, as a share of it.

    What one step costs, reading and writing included, is taken from a probe of 12 x 12 tiles.
    """
    with tempfile.TemporaryDirectory() as folder:
        step_seconds, _ = sleep_through(12, Path(folder) / "probe")
        _, real = sleep_through(side, Path(folder) / "run")
    work = Sleeper()
    simulated = simulate(
        [plan_of(side)],
        workers=1,
        slots=work.slots,
        call_seconds=step_seconds,
        calls_per_tile=work.calls_per_tile,
    )
    return abs(simulated.makespan - real) / real


def plan_of(side: int) -> WeavePlan:
    """One level of side x side tiles of 16 pixels."""
    size = 16 + 12 * (side - 1)
    return WeavePlan((Grid(size, size, 16, 12, 2),))


def sleep_through(side: int, folder: Path) -> tuple[float, float]:
    """(seconds a step, seconds in all) of a real run over side x side tiles, ledger and all."""
    size = 16 + 12 * (side - 1)
    source = zarr.create_array(str(folder / "in.zarr"), shape=(1, size, size), chunks=(1, 256, 256), dtype="uint8")
    source[:] = 0
    options = {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr"), "task": "denoise:0.1"}
    job = from_options(options | {"tile": 16, "stride": 12, "guard": 2, "levels": 1})
    image = replace(compile_job(job).image, root=str(folder / "root"))
    work = Sleeper()
    worker = Worker(lambda: work, {0: image}, settings=b"")
    frontier = Frontier()
    frontier.add("image", image.plan, state=np.full(image.plan.count, TileState.TODO, np.uint8))
    run = ImageRun(image.plan, Ledger(folder / "root" / "ledger"))
    began = perf_counter()
    LocalExecutor(worker).run(frontier, {0: run}, on_reports=lambda _: None)
    seconds = perf_counter() - began
    return seconds / (worker.usage.offered / work.slots), seconds


def measure(smoke: bool) -> Figures:
    """One entry a figure."""
    return {"efficiency": efficiency(8, 40 if smoke else 64), "prediction_error": prediction_error(16 if smoke else 32)}


BENCHMARK = Benchmark("simulate", measure, {"efficiency": (">=", 0.95), "prediction_error": ("<=", 0.10)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

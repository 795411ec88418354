"""What a step of Patch-DM takes in lock-step: against one process that holds the whole image, and with more workers.

The same image is drawn by the whole-image pass, then by jobs of one, two and four workers on Ray with either exchange,
all by one network of random weights. ``..._over_whole`` is the time of a step against the whole-image pass, ``_idle``
the share of the workers' time in which they did not compute. ``halo_bytes_over_theory`` is what workers handed each
other as pixels, counted where it is sent, against the strip of half a patch around what each of them holds.
``memory_ratio`` is the peak of a job that draws an image of four times the pixels over that on the smaller one, each in
a process of its own, with a cap of a quarter of what the larger one's noisy pixels alone take.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
import zarr
from safetensors.torch import save_file

from benchmarks._alone import alone, peak
from benchmarks._report import Benchmark, Figures
from tileloom.jobs.compile import compile_job
from tileloom.jobs.course import Summary
from tileloom.jobs.pace import STEPS, Pulse
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import JobSpec, from_options
from tileloom.models.device import fix_arithmetic
from tileloom.models.patchdm import PatchUNet, dropped
from tileloom.models.patchdm_config import PatchConfig
from tileloom.models.patchdm_denoiser import image_eps
from tileloom.models.signatures import Description
from tileloom.models.weights import DESCRIPTION
from tileloom.tiling.box import Box
from tileloom.tiling.exchange import runs
from tileloom.tiling.lockstep import Lattice

PATCH, BATCH, BLOCK = 16, 8, 8 * 16
NETWORK = PatchConfig(
    patch=PATCH,
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    embed_channels=64,
    style_channels=16,
)
# So light that images of many megapixels are drawn in minutes.
LIGHT = PatchConfig(
    patch=64,
    model_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_resolutions=(),
    in_channels=1,
    out_channels=1,
    embed_channels=64,
    style_channels=0,
    num_head_channels=32,
    stem=4,
    positions=False,
)


@dataclass
class Stopwatch(Silent):
    """Times the steps of blocks, from the first that it hears of."""

    total: int = 0
    heard: list[tuple[float, int]] = field(default_factory=list)

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """The phase that advances blocks begins."""
        if unit == STEPS:
            self.total = total

    def advance(self, count: int, pulse: Pulse | None = None) -> None:
        """So many steps of blocks more."""
        if self.total and count and sum(steps for _, steps in self.heard) < self.total:
            self.heard.append((perf_counter(), count))

    @property
    def seconds_a_block(self) -> float:
        """Seconds of the whole crew for one step of one block."""
        (first, counted), (last, _) = self.heard[0], self.heard[-1]
        return (last - first) / (self.total - counted)


@dataclass(frozen=True)
class Run:
    """A job that has ended: seconds a step, the share of idle time, bytes that were handed over in a step."""

    step: float
    idle: float
    bytes: float


def job(folder: Path, side: int, workers: int, exchange: str, steps: int) -> JobSpec:
    """An image of which nothing is known, drawn by so many workers."""
    blank = folder / f"blank-{side}"
    if not blank.exists():
        for name, bands, value in (("image", NETWORK.in_channels, 0), ("mask", 1, 1)):
            shape, chunks = (bands, side, side), (bands, 256, 256)
            zarr.create_array(str(blank / name), shape=shape, chunks=chunks, dtype="uint8")[...] = np.uint8(value)
    return from_options(
        {
            "input": str(blank / "image"),
            "mask": str(blank / "mask"),
            "output": str(folder / f"{side}-{workers}-{exchange}"),
            "task": "inpaint",
            "model": {"name": str(folder / "net.safetensors"), "patch": PATCH, "heads": 1},
            "sampler": "ddim",
            "steps": steps,
            "batch": BATCH,
            "lanes": 1,
            "lockstep": {"block": BLOCK, "exchange": exchange},
            "cluster": {"workers": workers, "cpus": 0.5},
        }
    )


def write_network(folder: Path) -> PatchUNet:
    """A network of random weights, as a file too."""
    torch.manual_seed(0)
    network = PatchUNet(NETWORK)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file(network.state_dict(), folder / "net.safetensors")
    return network.requires_grad_(False).eval()


def whole_step(network: PatchUNet, side: int) -> float:
    """Seconds of one pass over the whole image, on one thread as in a job; the better of two."""
    x_BCHW = torch.zeros(1, NETWORK.in_channels, side, side)
    style, drops = torch.zeros(1, NETWORK.style_channels), dropped(1, style=True, position=False)
    seconds = []
    for _ in range(2):
        began = perf_counter()
        with torch.inference_mode():
            image_eps(network, x_BCHW, torch.tensor([500.0]), style, drops, cells=BATCH)
        seconds.append(perf_counter() - began)
    return min(seconds)


def run(spec: JobSpec, steps: int) -> Run:
    """Run a job, and time its steps."""
    watch = Stopwatch()
    summary: Summary = run_job(spec, watch)
    lattice = compile_job(spec).image.lattices[0]
    assert summary.workforce is not None
    computing = sum(worker["computing"] for worker in summary.as_json()["workers"])
    step = watch.seconds_a_block * lattice.count
    busy = computing / (steps * step * (spec.cluster.workers or 1))
    return Run(step, max(0.0, 1 - busy), summary.report.sent / steps)


def draw(folder: Path, height: int, width: int, block: int, room: int) -> int:
    """Draw an image from nothing, with so many bytes for blocks in memory; the peak of resident bytes."""
    torch.manual_seed(0)
    told = Description(LIGHT, LIGHT.patch, "linear", "eps", ((0.0, 255.0),), None, {}, "uint8").stored()
    file = folder / "light.safetensors"
    save_file(PatchUNet(LIGHT).state_dict(), file, metadata={DESCRIPTION: json.dumps(told)})
    options = {
        "input": f"blank:{width}x{height}",
        "task": "generate",
        "sampler": "ddim",
        "steps": 2,
        "model": str(file),
    }
    options |= {"batch": 16, "lanes": 2, "lockstep": {"block": block, "memory": room}}
    run_job(from_options({**options, "output": str(folder / "out.zarr")}), Silent())
    return peak()


def theory(lattice: Lattice, workers: int, bands: int) -> int:
    """Bytes of the pixels half a patch around what each worker holds, and others hold."""
    level = np.zeros((lattice.blocks.rows.length, lattice.blocks.cols.length), np.int16)
    for worker, blocks in enumerate(runs(lattice.count, workers)):
        for block in blocks:
            level[lattice.box(block).slices] = worker
    wanted = np.zeros((workers, *level.shape), bool)
    edge = Box(0, 0, *level.shape)
    for block in range(lattice.count):
        box = lattice.box(block)
        wanted[level[box.top, box.left], *box.pad(PATCH // 2).intersect(edge).slices] = True
    held = np.arange(workers)[:, None, None] == level
    return int((wanted & ~held).sum()) * bands * np.dtype(np.float32).itemsize


def measure(smoke: bool) -> Figures:
    """All ways of drawing one image."""
    (height, width), block = ((1024, 512), 256) if smoke else ((4096, 4096), 512)
    room = 4 * LIGHT.in_channels * height * width
    small, large = (alone(draw, rows, width, block, room) for rows in (height, 4 * height))
    figures: dict[str, Any] = {"memory_ratio": large / small, "peak_mb": large / 1e6, "room_mb": room / 1e6}
    side, steps, crews = (256, 4, (1, 2)) if smoke else (512, 8, (1, 2, 4))
    with TemporaryDirectory() as name:
        folder = Path(name)
        network = write_network(folder)
        fix_arithmetic()
        torch.set_num_threads(1)
        whole = whole_step(network, side)
        figures["whole_seconds_a_step"] = whole
        for workers in crews:
            for exchange in ("pixels", "features"):
                spec = job(folder, side, workers, exchange, steps)
                found = run(spec, steps)
                figures[f"{exchange}_{workers}_over_whole"] = found.step / whole
                figures[f"{exchange}_{workers}_idle"] = found.idle
                if workers > 1:
                    figures[f"{exchange}_{workers}_bytes_a_step"] = found.bytes
                if workers == 2 and exchange == "pixels":
                    lattice = compile_job(spec).image.lattices[0]
                    figures["halo_bytes_over_theory"] = found.bytes / theory(lattice, workers, NETWORK.in_channels)
    return figures


BENCHMARK = Benchmark("patchdm", measure, {"halo_bytes_over_theory": ("<=", 1.2), "memory_ratio": ("<=", 1.15)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

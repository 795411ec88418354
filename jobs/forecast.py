"""What a job will do and cost, before it is run: its levels, its bill, and its time on a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..models.contract import Contract
from ..tiling.access import survey_tasks
from ..tiling.errors import CorruptChunk, InputError
from ..tiling.grid import Axis, Grid
from ..tiling.inputs import KEEPS, OWNS, survey
from ..tiling.plan import Plan
from ..tiling.simulate import Autoscale, Simulation, simulate
from ..tiling.simulate_lockstep import Losses, simulate_lockstep
from .archive import Archive
from .bill import Bill, coarser_bytes, in_lockstep, make_bill, planned_bytes, tiles_to_solve
from .compile import Compiled, compile_job, least_batch, most_lanes, refuse_unlike
from .holes import refuse_unfit
from .lockstep_bill import lockstep_bill, pattern_of
from .manifest import Manifest
from .progress import Watcher
from .quality import check_reference
from .spec import JobSpec
from .state import fresh_states
from .task import describe


@dataclass(frozen=True)
class LevelForecast:
    """One resolution: its size in pixels, its rows and columns of tiles, and how many have something to restore.

    ``solve`` is exact for the image itself and the most there can be for coarser levels, whose inputs
    are made by the run.
    """

    level: int
    height: int
    width: int
    rows: int
    cols: int
    solve: int


@dataclass(frozen=True)
class Effort:
    """What network calls come to: pixels seen, each as often as it is, and floating-point operations.

    ``flops`` is None where a model does not tell.
    """

    pixel_calls: int
    flops: float | None

    @classmethod
    def of(cls, compiled: Compiled, calls: int) -> Self:
        """The effort of so many calls, each on a tile."""
        pixels, told = compiled.tile**2, compiled.contract.effort
        return cls(calls * pixels, told and calls * pixels * (told[0] + told[1] * pixels))


@dataclass(frozen=True)
class Forecast:
    """What a job will do and cost; sizes are (bands, rows, columns) in pixels.

    ``trial``: batch and lanes are settled by a trial when the job begins, these being the least and the most.
    ``effort`` is what all network calls come to.
    """

    input: str
    output: str
    task: str
    model: str
    input_size: tuple[int, int, int]
    result_size: tuple[int, int, int]
    dtype: str
    tile: int
    stride: int
    guard: int
    levels: tuple[LevelForecast, ...]
    calls_per_tile: int
    side_by_side: int
    batch: int
    lanes: int
    trial: bool
    bill: Bill
    effort: Effort

    def as_json(self) -> dict[str, Any]:
        """The forecast as plain JSON."""
        return asdict(self)


def workers_here(spec: JobSpec) -> int:
    """Workers that share this machine's memory."""
    return 0 if spec.cluster.address else spec.cluster.workers or 1


def workers_of(spec: JobSpec) -> int:
    """Workers of a job, wherever they are."""
    return spec.cluster.workers or 1


def slots_of(spec: JobSpec, contract: Contract) -> int:
    """Tiles or windows that a worker shows the network at a time, as far as it is known before the job begins."""
    lanes = round(spec.crew.cpus) if spec.lanes == "auto" and spec.cluster.workers else most_lanes(spec)
    return least_batch(spec, contract) * max(1, lanes)


def worker_bytes(compiled: Compiled) -> int:
    """Bytes of its machine's memory that a worker on a cluster takes at the least.

    Where it has an accelerator, what its tiles in flight take is in that one's memory.
    """
    spec = compiled.spec
    lanes = max(1, round(spec.crew.cpus)) if spec.lanes == "auto" else spec.lanes
    in_flight = 0 if spec.cluster.gpus else least_batch(spec, compiled.contract) * lanes
    nothing = (0,) * len(compiled.image.plan.levels)
    planned = planned_bytes(compiled.contract, in_flight=in_flight, tile=compiled.tile, bands=compiled.image.bands)
    return bill_of(compiled, nothing, work_bytes=planned).memory_bytes


def workers_a_device(spec: JobSpec) -> int:
    """Workers that share the memory of one accelerator."""
    return max(1, int(1 / spec.cluster.gpus)) if spec.cluster.workers and spec.cluster.gpus else 1


def bill_of(compiled: Compiled, solve: tuple[int, ...], work_bytes: int | None = None, device_bytes: int = 0) -> Bill:
    """The bill of a job that runs ``solve`` tiles a level; ``work_bytes`` None: its engine is yet to be made."""
    spec, image = compiled.spec, compiled.image
    if work_bytes is None:
        in_flight = least_batch(spec, compiled.contract) * most_lanes(spec)
        planned = planned_bytes(compiled.contract, in_flight=in_flight, tile=compiled.tile, bands=image.bands)
        work_bytes = workers_here(spec) * planned
    if image.lattices:
        # A level that has anything to restore runs whole.
        solve = tuple(lattice.count if some else 0 for lattice, some in zip(image.lattices, solve, strict=True))
    bill = make_bill(
        image.plan,
        image.result,
        solve=solve,
        calls_per_tile=compiled.calls_per_tile,
        work_bytes=work_bytes,
        inputs_bytes=coarser_bytes(image),
        device_bytes=device_bytes,
    )
    if not image.lattices:
        return bill
    workers, slots = workers_of(spec), slots_of(spec, compiled.contract)
    told = lockstep_bill(compiled, workers=workers, slots=slots)
    return in_lockstep(bill, told, workers_here=workers_here(spec))


def side_by_side(compiled: Compiled) -> int:
    """Tiles that could be worked on at the same time by workers without end."""
    image = compiled.image
    if image.lattices:
        return max(lattice.windows.count for lattice in image.lattices)
    return int(image.plan.width_profile().max())


def forecast(compiled: Compiled, bits: NDArray[np.uint8]) -> Forecast:
    """The forecast of a job whose tiles have these survey bits."""
    spec, image = compiled.spec, compiled.image
    plan = image.plan
    batch, lanes = least_batch(spec, compiled.contract), most_lanes(spec)
    trial = compiled.contract.batches and "auto" in (spec.batch, spec.lanes)
    solve = tiles_to_solve(bits, plan)
    bill = bill_of(compiled, solve)
    return Forecast(
        input=spec.input,
        output=spec.output,
        task=describe(spec.normal_task),
        model=str(spec.model["name"]),
        input_size=(compiled.source.bands, compiled.source.height, compiled.source.width),
        result_size=image.result.shape(0),
        dtype=image.result.dtype,
        tile=compiled.tile,
        stride=compiled.resolved["stride"],
        guard=compiled.resolved["guard"],
        levels=tuple(
            LevelForecast(level, at.height, at.width, at.rows.count, at.cols.count, solve[level])
            for level, at in enumerate(plan.levels)
        ),
        calls_per_tile=compiled.calls_per_tile,
        side_by_side=side_by_side(compiled),
        batch=batch,
        lanes=lanes,
        trial=trial,
        bill=bill,
        effort=Effort.of(compiled, bill.calls),
    )


def survey_image(compiled: Compiled, watcher: Watcher) -> NDArray[np.uint8]:
    """Survey bits a tile, found without writing anything: the image's own are read.

    Coarser tiles have them wherever they might: above tiles that have, or all where nodata may hide more.
    """
    image = compiled.image
    grid, at = image.plan.levels[0], image.plan.tiles(0)
    observation = image.observed(*image.open())
    bits = np.full(image.plan.count, OWNS | KEEPS, np.uint8)
    finest = bits[at.start : at.stop].reshape(grid.rows.count, grid.cols.count)
    tasks = list(survey_tasks(observation, grid))
    watcher.begin("survey", len(tasks), unit="tasks")
    for tiles in tasks:
        finest[tiles.slices] = survey(observation, grid, tiles)
        watcher.advance(1)
    for level in range(1, len(image.plan.levels) if image.nodata is None else 1):
        fine, coarse = image.plan.levels[level - 1 : level + 1]
        below, at = (image.plan.tiles(one) for one in (level - 1, level))
        wanted = bits[below.start : below.stop].reshape(fine.rows.count, fine.cols.count) & OWNS != 0
        bits[at.start : at.stop] = _above(wanted, fine, coarse, image.plan.factor).ravel()
    return bits


def _above(wanted: NDArray[np.bool_], fine: Grid, coarse: Grid, factor: int) -> NDArray[np.uint8]:
    """The most bits that a coarser level's tiles can have, by which finer ones have something to restore."""
    before = np.pad(wanted.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    axes = (fine.rows, coarse.rows), (fine.cols, coarse.cols)
    bits = np.zeros((coarse.rows.count, coarse.cols.count), np.uint8)
    for bit, first in ((OWNS, Axis.near), (KEEPS, Axis.start)):
        (top, bottom), (left, right) = (_below(*axis, factor, first) for axis in axes)
        count = before[bottom][:, right] - before[top][:, right] - before[bottom][:, left] + before[top][:, left]
        bits[count > 0] |= bit
    return bits


def _below(fine: Axis, coarse: Axis, factor: int, first: Callable[[Axis, int], int]) -> NDArray[np.intp]:
    """For each tile along a coarser axis, the first finer tile that owns a pixel below it, and the end of them."""
    ends = ((first(coarse, j) * factor, coarse.far(j) * factor) for j in range(coarse.count))
    owners = [fine.owners(*(min(end, fine.length) for end in pair)) for pair in ends]
    return np.array([[one.start for one in owners], [one.stop for one in owners]])


def simulate_job(
    compiled: Compiled,
    bits: NDArray[np.uint8],
    *,
    images: int,
    workers: int,
    slots: int,
    call_seconds: float,
    mtbf: float | None = None,
    autoscale: Autoscale | None = None,
) -> tuple[Simulation, Sequence[Plan]]:
    """Simulate so many images like the job's own, from their first tile to their last; also what they were drawn by."""
    if compiled.image.lattices:
        return _simulate_lockstep(compiled, bits, images, workers, slots, call_seconds, mtbf, autoscale)
    plans = [compiled.image.plan] * images
    found = simulate(
        plans,
        workers=workers,
        slots=slots,
        call_seconds=call_seconds,
        calls_per_tile=compiled.calls_per_tile,
        states=[fresh_states(bits)] * images,
        mtbf=mtbf,
        autoscale=autoscale,
    )
    return found, plans


def _simulate_lockstep(
    compiled: Compiled,
    bits: NDArray[np.uint8],
    images: int,
    workers: int,
    slots: int,
    call_seconds: float,
    mtbf: float | None,
    autoscale: Autoscale | None,
) -> tuple[Simulation, Sequence[Plan]]:
    if autoscale and autoscale.min != autoscale.max:
        raise InputError(
            "blocks that advance together stay with their workers, of which --autoscale would change the number: "
            "drop it, and simulate one --workers after the other"
        )
    image, solve = compiled.image, tiles_to_solve(bits, compiled.image.plan)
    levels = [lattice for lattice, some in zip(image.lattices, solve, strict=True) if some]
    return simulate_lockstep(
        [levels] * images,
        pattern_of(compiled),
        steps=compiled.calls_per_tile,
        every=compiled.spec.lockstep.every,
        workers=workers,
        slots=slots,
        call_seconds=call_seconds,
        losses=Losses(mtbf, autoscale.startup_seconds if autoscale else 0.0),
    )


@dataclass(frozen=True)
class ArchiveForecast:
    """What an archive will cost at most, masks unread; ``problems`` are images that cannot be opened, and why."""

    manifest: str
    images: int
    tiles: int
    calls: int
    scratch_bytes: int
    result_bytes: int
    memory_bytes: int
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The forecast as plain JSON."""
        return asdict(self)


def archive_forecast(archive: Archive, watcher: Watcher, *, trusted: bool) -> ArchiveForecast:
    """Open every image of an archive, and add up their bills."""
    manifest = Manifest(archive.manifest)
    watcher.begin("plan", len(manifest), unit="images")
    totals: Counter[str] = Counter()
    memory = 0
    problems: list[str] = []
    first: Compiled | None = None
    for number in range(len(manifest)):
        row = manifest[number]
        try:
            spec = archive.job_of(row)
            compiled = compile_job(spec, contract=first.contract if first else None, trusted=trusted)
            first = first or compiled
            refuse_unfit(spec, first.contract)
            refuse_unlike(first, compiled, row.where)
            if row.reference:
                check_reference(row.reference, compiled.image.result)
        except (InputError, CorruptChunk) as error:
            problems.append(f"{row.id}: {error}")
        else:
            bill = bill_of(compiled, tuple(grid.count for grid in compiled.image.plan.levels))
            memory = max(memory, bill.memory_bytes)
            totals["tiles"] += sum(bill.tiles)
            for name in ("calls", "scratch_bytes", "result_bytes"):
                totals[name] += getattr(bill, name)
        watcher.advance(1)
    return ArchiveForecast(
        archive.manifest,
        len(manifest),
        tiles=totals["tiles"],
        calls=totals["calls"],
        scratch_bytes=totals["scratch_bytes"],
        result_bytes=totals["result_bytes"],
        memory_bytes=memory,
        problems=tuple(problems),
    )

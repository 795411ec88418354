"""The commands that change nothing: plan, status, verify, simulate. None of them loads the network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from shlex import quote
from typing import Any

import click
from rich.console import Console

from ..cluster.timesheet import HOUR
from ..tiling.blank_source import is_blank
from ..tiling.errors import InputError, StoreError
from ..tiling.patience import impatient
from ..tiling.place import Place, place
from ..tiling.simulate import Autoscale, Simulation
from ..tiling.weave_picture import weave_picture, write_png
from .archive import Archive, ArchiveStatus, archive_status, is_archive, load
from .bill import gigabytes, refuse_unaffordable
from .compare import compared
from .compare import lines as comparison_lines
from .compile import compile_job, reach_stores
from .forecast import (
    ArchiveForecast,
    Effort,
    Forecast,
    archive_forecast,
    forecast,
    simulate_job,
    survey_image,
)
from .holes import refuse_hopeless_mask
from .lockstep_bill import LockstepBill, better_exchange
from .look import (
    ArchiveVerification,
    Damage,
    JobStatus,
    Verification,
    job_at,
    job_status,
    open_state,
    stored_job,
    verify_archive,
    verify_output,
)
from .now import read_now
from .options import trust_model
from .progress import Terminal
from .spec import JobSpec
from .state import begun_at
from .submitted import cluster_at, named, output_at, told
from .why import why

_UNSEEN = "the output is not to be seen from here, or not begun yet"
MOST_NAMED = 20
"""Images that are named one by one."""
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@click.command(epilog=example("tileloom plan job.yaml"))
@click.argument("job")
@trust_model
@as_json
def plan(*, job: str, trust_model: bool, as_json: bool) -> None:
    """Say what the job of the file JOB will do and cost: levels, tiles, network calls, disk and memory.

    Reads the mask to count the tiles that have something to restore; writes nothing. Compares weave msr with weave
    joint for the job's own workers: network calls one after the other, state of a worker, bytes between workers. Of an
    archive, opens every image and adds up what all of them will cost at most; an image that cannot be run makes the
    exit code 1.
    """
    found = load(job)
    if isinstance(found, Archive):
        _print_archive_plan(found, trusted=trust_model, as_json=as_json)
    else:
        print_plan(found, trusted=trust_model, as_json=as_json)


@click.command(
    epilog=example(
        "tileloom status scene.zarr",
        "tileloom status scene.zarr --why",
        "tileloom status scene.zarr --json",
        "tileloom status job.yaml --address http://127.0.0.1:8265",
    ),
)
@click.argument("target")
@click.option("--address", metavar="ADDRESS", help="Ask this cluster, too, how TARGET does that was submitted to it.")
@click.option("--why", "ask_why", is_flag=True, help="Say what unfinished tiles wait for, or that nobody runs them.")
@as_json
def status(*, target: str, address: str | None, ask_why: bool, as_json: bool) -> None:
    """Say how far TARGET has come: the output of a job, its job file, or the id of a submission.

    Lists degraded tiles, of which one makes the exit code 1; of an archive, the images that failed or have some. A run
    may be going on. All is read from the output itself, which needs no cluster; with an address, an output that is not
    to be seen from here is left out. What tiles wait for is told by the run itself, every few seconds.
    """
    submission = named(target, cluster_at(address)) if address else None
    output = place(submission.output) if submission else output_at(target)
    begun = _seen(output)
    # A run that waits for its first worker has begun nothing yet.
    reason = why(output) if ask_why and (begun or read_now(output)) else None
    found = _status_of(output) if begun or not (submission or reason) else None
    if as_json:
        parts = ({"submission": asdict(submission)} if submission else {}) | (found.as_json() if found else {})
        _print(parts | ({"why": reason.as_json()} if reason else {}))
    else:
        unseen = [] if reason else [_UNSEEN]
        lines = chain([told(submission)] if submission else [], _lines(found) if found else unseen)
        _print(chain(lines, reason.lines() if reason else []))
    if found and found.troubled:
        click.get_current_context().exit(1)


def _seen(output: Place) -> bool:
    """Whether there is anything of an output that this machine can see."""
    try:
        with impatient():
            return begun_at(output)
    except StoreError:
        return False


def _status_of(output: Place) -> JobStatus | ArchiveStatus:
    return archive_status(output) if is_archive(output) else job_status(open_state(output))


def _lines(found: JobStatus | ArchiveStatus) -> Iterator[str]:
    return _archive_lines(found) if isinstance(found, ArchiveStatus) else _status_lines(found)


@click.command(
    epilog=example("tileloom verify scene.zarr", "tileloom verify scene.zarr --json"),
)
@click.argument("output")
@as_json
def verify(*, output: str, as_json: bool) -> None:
    """Read back every tile and every file of OUTPUT, and list what is damaged; any damage makes the exit code 1.

    Of an archive, all images are read back that have a result.
    """
    where = place(output).absolute()
    where.reach()
    found: Verification | ArchiveVerification
    with Terminal(Console(stderr=True)) as watcher:
        found = verify_archive(where, watcher) if is_archive(where) else verify_output(open_state(where), watcher)
    _print(found.as_json() if as_json else _verification_lines(found))
    if found.damage:
        click.get_current_context().exit(1)


@click.command(
    epilog=example(
        "tileloom simulate job.yaml --workers 8 --slots 8 --call-seconds 0.05",
        "tileloom simulate scene.zarr --workers 2 --slots 16 --call-seconds 0.1 --autoscale 1:64 --startup 90",
    ),
)
@click.argument("target")
@click.option("--workers", type=click.IntRange(1), required=True, metavar="N", help="Workers up at the start.")
@click.option("--slots", type=click.IntRange(1), required=True, metavar="N", help="Tiles a worker keeps in flight.")
@click.option(
    "--call-seconds", type=float, required=True, metavar="S", help="Seconds of one step of a worker's whole batch."
)
@click.option("--mtbf", type=float, metavar="S", help="Mean seconds between losses of one worker.")
@click.option("--autoscale", metavar="MIN:MAX", help="Let the number of workers follow what is left to do.")
@click.option("--startup", type=float, default=0.0, metavar="S", help="Seconds until a worker asked for is up.")
@click.option("--images", type=click.IntRange(1), default=1, metavar="N", help="How many such images there are.")
@click.option("--picture", metavar="FILE", help="Write a PNG of which slot works on which tile, and when.")
@trust_model
@as_json
def simulate(
    *,
    target: str,
    workers: int,
    slots: int,
    call_seconds: float,
    mtbf: float | None,
    autoscale: str | None,
    startup: float,
    images: int,
    picture: str | None,
    trust_model: bool,
    as_json: bool,
) -> None:
    """Say how long TARGET, a job file or the output of a job, would take on a cluster.

    Runs the real order of tiles against a clock that is not real; reading and writing are left out. Of a job whose
    weave is joint, --slots are the tiles that a worker shows the network at a time. With --autoscale, workers come and
    go by the job's cluster.idle; cost is by its cluster.prices, each worker on a machine of its own.
    """
    where = place(target).absolute()
    where.reach()
    state = open_state(where) if where.is_folder() and not is_archive(where) else None
    spec = stored_job(state) if state else job_at(target)
    if isinstance(spec, Archive):
        raise InputError(f"{target} is an archive: simulate a job of one of its images, with --images for how many")
    contract = state.contract if state else None
    reach_stores(spec)
    compiled = compile_job(spec, contract=contract, trusted=trust_model)
    bits = state.bits() if state else None
    if bits is None:
        with Terminal(Console(stderr=True)) as watcher:
            bits = survey_image(compiled, watcher)
    found, drawn_by = simulate_job(
        compiled,
        bits,
        images=images,
        workers=workers,
        slots=slots,
        call_seconds=call_seconds,
        mtbf=mtbf,
        autoscale=_autoscale(autoscale, workers, startup, spec.cluster.idle),
    )
    if picture:
        write_png(picture, weave_picture(found.intervals, drawn_by))
    told = _simulation(found, spec.cluster.prices or {})
    redone = "steps of blocks" if compiled.image.lattices else "tiles"
    _print(told if as_json else _simulation_lines(found, told["cost"], redone=redone))


def print_plan(spec: JobSpec, *, trusted: bool, as_json: bool) -> None:
    """Print the forecast of a job, and refuse one that does not fit."""
    reach_stores(spec)
    compiled = compile_job(spec, trusted=trusted)
    refuse_hopeless_mask(spec, compiled.contract)
    with Terminal(Console(stderr=True)) as watcher:
        bits = survey_image(compiled, watcher)
    found, either = forecast(compiled, bits), compared(compiled, bits)
    told = found.as_json() | {"weaves": asdict(either) if either else None}
    _print(told if as_json else chain(_plan_lines(found), comparison_lines(either) if either else ()))
    refuse_unaffordable(found.bill, spec.output, max_memory=spec.max_memory)


def _print_archive_plan(archive: Archive, *, trusted: bool, as_json: bool) -> None:
    """Print what all images of an archive cost."""
    with Terminal(Console(stderr=True)) as watcher:
        found = archive_forecast(archive, watcher, trusted=trusted)
    _print(found.as_json() if as_json else _archive_plan_lines(found))
    if found.problems:
        click.get_current_context().exit(1)


def _archive_plan_lines(found: ArchiveForecast) -> Iterator[str]:
    yield f"{found.manifest}: {found.images} images, {found.tiles} tiles"
    yield f"network calls: at most {found.calls}"
    yield (
        f"disk: at most {gigabytes(found.scratch_bytes)} to work in, {gigabytes(found.result_bytes)} for the results"
    )
    yield f"memory: about {gigabytes(found.memory_bytes)}"
    for problem in found.problems[:MOST_NAMED]:
        yield f"cannot be run: {problem}"
    if len(found.problems) > MOST_NAMED:
        yield f"cannot be run: {len(found.problems) - MOST_NAMED} more, see --json"


def _print(what: dict[str, Any] | Iterator[str]) -> None:
    click.echo(json.dumps(what, indent=1) if isinstance(what, dict) else "\n".join(what))


def _autoscale(text: str | None, workers: int, startup: float, idle: float) -> Autoscale | None:
    """MIN:MAX workers; without it a delay still counts for lost workers, which come back."""
    if text is None:
        return Autoscale(workers, workers, startup) if startup else None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match:
        raise InputError(f"--autoscale must be MIN:MAX, such as 0:16, not '{text}'")
    return Autoscale(int(match[1]), int(match[2]), startup, idle)


def _plan_lines(found: Forecast) -> Iterator[str]:
    bill = found.bill
    yield f"{found.input}: {'nothing is given' if is_blank(found.input) else _size(found.input_size)}"
    yield f"{found.output}: {_size(found.result_size)}, {found.dtype}"
    yield f"task {found.task}; model {found.model}, {found.calls_per_tile} network calls a tile"
    yield f"tile {found.tile}, stride {found.stride}, guard {found.guard}"
    kind = "blocks" if bill.lockstep else "tiles"
    for level in reversed(found.levels):
        most = "at most " if level.level else ""
        yield (
            f"level {level.level}: {level.height}x{level.width} pixels, {level.rows}x{level.cols} {kind}, "
            f"{most}{level.solve} to restore"
        )
    if bill.lockstep:
        yield from _lockstep_lines(bill.lockstep)
    most = "at most " if len(found.levels) > 1 else ""
    yield f"network calls: {most}{bill.calls}, {_effort(found.effort)}"
    chain = f"{bill.critical_path} {'levels' if bill.lockstep else 'tiles'}"
    yield f"longest chain: {chain}, {bill.critical_path * found.calls_per_tile} network calls"
    yield f"side by side: up to {found.side_by_side} tiles; here {_lanes(found)}"
    yield f"disk: {most}{gigabytes(bill.scratch_bytes)} to work in, {gigabytes(bill.result_bytes)} for the result"
    yield f"memory: about {gigabytes(bill.memory_bytes)}"


def _lockstep_lines(told: LockstepBill) -> Iterator[str]:
    """What blocks that advance together cost beside their network calls."""
    windows = ", ".join(map(str, reversed(told.windows)))
    many = "s" if told.workers > 1 else ""
    yield f"lock-step: blocks of {told.block} pixels advance together, {told.steps} steps of {windows} tiles"
    filed = f", the rest, {gigabytes(told.file_bytes)}, in files of its machine" if told.file_bytes else ""
    yield (
        f"state of each of {told.workers} worker{many}: {gigabytes(told.state_bytes)} of blocks and halos, "
        f"{gigabytes(told.kept_bytes)} kept for others; {gigabytes(told.memory_bytes)} of it in memory{filed}"
    )
    yield f"saved on the way: {gigabytes(told.saved_bytes)} at a time"
    for one in told.exchanges if told.workers > 1 else ():
        phases = " and ".join(map(gigabytes, one.phase_bytes))
        taken = ", as the job has it" if one is told.exchanges[0] and len(told.exchanges) > 1 else ""
        yield f"between workers: {phases} a step ({one.name}{taken}), {gigabytes(one.total_bytes)} in all"
    if better := better_exchange(told):
        yield f"better here: {better}"


def _effort(effort: Effort) -> str:
    flops = "" if effort.flops is None else f", {effort.flops / 1e12:.3g} TFLOP"
    return f"{effort.pixel_calls / 1e6:.3g} million pixels seen{flops}"


def _lanes(found: Forecast) -> str:
    if found.trial:
        return f"up to {found.lanes} lanes of {found.batch} or more, as a trial tells when the job begins"
    return f"{found.lanes} lanes of {found.batch}"


def _size(size: tuple[int, int, int]) -> str:
    bands, height, width = size
    return f"{height}x{width} pixels, {bands} band{'' if bands == 1 else 's'}"


def _status_lines(found: JobStatus) -> Iterator[str]:
    redone = f", generation {found.generation}" if found.generation else ""
    yield f"{found.output}: {found.phase}{redone}"
    for level in reversed(found.levels):
        kind = "tiles" if level.steps is None else "blocks"
        yield (
            f"level {level.level}: {level.tiles} {kind}, {level.known} with nothing to restore, {level.done} done, "
            f"{level.todo} to do, {level.degraded} degraded"
        )
        if level.steps is not None and level.todo:
            yield f"level {level.level}: all blocks are saved at step {level.saved} of {level.steps}"
    yield f"published: {found.shards_published} of {found.shards} files"
    yield from (f"begun anew: {why}" for why in found.anew)
    yield from (f"degraded: {tile}" for tile in found.degraded)
    if found.degraded:
        yield f"run these again with: tileloom retry {quote(found.output)}"


def _archive_lines(found: ArchiveStatus) -> Iterator[str]:
    left = found.images - found.done - len(found.ended_badly)
    yield (
        f"{found.output}: {found.images} images, {found.done} done, {len(found.ended_badly)} degraded or failed, "
        f"{left} to do, {found.begun} of these begun; {found.tiles} tiles, {found.calls} network calls"
    )
    yield from (f"{record.ended}: {record.id}: {record.reason}" for record in found.ended_badly[:MOST_NAMED])
    if len(found.ended_badly) > MOST_NAMED:
        yield f"and {len(found.ended_badly) - MOST_NAMED} more, see --json"
    if found.troubled:
        yield f"run these again with: tileloom retry {quote(found.output)}"


def _verification_lines(found: Verification | ArchiveVerification) -> Iterator[str]:
    images = f"{found.images} images, " if isinstance(found, ArchiveVerification) else ""
    yield f"{found.output}: {images}{found.tiles} tiles and {found.shards} published files read back"
    if not found.damage:
        yield "nothing is damaged"
    elif isinstance(found, Verification):
        yield from _damage_lines(found.damage)
        yield f"mend it with: tileloom retry {quote(found.output)}"
    else:
        for image, damage in found.damage.items():
            yield f"image {image} is damaged"
            yield from _damage_lines(damage)
            yield f"mend it with: tileloom retry {quote(f'{found.output}/{image}.zarr')}"
        yield f"what is gone altogether is made anew by: tileloom resume {quote(found.output)} --redo stale"


def _damage_lines(found: Iterable[Damage]) -> Iterator[str]:
    for damage in found:
        where = ", ".join(filter(None, (damage.array, damage.chunk, damage.tile)))
        yield f"damaged: {where}: {damage.problem}"


def _simulation(found: Simulation, prices: Mapping[str, float]) -> dict[str, Any]:
    names = ("makespan", "bound", "efficiency", "critical_path", "work", "slots", "busy", "redone", "worker_seconds")
    told = {name: getattr(found, name) for name in names} | {"idle_share": found.idle}
    # Each worker has a machine of its own.
    told["node_seconds"] = found.worker_seconds
    told["cost"] = {kind: price * found.worker_seconds / HOUR for kind, price in prices.items()}
    return told


def _simulation_lines(found: Simulation, cost: Mapping[str, float], *, redone: str) -> Iterator[str]:
    yield f"makespan: {found.makespan:.1f} s"
    yield f"bound: {found.bound:.1f} s, which no order of tiles can beat (longest chain {found.critical_path:.1f} s)"
    yield f"efficiency: {found.efficiency:.1%}"
    yield f"busy: {found.busy:.1%} of {found.worker_seconds:.0f} worker-seconds; {found.idle:.1%} wholly idle"
    yield f"redone: {found.redone} {redone}, lost with their worker"
    yield from (f"cost: {money:.2f} on {kind}" for kind, money in cost.items())

"""A job from beginning to end: check, survey, restore, publish. Whatever is committed is never done again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from importlib import import_module
from time import perf_counter
from typing import Any

from ..cluster.executor import Executor, LocalExecutor, RunReport
from ..cluster.worker import Worker
from ..models.build import EngineFactory
from ..models.kinds import identity_of
from ..models.weights import weights_digest
from ..tiling.errors import InputError, JobChanged, TileloomError
from ..tiling.place import Place, place
from ..tiling.source import open_mask
from ..tiling.store import write_json
from ..tiling.work import TileWork
from .bill import Bill, affordable_memory, refuse_unaffordable, tiles_to_solve
from .compile import Compiled, compile_job
from .forecast import bill_of, workers_here
from .phases import OnReports, prepare, publish, restore
from .progress import Watcher
from .spec import JobSpec, changed
from .state import HIDDEN, DegradedTile, JobState, degraded_tiles, only_run, settings_bytes

# Loads ray: only for a job that asks for workers.
_RAY_EXECUTOR = "..cluster.ray_executor"
_LONG_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b")


class Redo(Enum):
    """What a run may do again: nothing, what was given up, or whatever a changed job made stale."""

    NOTHING = "nothing"
    FAILED = "failed"
    STALE = "stale"


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    output: Place
    bill: Bill
    report: RunReport
    degraded: list[DegradedTile]
    calls: int
    calls_per_tile: int
    fill: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The summary as plain JSON."""
        return {
            "output": str(self.output),
            "bill": self.bill.as_json(),
            "done": self.report.done,
            "inherited": self.report.inherited,
            "failures": self.report.failures,
            "degraded": [str(tile) for tile in self.degraded],
            "network_calls": self.calls,
            "calls_per_tile": self.calls_per_tile,
            "batch_fill": round(self.fill, 4),
            "seconds": round(self.seconds, 3),
        }


def work_factory(compiled: Compiled, *, batch: int | None) -> EngineFactory:
    """What makes the engine on a worker, which finds a batch of its own where that is None."""
    spec, plan = compiled.spec, compiled.image.plan
    return EngineFactory(
        model=dict(spec.model),
        steps=spec.steps,
        travel_length=spec.travel.length,
        travel_repeat=spec.travel.repeat,
        seed=spec.seed,
        tile=compiled.tile,
        bands=compiled.image.bands,
        batch=batch,
        lanes=_lanes(spec),
        affordable=_affordable(compiled),
        device_share=1 / _workers_a_device(spec),
        side_by_side=-(-int(plan.width_profile().max()) // (spec.cluster.workers or 1)),
        levels=len(plan.levels),
        factor=plan.factor,
        sampler=spec.sampler,
        eta=spec.eta,
        jumps=spec.travel.jumps,
        guidance=spec.guide,
        parity=spec.quirks,
        trusted=compiled.trusted,
    )


def _lanes(spec: JobSpec) -> int | None:
    """The lanes of one worker: those asked for, or as many as it has cores; None where a trial has to tell."""
    if spec.lanes != "auto":
        return spec.lanes
    return max(1, round(spec.crew.cpus)) if spec.cluster.workers else None


def _affordable(compiled: Compiled) -> int | None:
    """Bytes that the engine may take, beside all that the job takes without it."""
    memory = affordable_memory(compiled.spec.max_memory)
    nothing = (0,) * len(compiled.image.plan.levels)
    # What the nodes of a cluster have is not known here.
    if memory is None or compiled.spec.cluster.address:
        return None
    left = memory - bill_of(compiled, nothing, work_bytes=0).memory_bytes
    return left // (compiled.spec.cluster.workers or 1)


def run_job(
    spec: JobSpec,
    watcher: Watcher,
    *,
    redo: Redo = Redo.NOTHING,
    on_reports: OnReports = lambda _: None,
    trusted: bool = False,
) -> Summary:
    """Run a job, or go on with it; the output is the same whatever was done before.

    ``on_reports`` is told of every settled tile. ``trusted``: a model that is code may be run.
    """
    began, available = perf_counter(), affordable_memory(spec.max_memory)
    compiled = compile_job(spec, trusted=trusted)
    output = place(spec.output)
    if JobState.load(output) is None:
        full = bill_of(compiled, tuple(grid.count for grid in compiled.image.plan.levels))
        refuse_unaffordable(replace(full, scratch_bytes=0, result_bytes=0), output, max_memory=spec.max_memory)
    with only_run(output), _executor(compiled, JobState.load(output), watcher) as executor:
        return _run(compiled, executor, watcher, redo, on_reports, began=began, available=available)


@contextmanager
def _executor(compiled: Compiled, stored: JobState | None, watcher: Watcher) -> Iterator[Executor]:
    """Who works: this process, or workers on a cluster."""
    spec = compiled.spec

    def work_for(found: int | None) -> Callable[[], TileWork[Any]]:
        return work_factory(compiled, batch=_batch(spec, stored) or found)

    if spec.cluster.workers is None:
        yield LocalExecutor(Worker(work_for(None)))
        return
    ray = import_module(_RAY_EXECUTOR, __package__)
    with ray.RayExecutor(work_for, spec.crew, say=watcher.say) as executor:
        yield executor


def _run(
    compiled: Compiled,
    executor: Executor,
    watcher: Watcher,
    redo: Redo,
    on_reports: OnReports,
    *,
    began: float,
    available: int | None,
) -> Summary:
    spec, output = compiled.spec, place(compiled.spec.output)
    stored = JobState.load(output)
    parts = _parts(compiled, executor.description.batch, executor.description.numeric_class)
    state = _generation(compiled, stored, parts, redo)
    compiled = replace(compiled, image=replace(compiled.image, root=str(state.root)))
    with _nothing_left_of_a_refused_job(state, stored):
        state.save()
        bits = prepare(compiled.image, executor, state, watcher, settings=settings_bytes(parts))
        needs, own = executor.description.memory, executor.description.device_memory
        solve = tiles_to_solve(bits, compiled.image.plan)
        bill = (
            bill_of(compiled, solve, workers_here(spec) * needs)
            if own is None
            else bill_of(compiled, solve, 0, device_bytes=_workers_a_device(spec) * needs)
        )
        if not state.begun:
            refuse_unaffordable(bill, output, max_memory=spec.max_memory, available=available, device_memory=own)
    ledger = state.ledger()
    report = restore(compiled, executor, state, ledger, bits=bits, watcher=watcher, on_reports=on_reports)
    degraded = degraded_tiles(compiled.image.plan, ledger)
    counts = {"tiles restored": sum(bill.solve) - len(degraded), "tiles degraded": len(degraded)}
    given_up = {compiled.image.plan.index(tile.key) for tile in degraded}
    publish(compiled, executor, state, ledger, counts=counts, degraded=given_up, watcher=watcher)
    summary = Summary(
        output=output,
        bill=bill,
        report=report,
        degraded=degraded,
        calls=executor.usage.calls,
        calls_per_tile=compiled.calls_per_tile,
        fill=executor.usage.fill,
        seconds=perf_counter() - began,
    )
    write_json(output / HIDDEN / "report.json", summary.as_json())
    state.tidy()
    if not spec.keep_scratch and not degraded:
        state.drop_scratch(ledger)
    return summary


def _workers_a_device(spec: JobSpec) -> int:
    """Workers that share the memory of one accelerator."""
    return max(1, int(1 / spec.cluster.gpus)) if spec.cluster.workers and spec.cluster.gpus else 1


def _batch(spec: JobSpec, stored: JobState | None) -> int | None:
    """The padded batch: as the job says, or as the output was begun with; None where it is yet to be found."""
    if spec.batch != "auto":
        return spec.batch
    return int(stored.parts["batch"]) if stored else None


def _parts(compiled: Compiled, batch: int, numeric_class: Mapping[str, str]) -> dict[str, Any]:
    """All that decides the result's bytes, by the name a person would look for."""
    mask = compiled.spec.mask
    return {
        **compiled.spec.identity(),
        **identity_of(compiled.spec.model),
        **_guide(compiled.spec),
        **compiled.resolved,
        "batch": batch,
        "input": compiled.source.digest(),
        "mask": open_mask(mask).digest() if mask else None,
        "numeric class": dict(numeric_class),
    }


def _guide(spec: JobSpec) -> dict[str, Any]:
    """The classifier that guides by what it is: where it lies makes no difference."""
    if spec.guide is None:
        return {}
    told = {**spec.guidance.model_dump(), "classifier": "weights"}
    return {"guidance": told, "classifier": weights_digest(spec.guide.classifier)}


def _generation(compiled: Compiled, stored: JobState | None, parts: dict[str, Any], redo: Redo) -> JobState:
    """The generation to work in: the current one, or for a redo a new one that inherits from it."""
    spec = compiled.spec
    state = JobState(place(spec.output), spec.model_dump(mode="json"), parts, compiled.contract)
    if stored is None:
        return state
    differences = changed(stored.parts, parts)
    if differences and redo is not Redo.STALE:
        named = _LONG_DIGEST.sub(r"\1...", "; ".join(differences))
        raise JobChanged(
            f"{spec.output} was begun by another job ({named}): "
            "add --redo stale to redo what this changes, or choose another output"
        )
    if redo is Redo.NOTHING or (redo is Redo.STALE and not differences):
        return replace(state, generation=stored.generation, inherits=stored.inherits)
    return replace(state, generation=stored.generation + 1, inherits=(stored.root.name, *stored.inherits))


@contextmanager
def _nothing_left_of_a_refused_job(state: JobState, stored: JobState | None) -> Iterator[None]:
    """A job refused before its first tile leaves the output as it was: none, or that of the job before."""
    try:
        yield
    except InputError:
        if stored is None:
            state.forget()
        elif stored.root != state.root:
            stored.save()
            state.root.remove()
        raise
    except TileloomError:
        raise
    except OSError as error:
        raise TileloomError(f"{state.output} cannot be written: {error}") from error

"""A job from beginning to end: check, survey, restore, publish. Whatever is committed is never done again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module

from ..cluster.agenda import Chores, Course
from ..cluster.executor import Batches, Executor, LocalExecutor, MakeWork
from ..cluster.worker import Report, Worker
from ..models.build import EngineFactory, JointFactory, PatchFactory
from ..tiling.place import place
from .bill import affordable_memory, refuse_unaffordable
from .compile import Compiled, compile_job, reach_stores
from .course import Redo, Summary, digests_of, image_course, networks_of, save_report
from .forecast import bill_of, side_by_side, worker_bytes, workers_a_device
from .holes import refuse_hopeless_mask
from .labels import refuse_unknown_labels
from .lookout import Lookout
from .phases import OnReports, new_frontier
from .progress import Watcher
from .spec import JobSpec
from .state import JobState, only_run
from .timeline import Timeline
from .workforce import workforce

# Loads ray: only for a job that asks for workers.
_RAY_EXECUTOR = "..cluster.ray_executor"


def work_factory(compiled: Compiled, *, images: int = 1) -> MakeWork:
    """What makes the work of a worker for so many images; it finds a batch of its own where that is left open."""
    engine, lockstep = _engine_factory(compiled, images=images), compiled.spec.lockstep
    if compiled.weave == "patches":
        return PatchFactory(engine, lockstep.memory, lockstep.exchange)
    return JointFactory(engine, lockstep.memory) if compiled.image.lattices else engine


def _engine_factory(compiled: Compiled, *, images: int) -> EngineFactory:
    spec, plan = compiled.spec, compiled.image.plan
    return EngineFactory(
        model=dict(spec.model),
        steps=compiled.resolved["steps"],
        travel_length=spec.travel.length,
        travel_repeat=spec.travel.repeat,
        seed=spec.seed,
        tile=compiled.tile,
        bands=compiled.image.bands,
        batch=None if spec.batch == "auto" else spec.batch,
        lanes=_lanes(spec),
        affordable=_affordable(compiled),
        device_share=1 / workers_a_device(spec),
        side_by_side=-(-images * side_by_side(compiled) // (spec.cluster.workers or 1)),
        levels=len(plan.levels),
        factor=plan.factor,
        sampler=spec.sampler,
        eta=compiled.resolved["eta"],
        spacing=compiled.resolved["spacing"],
        begin=compiled.resolved["begin"],
        jumps=spec.travel.jumps,
        guidance=spec.guide,
        parity=spec.quirks,
        identity=json.dumps(networks_of(spec), sort_keys=True),
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
    timeline: Timeline | None = None,
    trusted: bool = False,
) -> Summary:
    """Run a job, or go on with it; the output is the same whatever was done before.

    ``on_reports`` is told of every settled tile, which the ``timeline`` shows. ``trusted``: a model that is code may
    be run.
    """
    available = affordable_memory(spec.max_memory)
    reach_stores(spec)
    compiled = compile_job(spec, trusted=trusted)
    output = place(spec.output)
    if JobState.load(output) is None:
        refuse_hopeless(compiled)
        # Workers look again; but to load a network and to find its batch may take minutes.
        refuse_unknown_labels(compiled.image)
        refuse_hopeless_mask(spec, compiled.contract)
    with (
        only_run(output),
        Lookout(watcher, output, timeline=timeline) as lookout,
        executor_of(compiled, batches=_batches(JobState.load(output)), watcher=lookout) as executor,
    ):
        return _run(compiled, executor, lookout, redo, on_reports, available=available)


def refuse_hopeless(compiled: Compiled) -> None:
    """Refuse, before anything is started, a job that cannot have its memory, or that may not write its output."""
    spec = compiled.spec
    full = bill_of(compiled, tuple(grid.count for grid in compiled.image.plan.levels))
    refuse_unaffordable(replace(full, scratch_bytes=0, result_bytes=0), spec.output, max_memory=spec.max_memory)


@contextmanager
def executor_of(compiled: Compiled, *, batches: Batches, images: int = 1, watcher: Watcher) -> Iterator[Executor]:
    """Who works: this process, or workers on a cluster; with the batches that their devices were begun with."""
    spec, make_work = compiled.spec, work_factory(compiled, images=images)
    # Those of a job that names its batch are all the same.
    known = batches if spec.batch == "auto" else {}
    if spec.cluster.workers is None:
        yield LocalExecutor(Worker(partial(make_work, known)))
        return
    ray = import_module(_RAY_EXECUTOR, __package__)
    crew = replace(spec.crew, memory=worker_bytes(compiled))
    with ray.RayExecutor(make_work, crew, batches=known, say=watcher.say) as executor:
        yield executor


def _run(
    compiled: Compiled,
    executor: Executor,
    lookout: Lookout,
    redo: Redo,
    on_reports: OnReports,
    *,
    available: int | None,
) -> Summary:
    found: list[Summary] = []
    frontier = new_frontier(compiled.spec)
    lookout.work_begins(executor, frontier)

    def told(reports: list[Report]) -> None:
        pulse = lookout.look(reports)
        if reports or pulse:
            lookout.advance(sum(report.finished for report in reports), pulse)
        on_reports(reports)

    def only() -> Course:
        [digests] = yield Chores([partial(digests_of, compiled.spec)], anywhere=True)
        summary = yield from image_course(compiled, digests, executor, lookout, redo=redo, available=available)
        force = workforce(executor.timesheet, compiled.spec.cluster.prices, retries=lookout.retries)
        summary = replace(summary, workforce=force)
        save_report(summary)
        found.append(summary)

    executor.run([only()], frontier, on_reports=told)
    return found[0]


def _batches(stored: JobState | None) -> Batches:
    """The batch that an output was begun with, by the device that it was begun on."""
    return {stored.numeric_class["device"]: int(stored.parts["batch"])} if stored else {}

"""The course of one image from beginning to end: survey, restore, publish. What is committed is never done again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import Flag, auto
from time import perf_counter
from typing import Any

from ..cluster.agenda import Berth, ClassGone
from ..cluster.classes import Description
from ..cluster.executor import Executor
from ..cluster.worker import Brief, RunReport
from ..models.kinds import identity_of
from ..models.weights import weights_digest
from ..tiling.errors import InputError, JobChanged, TileloomError
from ..tiling.place import Place, place
from ..tiling.source import open_labels, open_mask, open_source
from ..tiling.store import write_json
from .bill import Bill, refuse_unaffordable, tiles_to_solve
from .changes import changed
from .compile import Compiled
from .forecast import bill_of, workers_a_device, workers_here
from .phases import Phase, prepare, publish, restore, weave
from .progress import Watcher
from .spec import JobSpec
from .state import HIDDEN, DegradedTile, JobState, degraded_tiles, settings_bytes
from .workforce import Workforce

_LONG_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b")


class Redo(Flag):
    """What a run may do again: nothing, what was given up, whatever a changed job made stale, or both."""

    NOTHING = 0
    FAILED = auto()
    STALE = auto()


@dataclass(frozen=True)
class Summary:
    """What a run came to; in an archive, whose workers do all its images, one image's has no ``workforce``.

    ``anew`` tells of the generations that were begun since no worker of the numeric class before was there.
    """

    output: Place
    bill: Bill
    report: RunReport
    degraded: list[DegradedTile]
    calls: int
    calls_per_tile: int
    fill: float
    seconds: float
    anew: tuple[str, ...] = ()
    workforce: Workforce | None = None

    @property
    def last_anew(self) -> list[str]:
        """Why the image was begun anew the last time, and how often it was, for a line of many; nothing if never."""
        often = f" (begun anew {len(self.anew)} times)" if len(self.anew) > 1 else ""
        return [reason + often for reason in self.anew[-1:]]

    @property
    def whole(self) -> bool:
        """Whether every tile is restored."""
        return not self.degraded

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
            "network_calls_saved": self.report.spared,
            "halo_bytes": self.report.sent,
            "calls_per_tile": self.calls_per_tile,
            "batch_fill": round(self.fill, 4),
            "begun_anew": list(self.anew),
            "seconds": round(self.seconds, 3),
            **(self.workforce.as_json() if self.workforce else {}),
        }


@dataclass(frozen=True)
class Digests:
    """Digests of an image's files, which take reading all of them."""

    input: str
    mask: str | None
    labels: str | None = None
    instances: str | None = None


def digests_of(spec: JobSpec) -> Digests:
    """Read the files of a job."""
    return Digests(
        open_source(spec.input).digest(),
        open_mask(spec.mask).digest() if spec.mask else None,
        *(open_labels(file).digest() if file else None for file in (spec.labels, spec.instances)),
    )


def image_course(
    compiled: Compiled,
    digests: Digests,
    executor: Executor,
    watcher: Watcher,
    *,
    redo: Redo,
    available: int | None,
    bound: Callable[[Description], None] = lambda _: None,
) -> Phase[Summary]:
    """Go on with an image where it was left, to its end; ``bound`` is told of its workers before it is begun.

    Where all workers of its class are gone it begins anew with those of another.
    """
    while True:
        try:
            return (
                yield from _go_on(compiled, digests, executor, watcher, redo=redo, available=available, bound=bound)
            )
        except ClassGone:
            # The generation that a redo asks for is there.
            redo = Redo.NOTHING


def _go_on(
    compiled: Compiled,
    digests: Digests,
    executor: Executor,
    watcher: Watcher,
    *,
    redo: Redo,
    available: int | None,
    bound: Callable[[Description], None],
) -> Phase[Summary]:
    began = perf_counter()
    spec, output = compiled.spec, place(compiled.spec.output)
    output.sweep()
    stored = JobState.load(output)
    work = yield from _workers(compiled, digests, stored, executor, redo)
    bound(work)
    parts = _parts(compiled, digests, work)
    state = _generation(compiled, stored, parts, redo)
    compiled = replace(compiled, image=replace(compiled.image, root=str(state.root)))
    brief = Brief(compiled.image, settings_bytes(parts))
    with _nothing_left_of_a_refused_job(state, stored):
        state.save()
        bits = yield from prepare(brief, state, watcher)
        needs, own = work.memory, work.device_memory
        solve = tiles_to_solve(bits, compiled.image.plan)
        bill = (
            bill_of(compiled, solve, workers_here(spec) * needs)
            if own is None
            else bill_of(compiled, solve, 0, device_bytes=workers_a_device(spec) * needs)
        )
        ledger = state.ledger()
        if not ledger.begun:
            refuse_unaffordable(bill, output, max_memory=spec.max_memory, available=available, device_memory=own)
    if compiled.image.lattices:
        report = yield from weave(compiled, brief, state, ledger, bits=bits, watcher=watcher)
    else:
        report = yield from restore(brief, state, ledger, bits=bits, watcher=watcher)
    degraded = degraded_tiles(compiled.image.plan, ledger)
    counts = {"tiles restored": sum(bill.solve) - len(degraded), "tiles degraded": len(degraded)}
    given_up = {compiled.image.plan.index(tile.key) for tile in degraded}
    yield from publish(compiled, brief, state, ledger, counts=counts, degraded=given_up, watcher=watcher)
    summary = Summary(
        output=output,
        bill=bill,
        report=report,
        degraded=degraded,
        calls=report.calls,
        calls_per_tile=compiled.calls_per_tile,
        fill=executor.timesheet.usage.fill,
        seconds=perf_counter() - began,
        anew=state.anew,
    )
    save_report(summary)
    state.tidy()
    if not spec.keep_scratch and not degraded:
        state.drop_scratch(ledger)
    return summary


def save_report(summary: Summary) -> None:
    """Put a summary beside the result."""
    write_json(summary.output / HIDDEN / "report.json", summary.as_json())


def _workers(
    compiled: Compiled, digests: Digests, stored: JobState | None, executor: Executor, redo: Redo
) -> Phase[Description]:
    """The workers that the image is bound to: preferably of the class that it was begun with."""
    first = executor.description
    if stored is None or not _takes_any_class(compiled.spec):
        work: Description = yield Berth()
        return work
    own = stored.numeric_class
    here = replace(first, numeric_class=own, batch=_batch_begun(compiled.spec, stored))
    differences = changed(stored.parts, _parts(compiled, digests, here))
    if differences and Redo.STALE not in redo:
        # Before it waits for anybody.
        raise _changed(compiled.spec, differences)
    if not differences and Redo.FAILED not in redo and len(stored.ledger().shards) == compiled.image.result.files:
        # A finished image needs no workers, of whichever class.
        return here
    work = yield Berth(own if here.batch == stored.parts["batch"] else None)
    return work


def _takes_any_class(spec: JobSpec) -> bool:
    """Whether there may be workers of several classes; this process alone is of one."""
    return spec.cluster.workers is not None and spec.cluster.classes == "any"


def _batch_begun(spec: JobSpec, stored: JobState) -> int:
    return int(stored.parts["batch"]) if spec.batch == "auto" else spec.batch


def _parts(compiled: Compiled, digests: Digests, work: Description) -> dict[str, Any]:
    """All that decides the result's bytes, by the name a person would look for."""
    return {
        **compiled.spec.identity(),
        **networks_of(compiled.spec),
        **compiled.resolved,
        "batch": work.batch,
        **asdict(digests),
        "numeric class": dict(work.numeric_class),
    }


def networks_of(spec: JobSpec) -> dict[str, Any]:
    """What stands for a job's networks: of those that have weights, a digest of them."""
    return {**identity_of(spec.model), **_guide(spec)}


def _guide(spec: JobSpec) -> dict[str, Any]:
    """The classifier that guides by what it is: where it lies makes no difference."""
    if spec.guide is None:
        return {}
    told = {**spec.guidance.model_dump(), "classifier": "weights"}
    return {"guidance": told, "classifier": weights_digest(spec.guide.classifier)}


def told_of(differences: list[str]) -> str:
    """Differences between jobs, for a sentence."""
    return _LONG_DIGEST.sub(r"\1...", "; ".join(differences))


def _generation(compiled: Compiled, stored: JobState | None, parts: dict[str, Any], redo: Redo) -> JobState:
    """The generation to work in: the current one, or for a redo a new one that inherits from it."""
    spec = compiled.spec
    state = JobState(place(spec.output), spec.model_dump(mode="json"), parts, compiled.contract)
    if stored is None:
        return state
    differences, anew = changed(stored.parts, parts), stored.anew
    classes = changed(stored.numeric_class, state.numeric_class)
    if classes and _takes_any_class(spec) and _batch_begun(spec, stored) == stored.parts["batch"]:
        # What else has changed was looked at before the image had its workers.
        anew = (*anew, f"no worker of the numeric class before was there: {told_of(classes)}")
    elif differences and Redo.STALE not in redo:
        raise _changed(spec, differences)
    elif not differences and Redo.FAILED not in redo:
        return replace(state, generation=stored.generation, inherits=stored.inherits, anew=anew)
    return replace(state, generation=stored.generation + 1, inherits=(stored.root.name, *stored.inherits), anew=anew)


def _changed(spec: JobSpec, differences: list[str]) -> JobChanged:
    return JobChanged(
        f"{spec.output} was begun by another job ({told_of(differences)}): "
        "add --redo stale to redo what this changes, or choose another output"
    )


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

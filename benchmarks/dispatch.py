"""What it costs to hand a tile to a worker on Ray and to hear of it: tiles that do nothing, in the order of MSR.

Beside it a plain loop over the same tiles in the same order, as one would write it first: one call a tile, one result
at a time. Frontier and ledger are the product's own in both; no pixel is read or written in either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter, process_time
from typing import Any

import numpy as np
import ray

from benchmarks._report import Benchmark, Figures, Limit
from benchmarks._stubs import stub_executor
from tileloom.cluster.agenda import Agenda, Course, Tiles
from tileloom.cluster.classes import Description
from tileloom.cluster.executor import Batches, CrewSpec, unheard
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.cluster.tile_actor import Letter, Placed, Told
from tileloom.cluster.usage import Activity, Doing, Usage
from tileloom.cluster.worker import Brief, Outcome, Report, Ticket
from tileloom.tiling.access import ImagePlan
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.measurement import Measurement
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.pyramid import PyramidSpec
from tileloom.tiling.scaling import Scaling

ACTORS, SLOTS = 2, 16
STUBS = 50, 1000
GROUPS = {"work": 1, "control": 1, "watch": 1}
TILE, STRIDE, GUARD = 256, 192, 32


def done(one: Ticket) -> Report:
    """What a tile comes to that nothing was done for."""
    return Report(one.image, one.tile, Outcome.DONE, inputs="0" * 32, output="0" * 32)


class Idle:
    """An actor of the product's form that settles whatever it is given."""

    def __init__(self, name: str, make_work: object, drain_url: str | None) -> None:
        self._mailbox: list[Ticket] = []

    @ray.method(concurrency_group="control")
    def where(self) -> Placed:
        return Placed(str(ray.get_runtime_context().get_node_id()), perf_counter())

    @ray.method(concurrency_group="control")
    def doing(self) -> Doing:
        return Doing(Activity.WAITING, 0.0)

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        Event().wait()

    @ray.method(concurrency_group="work")
    def load(self, batches: Batches) -> Description:
        return Description({"device": "none"}, 1, SLOTS, 0, None)

    @ray.method(concurrency_group="control")
    def give(self, letter: Letter) -> None:
        self._mailbox.extend(letter.tickets)

    @ray.method(concurrency_group="work")
    def advance(self) -> Told:
        given, self._mailbox = self._mailbox, []
        return Told(Usage(), perf_counter(), [done(one) for one in given])


@ray.remote
class Plain:
    """An actor that is asked for one tile at a time."""

    def settle(self, one: Ticket) -> Report:
        return done(one)


@dataclass(frozen=True)
class Seconds:
    """What a run took: by the clock, and of this process's own time."""

    wall: float
    own: float


def timed(side: int, run: Callable[[Course], object]) -> Seconds:
    """Run a fresh image of side x side tiles."""
    size = TILE + STRIDE * (side - 1)
    plan = WeavePlan((Grid(size, size, TILE, STRIDE, GUARD),))
    brief = Brief(image_of(plan), b"")

    with TemporaryDirectory() as folder:

        def course() -> Course:
            yield Tiles(brief, Ledger(Path(folder) / "ledger"), np.zeros(plan.count, np.uint8))

        began, own = perf_counter(), process_time()
        run(course())
        return Seconds((perf_counter() - began) / plan.count, (process_time() - own) / plan.count)


def image_of(plan: WeavePlan) -> ImagePlan:
    """An image that is never opened."""
    scaling, result = Scaling(0, 255), PyramidSpec(1, plan.levels[0].height, plan.levels[0].width, "uint8", None)
    return ImagePlan("image", "", None, "", 1, scaling, scaling, None, plan, (Measurement(),), (), result)


def plain_loop(course: Course) -> None:
    """One call a tile, at most two under way at each actor, one result at a time."""
    actors = [Plain.remote() for _ in range(ACTORS)]  # type: ignore[attr-defined]
    calls: dict[Any, Any] = {}
    room = dict.fromkeys(actors, 2)
    with Agenda([course], Frontier(), unheard) as agenda:
        while not agenda.over:
            agenda.admit(slots=2 * ACTORS, workers=ACTORS)
            for actor in actors:
                for item in agenda.take(room[actor]):
                    calls[actor.settle.remote(agenda.ticket(item))] = actor
                    room[actor] -= 1
            [call], _ = ray.wait(list(calls), num_returns=1)
            room[calls.pop(call)] += 1
            agenda.settle([ray.get(call)])


def stub_rate(workers: int, *, images: int, side: int) -> float:
    """Tiles a second that the driver hands to so many workers without Ray and records, over many images."""
    size = TILE + STRIDE * (side - 1)
    brief = Brief(image_of(WeavePlan((Grid(size, size, TILE, STRIDE, GUARD),))), b"")

    def course(folder: Path) -> Course:
        yield Tiles(brief, Ledger(folder), np.zeros(side**2, np.uint8))

    with TemporaryDirectory() as folder, stub_executor(workers, done) as executor:
        courses = (course(Path(folder) / str(at)) for at in range(images))
        began = perf_counter()
        executor.run(courses, Frontier())
        return images * side**2 / (perf_counter() - began)


def measure(smoke: bool) -> Figures:
    """Both ways in turn, several times, each judged by its best."""
    side, rounds, images = (60, 2, 40) if smoke else (100, 3, 120)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=2 * ACTORS + 1, **quiet)
    ours: list[Seconds] = []
    plain: list[Seconds] = []
    try:
        actor = ray.remote(concurrency_groups=GROUPS)(Idle)  # type: ignore[call-overload]
        with RayExecutor(int, CrewSpec(ACTORS), actor=actor) as executor:
            for _ in range(rounds):
                ours.append(timed(side, lambda course: executor.run([course], Frontier())))
                plain.append(timed(side, plain_loop))
        few, many = (max(stub_rate(workers, images=images, side=20) for _ in range(rounds)) for workers in STUBS)
    finally:
        ray.shutdown()
    best, theirs = min(one.wall for one in ours), min(one.wall for one in plain)
    return {
        "us_per_tile": 1e6 * best,
        "over_plain_ray": best / theirs,
        "driver_us_per_tile": 1e6 * min(one.own for one in ours),
        "plain_us_per_tile": 1e6 * theirs,
        f"tiles_a_second_{STUBS[0]}_workers": few,
        f"tiles_a_second_{STUBS[1]}_workers": many,
    }


LIMITS: dict[str, Limit] = {
    "us_per_tile": ("<=", 250),
    "over_plain_ray": ("<=", 0.35),
    **{f"tiles_a_second_{workers}_workers": (">=", 4000) for workers in STUBS},
}
BENCHMARK = Benchmark("dispatch", measure, LIMITS)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

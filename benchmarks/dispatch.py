"""What it costs to hand a tile to a worker on Ray and to hear of it: tiles that do nothing, in the order of MSR.

Beside it a plain loop over the same tiles in the same order, as one would write it first: one call a tile, one result
at a time. Frontier and ledger are the product's own in both; no pixel is read or written in either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import numpy as np
import ray

from benchmarks._report import Benchmark, Figures
from tileloom.cluster.executor import CrewSpec, Description, ImageRun, RunReport, settle, ticket
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.cluster.tile_actor import Told
from tileloom.cluster.worker import Outcome, Report, Ticket, Usage
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.grid import Grid
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.plan import WeavePlan

ACTORS, SLOTS = 2, 16
GROUPS = {"work": 1, "control": 1}
TILE, STRIDE, GUARD = 256, 192, 32


def done(one: Ticket) -> Report:
    """What a tile comes to that nothing was done for."""
    return Report(one.image, one.tile, Outcome.DONE, inputs="0" * 32, output="0" * 32)


class Idle:
    """An actor of the product's form that settles whatever it is given."""

    def __init__(self, make_work: Callable[[], object]) -> None:
        self._mailbox: list[Ticket] = []

    @ray.method(concurrency_group="control")
    def where(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="work")
    def load(self) -> Description:
        return Description({"device": "none"}, 1, SLOTS, 0, None)

    @ray.method(concurrency_group="work")
    def open(self, images: Mapping[int, object], settings: bytes) -> None:
        pass

    @ray.method(concurrency_group="control")
    def give(self, tickets: Sequence[Ticket]) -> None:
        self._mailbox.extend(tickets)

    @ray.method(concurrency_group="work")
    def advance(self) -> Told:
        given, self._mailbox = self._mailbox, []
        return Told([done(one) for one in given], Usage())


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


def timed(side: int, run: Callable[[Frontier, dict[int, ImageRun]], object]) -> Seconds:
    """Run a fresh image of side x side tiles."""
    size = TILE + STRIDE * (side - 1)
    plan = WeavePlan((Grid(size, size, TILE, STRIDE, GUARD),))
    frontier = Frontier()
    with TemporaryDirectory() as folder:
        image = frontier.add("image", plan, state=np.zeros(plan.count, np.uint8))
        began, own = perf_counter(), process_time()
        run(frontier, {image: ImageRun(plan, Ledger(Path(folder) / "ledger"))})
        return Seconds((perf_counter() - began) / plan.count, (process_time() - own) / plan.count)


def plain_loop(frontier: Frontier, images: dict[int, ImageRun]) -> None:
    """One call a tile, at most two under way at each actor, one result at a time."""
    actors, total = [Plain.remote() for _ in range(ACTORS)], RunReport()  # type: ignore[attr-defined]
    calls: dict[Any, Any] = {}
    room = dict.fromkeys(actors, 2)
    while not frontier.idle or frontier.leased:
        for actor in actors:
            for item in frontier.take(room[actor]):
                calls[actor.settle.remote(ticket(item, images))] = actor
                room[actor] -= 1
        [call], _ = ray.wait(list(calls), num_returns=1)
        room[calls.pop(call)] += 1
        settle([ray.get(call)], frontier, images, total)


def measure(smoke: bool) -> Figures:
    """Both ways in turn, several times, each judged by its best."""
    side, rounds = (60, 2) if smoke else (100, 3)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=2 * ACTORS + 1, **quiet)
    ours: list[Seconds] = []
    plain: list[Seconds] = []
    try:
        actor = ray.remote(concurrency_groups=GROUPS)(Idle)  # type: ignore[call-overload]
        with RayExecutor(lambda batch: int, CrewSpec(ACTORS), actor=actor) as executor:
            executor.open({}, settings=b"")
            for _ in range(rounds):
                ours.append(timed(side, lambda frontier, images: executor.run(frontier, images, on_reports=_nothing)))
                plain.append(timed(side, plain_loop))
    finally:
        ray.shutdown()
    best, theirs = min(one.wall for one in ours), min(one.wall for one in plain)
    return {
        "us_per_tile": 1e6 * best,
        "over_plain_ray": best / theirs,
        "driver_us_per_tile": 1e6 * min(one.own for one in ours),
        "plain_us_per_tile": 1e6 * theirs,
    }


def _nothing(reports: list[Report]) -> None:
    pass


BENCHMARK = Benchmark("dispatch", measure, {"us_per_tile": ("<=", 250), "over_plain_ray": ("<=", 0.35)})

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

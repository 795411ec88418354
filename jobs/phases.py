"""The phases of a run: survey, restore, publish. Executors do them; here is what is asked for and what is recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import itemgetter, methodcaller

import numpy as np
from numpy.typing import NDArray

from ..cluster.executor import Executor, ImageRun, RunReport
from ..cluster.worker import CACHE_BYTES, Report
from ..tiling.access import ImageAccess, ImagePlan
from ..tiling.cache import ChunkCache
from ..tiling.errors import TileFailed, TileloomError
from ..tiling.frontier import Frontier, OnError, TileState, critical_path_first, oldest_image_first
from ..tiling.ledger import Ledger
from ..tiling.publish import publish_shard, shards_of
from ..tiling.pyramid import Pyramid
from .compile import Compiled
from .describe import attributes_of
from .progress import Watcher
from .state import JobState, earlier_results, tile_states

OnReports = Callable[[list[Report]], None]
POLICIES = {"critical-path": critical_path_first, "oldest": oldest_image_first}
# The number of the one image that a job has.
IMAGE = 0


def prepare(
    image: ImagePlan, executor: Executor, state: JobState, watcher: Watcher, *, settings: bytes
) -> NDArray[np.uint8]:
    """Tell the workers of the image; check it, make the coarser inputs, survey what is to be restored, all once."""
    done = state.bits()
    if done is not None:
        executor.open({IMAGE: image}, settings=settings)
        return done
    access, plan = ImageAccess(image, ChunkCache(CACHE_BYTES)), image.plan
    # The working arrays are made before any worker opens them, so that no two of them do.
    for level in range(len(plan.levels)):
        access.canvas(level)
    executor.open({IMAGE: image}, settings=settings)
    checks, lifts, surveys = access.checks(), access.lifts(), access.surveys()
    watcher.begin("survey", len(checks) + len(lifts) + len(surveys), unit="tasks")
    for _ in executor.each(IMAGE, [methodcaller("check", box) for box in checks]):
        watcher.advance(1)
    # A level's inputs are made of the level's before it, which have to be whole.
    for _, of_level in groupby(lifts, key=itemgetter(0)):
        for _ in executor.each(IMAGE, [methodcaller("lift", *lift) for lift in of_level]):
            watcher.advance(1)
    bits = np.zeros(plan.count, np.uint8)
    found = executor.each(IMAGE, [methodcaller("survey", *one) for one in surveys])
    for (level, tiles), seen in zip(surveys, found, strict=True):
        grid, at = plan.levels[level], plan.tiles(level)
        bits[at.start : at.stop].reshape(grid.rows.count, grid.cols.count)[tiles.slices] = seen
        watcher.advance(1)
    state.save_bits(bits)
    return bits


def restore(
    compiled: Compiled,
    executor: Executor,
    state: JobState,
    ledger: Ledger,
    *,
    bits: NDArray[np.uint8],
    watcher: Watcher,
    on_reports: OnReports,
) -> RunReport:
    """Run every tile that is not done."""
    spec, plan = compiled.spec, compiled.image.plan
    states = tile_states(bits, ledger)
    frontier = Frontier(policy=POLICIES[spec.priority], retries=spec.retries, on_error=OnError(spec.on_error))
    image = frontier.add(compiled.image.name, plan, state=states)
    watcher.begin("restore", int(np.count_nonzero(states == TileState.TODO)), unit="tiles")
    run = ImageRun(plan, ledger, set(frontier.degraded(image)), earlier_results(state, plan.count))

    def told(reports: list[Report]) -> None:
        finished = sum(report.outcome != "failed" for report in reports)
        watcher.advance(finished, f"{executor.usage.calls} calls")
        on_reports(reports)

    report = executor.run(frontier, {image: run}, on_reports=told)
    if stopped := frontier.stopped(image):
        raise TileFailed(f"{stopped}; mend the cause and run `tileloom resume {state.output}`")
    if not frontier.finished(image):
        raise TileloomError(f"nothing can run and tiles are left: {'; '.join(frontier.why())}")
    return report


def publish(
    compiled: Compiled,
    executor: Executor,
    state: JobState,
    ledger: Ledger,
    *,
    counts: dict[str, int],
    degraded: set[int],
    watcher: Watcher,
) -> None:
    """Write the pyramid, every shard once; a new generation lays it out afresh."""
    if not ledger.facts.get("laid out"):
        attributes = attributes_of(compiled, parts=state.parts, counts=counts)
        Pyramid.create(state.output, compiled.image.result, attributes=attributes)
        ledger.commit(facts={"laid out": True})
    levels = [
        [shard for shard in level if shard not in ledger.shards] for level in shards_of(Pyramid.open(state.output))
    ]
    watcher.begin("publish", sum(map(len, levels)), unit="shards")
    for level in levels:
        chores = [partial(publish_shard, output=state.output, shard=shard, degraded=degraded) for shard in level]
        for shard in executor.each(IMAGE, chores):
            ledger.commit(shards=[shard])
            watcher.advance(1)

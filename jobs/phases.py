"""The phases of an image's course: survey, restore, publish. What is asked for, and what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from itertools import groupby
from operator import itemgetter, methodcaller
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..cluster.agenda import Chores, Step, Tiles
from ..cluster.weaving import Lockstep
from ..cluster.worker import Brief, Report, RunReport
from ..tiling.access import ImageAccess
from ..tiling.box import Box
from ..tiling.errors import TileFailed
from ..tiling.frontier import Frontier, OnError, TileState, critical_path_first, oldest_image_first
from ..tiling.inputs import OWNS
from ..tiling.labels import refuse_unknown
from ..tiling.ledger import Ledger
from ..tiling.paused import paused_tiles, sweep_paused
from ..tiling.publish import lay_out, publish_shard, shards_of
from ..tiling.pyramid import Pyramid
from .compile import Compiled
from .describe import attributes_of
from .pace import STEPS
from .progress import Watcher
from .spec import JobSpec
from .state import JobState, earlier_results, tile_states

R = TypeVar("R")
Phase = Generator[Step, Any, R]
OnReports = Callable[[list[Report]], None]
# Above whatever a policy makes of an image and a tile.
_PRIORITY_BIT = 70
POLICIES = {"critical-path": critical_path_first, "oldest": oldest_image_first}


def new_frontier(spec: JobSpec, *, priority: Callable[[int], int] | None = None) -> Frontier:
    """The queue that a job asks for; images of a higher ``priority`` go first."""
    policy = POLICIES[spec.priority]

    def preferring(image: int, rank: int, tile: int) -> int:
        return policy(image, rank, tile) - (priority(image) << _PRIORITY_BIT if priority else 0)

    return Frontier(policy=preferring if priority else policy, retries=spec.retries, on_error=OnError(spec.on_error))


_Begun = tuple[list[Box], list[Box], list[tuple[int, Box]], list[tuple[int, Box]]]


def _begin(access: ImageAccess) -> _Begun:
    """Make the working arrays, before two workers do at once; tells the checks, lifts and surveys to be done."""
    for level in range(len(access.plan.levels)):
        access.canvas(level)
    return access.checks(), access.label_checks(), access.lifts(), access.surveys()


def prepare(brief: Brief, state: JobState, watcher: Watcher) -> Phase[NDArray[np.uint8]]:
    """Check the image, make the coarser inputs, survey what is to be restored, all once."""
    done = state.bits()
    if done is not None:
        return done
    plan = brief.plan.plan
    [(checks, label_checks, lifts, surveys)] = yield Chores([_begin], brief)
    watcher.begin("survey", len(checks) + len(label_checks) + len(lifts) + len(surveys), unit="tasks")

    def told(_: object) -> None:
        watcher.advance(1)

    yield Chores([methodcaller("check", box) for box in checks], brief, told)
    if brief.plan.labels:
        unknown = yield Chores([methodcaller("unknown_labels", box) for box in label_checks], brief, told)
        refuse_unknown(brief.plan.labels, unknown)
    # A level's inputs are made of the level's before it, which have to be whole.
    for _, of_level in groupby(lifts, key=itemgetter(0)):
        yield Chores([methodcaller("lift", *lift) for lift in of_level], brief, told)
    bits = np.zeros(plan.count, np.uint8)
    found = yield Chores([methodcaller("survey", *one) for one in surveys], brief, told)
    for (level, tiles), seen in zip(surveys, found, strict=True):
        grid, at = plan.levels[level], plan.tiles(level)
        bits[at.start : at.stop].reshape(grid.rows.count, grid.cols.count)[tiles.slices] = seen
    state.save_bits(bits)
    return bits


def restore(
    brief: Brief, state: JobState, ledger: Ledger, *, bits: NDArray[np.uint8], watcher: Watcher
) -> Phase[RunReport]:
    """Run every tile that is not done."""
    states = tile_states(bits, ledger)
    watcher.begin("restore", int(np.count_nonzero(states == TileState.TODO)), unit="tiles")
    degraded = set(map(int, np.flatnonzero(states == TileState.DEGRADED)))
    earlier, paused = earlier_results(state, brief.plan.plan.count), paused_tiles(ledger.entries())
    try:
        report: RunReport = yield Tiles(brief, ledger, states, degraded, earlier, paused)
    except TileFailed as failure:
        raise TileFailed(f"{failure}; mend the cause and run `tileloom resume {state.output}`") from None
    sweep_paused(state.root)
    return report


def weave(
    compiled: Compiled,
    brief: Brief,
    state: JobState,
    ledger: Ledger,
    *,
    bits: NDArray[np.uint8],
    watcher: Watcher,
) -> Phase[RunReport]:
    """Take the levels of an image in lock-step from noise to image, coarse ones first."""
    plan, every, total = brief.plan.plan, compiled.spec.lockstep.every, RunReport()
    done = tile_states(bits, ledger) == TileState.DONE
    for level in reversed(range(len(plan.levels))):
        of_level = plan.tiles(level)
        if (bits[of_level.start : of_level.stop] & OWNS).any() and not done[of_level.start : of_level.stop].all():
            watcher.begin("weave", len(of_level) * compiled.calls_per_tile, unit=STEPS)
            try:
                report: RunReport = yield Lockstep(brief, level, ledger, every, watcher.advance)
            except TileFailed as failure:
                raise TileFailed(f"{failure}; mend the cause and run `tileloom resume {state.output}`") from None
            total += report
        # Also of a level that an earlier run finished, and was ended before it could do this.
        yield Chores([methodcaller("drop_saved", level)], brief)
    return total


def publish(
    compiled: Compiled,
    brief: Brief,
    state: JobState,
    ledger: Ledger,
    *,
    counts: dict[str, int],
    degraded: set[int],
    watcher: Watcher,
) -> Phase[None]:
    """Write the pyramid, every shard once; a new generation lays it out afresh."""
    if ledger.facts.get("laid out"):
        pyramid = Pyramid.open(state.output)
    else:
        attributes = attributes_of(compiled, parts=state.parts, counts=counts)
        pyramid = lay_out(state.output, compiled.image.result, root=state.root, attributes=attributes)
        ledger.commit(facts={"laid out": True})

    def told(shard: tuple[int, int, int]) -> None:
        ledger.commit(shards=[shard])
        watcher.advance(1)

    levels = [[shard for shard in level if shard not in ledger.shards] for level in shards_of(pyramid)]
    watcher.begin("publish", sum(map(len, levels)), unit="shards")
    for level in levels:
        chores = [partial(publish_shard, output=state.output, shard=shard, degraded=degraded) for shard in level]
        yield Chores(chores, brief, told)

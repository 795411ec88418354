"""How far a result has come, and whether all that was written is still what it was; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import product
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..cluster.weaving import saved_step
from ..cluster.worker import CACHE_BYTES
from ..tiling.access import ImageAccess
from ..tiling.box import Box
from ..tiling.cache import ChunkCache
from ..tiling.errors import CorruptChunk, InputError
from ..tiling.frontier import TileState
from ..tiling.inputs import CHUNK, boxes
from ..tiling.ledger import Entry, Ledger, Status
from ..tiling.place import Located, Place, place
from ..tiling.pyramid import Pyramid
from .archive import Archive, Ended, Register, is_archive, load, stored_archive
from .compile import Compiled, compile_job, reach_stores
from .manifest import Manifest
from .progress import Silent, Watcher
from .spec import JobSpec
from .state import DROPPED, HIDDEN, JOB, DegradedTile, JobState, degraded_tiles, tile_states


class Phase(StrEnum):
    """What a run of the job would go on with."""

    SURVEYING = "surveying"
    RESTORING = "restoring"
    PUBLISHING = "publishing"
    DONE = "done"


@dataclass(frozen=True)
class LevelStatus:
    """Tiles of one resolution: those with nothing to restore, to do, done and degraded add up to ``tiles``.

    Where blocks advance in lock-step, these are what is counted, and all have committed ``saved`` of ``steps``.
    """

    level: int
    tiles: int
    known: int
    todo: int
    done: int
    degraded: int
    saved: int = 0
    steps: int | None = None


@dataclass(frozen=True)
class JobStatus:
    """How far a result has come; there are no levels before the survey is finished.

    ``anew`` tells of the generations that were begun since no worker of the numeric class before was there.
    """

    output: str
    phase: Phase
    generation: int
    levels: tuple[LevelStatus, ...]
    degraded: tuple[DegradedTile, ...]
    shards_published: int
    shards: int
    anew: tuple[str, ...]

    @property
    def troubled(self) -> bool:
        """Whether something was given up."""
        return bool(self.degraded)

    def as_json(self) -> dict[str, Any]:
        """The status as plain JSON."""
        tiles = [{**tile.key._asdict(), "box": tile.box, "reason": tile.reason} for tile in self.degraded]
        return {**asdict(self), "phase": self.phase.value, "degraded": tiles}


@dataclass(frozen=True)
class Damage:
    """A piece of an array that is not what was written; ``tile`` is whose pixels are lost, if it is a tile's."""

    array: str
    problem: str
    chunk: str | None = None
    tile: str | None = None


@dataclass(frozen=True)
class Verification:
    """What was read back: tiles of the working arrays (0 where these are not kept) and published shards."""

    output: str
    tiles: int
    shards: int
    damage: tuple[Damage, ...]

    def as_json(self) -> dict[str, Any]:
        """The verification as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ArchiveVerification:
    """What was read back of an archive: the images that have ended, and the damage of each that has some."""

    output: str
    images: int
    tiles: int
    shards: int
    damage: dict[str, tuple[Damage, ...]]

    def as_json(self) -> dict[str, Any]:
        """The verification as plain JSON."""
        return asdict(self)


def open_state(output: Located) -> JobState:
    """The job of an output folder; refuses a folder that holds none."""
    output = place(output).absolute()
    output.reach()
    path = output / HIDDEN / JOB
    state = JobState.load(output) if path.is_file() else None
    if state is None:
        raise InputError(f"{output} holds no result of tileloom: check the path")
    return state


def stored_job(state: JobState) -> JobSpec:
    """The job that began an output."""
    try:
        return state.job()
    except ValidationError as error:
        path = state.output / HIDDEN / JOB
        raise InputError(f"{path} is damaged: run the job's own file again, into another output") from error


def job_at(target: str) -> JobSpec | Archive:
    """The job of a job file, or the one that began an output."""
    where = place(target).absolute()
    where.reach()
    if not where.is_folder():
        return load(str(where))
    return stored_archive(where).archive() if is_archive(where) else stored_job(open_state(where))


def _compiled(state: JobState) -> Compiled:
    spec = stored_job(state)
    reach_stores(spec)
    return compile_job(spec, contract=state.contract)


def job_status(state: JobState) -> JobStatus:
    """How far a result has come; a run may be going on."""
    compiled = _compiled(state)
    plan, ledger, bits = compiled.image.plan, state.ledger(), state.bits()
    levels: tuple[LevelStatus, ...] = ()
    if bits is not None:
        states = tile_states(bits, ledger)
        spans = [plan.tiles(level) for level in range(len(plan.levels))]
        levels = tuple(_level(level, states[at.start : at.stop]) for level, at in enumerate(spans))
        if compiled.image.lattices:
            steps = compiled.calls_per_tile
            levels = tuple(replace(one, saved=saved_step(ledger, one.level), steps=steps) for one in levels)
    shards = compiled.image.result.files
    return JobStatus(
        output=str(state.output),
        phase=_phase(levels, published=len(ledger.shards) == shards),
        generation=state.generation,
        levels=levels,
        degraded=tuple(degraded_tiles(plan, ledger)),
        shards_published=len(ledger.shards),
        shards=shards,
        anew=state.anew,
    )


def _level(level: int, states: np.ndarray) -> LevelStatus:
    counts = np.bincount(states, minlength=len(TileState))
    return LevelStatus(
        level,
        tiles=len(states),
        known=int(counts[TileState.BORN] + counts[TileState.RELAY]),
        todo=int(counts[TileState.TODO]),
        done=int(counts[TileState.DONE]),
        degraded=int(counts[TileState.DEGRADED]),
    )


def _phase(levels: tuple[LevelStatus, ...], *, published: bool) -> Phase:
    if not levels:
        return Phase.SURVEYING
    if any(level.todo for level in levels):
        return Phase.RESTORING
    return Phase.DONE if published else Phase.PUBLISHING


def verify_output(state: JobState, watcher: Watcher) -> Verification:
    """Read back every committed tile and shard, and the coarser inputs, and list what is damaged."""
    compiled = _compiled(state)
    compiled = replace(compiled, image=replace(compiled.image, root=str(state.root)))
    try:
        ledger = state.ledger()
        kept = state.bits() is not None and not ledger.facts.get(DROPPED)
    except CorruptChunk as error:
        return Verification(str(state.output), 0, 0, (Damage(str(state.root), str(error)),))
    tiles, damage = 0, []
    # Opening an image makes working arrays that are missing: not before the survey, nor once they were dropped.
    if kept:
        access = ImageAccess(compiled.image, ChunkCache(CACHE_BYTES))
        damage += list(_damaged_inputs(access, watcher))
        tiles, lost = _verify_tiles(access, ledger, watcher)
        damage += lost
    damage += list(_damaged_shards(state, ledger, watcher))
    return Verification(str(state.output), tiles, len(ledger.shards), tuple(damage))


def verify_archive(output: Place, watcher: Watcher) -> ArchiveVerification:
    """Read back every image of an archive that has a result, and list what is damaged of each."""
    state = stored_archive(output)
    manifest = Manifest(state.manifest)
    ended = Register(output, state.generation).ended(manifest)
    numbers = np.flatnonzero(np.isin(ended, (Ended.DONE, Ended.DEGRADED)))
    watcher.begin("verify", len(numbers), unit="images")
    tiles = shards = 0
    damage: dict[str, tuple[Damage, ...]] = {}
    for number in numbers:
        image = manifest[int(number)].id
        result = output / f"{image}.zarr"
        try:
            found = verify_output(open_state(result), Silent())
        except (InputError, CorruptChunk) as error:
            damage[image] = (Damage(str(result), str(error)),)
        else:
            tiles, shards = tiles + found.tiles, shards + found.shards
            if found.damage:
                damage[image] = found.damage
        watcher.advance(1)
    return ArchiveVerification(str(output), len(numbers), tiles, shards, damage)


def _damaged_inputs(access: ImageAccess, watcher: Watcher) -> Iterator[Damage]:
    made = sorted({level for level, _ in access.lifts()})
    pieces = [
        (level, box)
        for level in made
        for box in boxes(access.observations[level].height, access.observations[level].width, CHUNK)
    ]
    if pieces:
        watcher.begin("coarser inputs", len(pieces), unit="chunks")
    for level, box in pieces:
        folder = place(access.image.root) / f"inputs-{level}"
        for name, read in (("y", access.observations[level].read_y), ("flags", access.observations[level].read_flags)):
            try:
                read(box)
            except CorruptChunk as error:
                chunk = f"c/0/{box.top // CHUNK}/{box.left // CHUNK}"
                yield Damage(str(folder / name), str(error), chunk)
        watcher.advance(1)


def _verify_tiles(access: ImageAccess, ledger: Ledger, watcher: Watcher) -> tuple[int, list[Damage]]:
    """(tiles read back, what is damaged); levels whose canvas was not kept are left out."""
    plan, root = access.plan, place(access.image.root)
    kept = {level for level in range(len(plan.levels)) if (root / f"canvas-{level}").is_folder()}

    def written() -> Iterator[Entry]:
        done = (entry for entry in ledger.entries() if entry.status is Status.DONE)
        return (entry for entry in done if plan.key(entry.tile).level in kept)

    total = sum(1 for _ in written())
    watcher.begin("tiles", total, unit="tiles")
    damage = []
    for entry in written():
        try:
            problem = "" if access.stored_hash(entry.tile) == entry.output else "its pixels are not those written"
        except CorruptChunk as error:
            problem = str(error)
        if problem:
            key = plan.key(entry.tile)
            chunks = ", ".join(_chunks(access, entry.tile))
            damage.append(
                Damage(str(root / f"canvas-{key.level}"), problem, chunks, f"{key} ({plan.owns(entry.tile)})")
            )
        watcher.advance(1)
    return total, damage


def _chunks(access: ImageAccess, tile: int) -> Iterator[str]:
    """The canvas's chunks that hold what a tile owns."""
    grid = access.plan.levels[access.plan.key(tile).level]
    owned = access.plan.owns(tile).shift(grid.rows.chunk_offset, grid.cols.chunk_offset)
    at: Box = owned.coarsen(grid.stride)
    return (f"c/0/{row}/{col}" for row, col in product(range(at.top, at.bottom), range(at.left, at.right)))


def _damaged_shards(state: JobState, ledger: Ledger, watcher: Watcher) -> Iterator[Damage]:
    if not ledger.shards:
        return
    watcher.begin("shards", len(ledger.shards), unit="shards")
    try:
        pyramid = Pyramid.open(state.output, mode="r")
    except InputError as error:
        yield Damage(str(state.output), str(error), "zarr.json")
        return
    for level, row, col in sorted(ledger.shards):
        try:
            pyramid.check(level, (row, col))
        except CorruptChunk as error:
            yield Damage(str(state.output / str(level)), str(error), f"c/0/{row}/{col}")
        watcher.advance(1)

"""Everything that can go wrong with a small job, and an independent idea of what must be done again after it."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr

from tests.images import flip_byte
from tileloom.cluster.worker import Outcome
from tileloom.jobs.cli import main
from tileloom.jobs.compile import compile_job
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import Redo, run_job, work_factory
from tileloom.jobs.state import JobState
from tileloom.models.gaussian import Gaussian
from tileloom.tiling.errors import TileFailed


class Stopped(Exception):
    """Stands for whatever ends a run early."""


class StopAfter(Silent):
    """Ends a run once ``count`` pieces of a phase are finished."""

    def __init__(self, phase, count):
        self._phase, self._left, self._now = phase, count, None

    def begin(self, phase, total, *, unit):
        self._now = phase
        self._check()

    def advance(self, count, pulse=None):
        # Tiles are counted by the one who is told which they are.
        if self._now != "restore":
            self.count(count)

    def count(self, count):
        if self._now == self._phase:
            self._left -= count
        self._check()

    def _check(self):
        if self._now == self._phase and self._left <= 0:
            raise Stopped


def run(spec, *, redo=Redo.NOTHING, stop=None, into=None):
    """What became of every tile that a run settled, by key: its last outcome (also put ``into`` a dictionary).

    ``stop`` is the (phase, count of finished pieces) at which the run ends early, and it must.
    """
    plan, found = compile_job(spec).image.plan, {} if into is None else into
    watcher = StopAfter(*stop) if stop else StopAfter(None, 0)

    def note(reports):
        found.update((plan.key(report.tile), report.outcome) for report in reports)
        watcher.count(len(reports))

    try:
        run_job(spec, watcher, redo=redo, on_reports=note)
    except Stopped:
        return found
    assert stop is None, "the run was to be stopped and came to its end"
    return found


def those(outcomes, outcome):
    """The keys of an outcome."""
    return {key for key, found in outcomes.items() if found is outcome}


def redone(outcomes):
    """The keys of tiles that were computed."""
    return those(outcomes, Outcome.DONE)


def command(*words):
    """The exit code of a command line."""
    return main([str(word) for word in words])


def job_file(spec):
    """The job as a file beside its output."""
    path = Path(spec.output).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    return path


def state_of(spec):
    return JobState.load(Path(spec.output))


def snapshot(folder):
    """Every file below a folder: its bytes, and when it was written."""
    files = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def canvas(spec, level, root=None):
    """A level's working array without what lies before its origin; NaN where no tile wrote."""
    grid = compile_job(spec).image.plan.levels[level]
    root = root or Path(state_of(spec).root)
    stored = zarr.open_array(str(root / f"canvas-{level}"), mode="r")[...]
    return stored[:, grid.rows.chunk_offset :, grid.cols.chunk_offset :]


def canvases(spec, root=None):
    return [canvas(spec, level, root) for level in range(len(compile_job(spec).image.plan.levels))]


def chunk_of(spec, key, root=None):
    """The file that holds what an inner tile owns."""
    grid = compile_job(spec).image.plan.levels[key.level]
    owned = grid.owns(key.row, key.col)
    row = (owned.top + grid.rows.chunk_offset) // grid.stride
    col = (owned.left + grid.cols.chunk_offset) // grid.stride
    return (root or Path(state_of(spec).root)) / f"canvas-{key.level}" / "c" / "0" / str(row) / str(col)


def knowledge(image, mask, levels):
    """(pixels or 0, known) of an inpainting at every level: a coarse pixel is known if all below it are."""
    y, known = np.where(mask, 0, image).astype(np.float64), ~mask
    found = [(y, known)]
    for _ in range(levels - 1):
        bands, height, width = y.shape
        y = y.reshape(bands, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
        known = known.reshape(height // 2, 2, width // 2, 2).all(axis=(1, 3))
        found.append((np.where(known, y, 0), known))
    return found


def taken(pixels, mask):
    """What a tile may take of a canvas: nothing (a number no pixel has) outside the mask."""
    return np.where(mask, pixels, np.float32(-99))


def far_from_known(known, level):
    """The unknown pixels of the level after ``level`` that neither cover a known pixel nor touch one that does."""
    fine = known[level][1]
    blocks = fine.reshape(fine.shape[0] // 2, 2, -1, 2).any(axis=(1, 3))
    padded = np.pad(blocks, 1)
    shifts = [padded[i : i + blocks.shape[0], j : j + blocks.shape[1]] for i in range(3) for j in range(3)]
    return ~known[level + 1][1] & ~np.any(shifts, axis=0)


def given_to(plan, key, known, pixels):
    """The arrays a tile is computed from."""
    level, sees = key.level, plan.levels[key.level].sees(key.row, key.col)
    yield known[level][0][:, *sees.slices]
    yield known[level][1][sees.slices]
    context = taken(pixels[level], ~known[level][1])
    for strip in plan.levels[level].context(key.row, key.col):
        yield context[:, *strip.slices]
    if level + 1 < len(plan.levels):
        yield taken(pixels[level + 1], far_from_known(known, level))[:, *sees.coarsen(2).slices]


def stale(plan, before, after):
    """The tiles of an inpainting that must run again, from what each of them is given and nothing else.

    ``before`` and ``after`` are the (knowledge, canvases) of two jobs, without padding: an earlier run, of
    which only tiles with pixels on the canvas count as done, and a complete fresh one.
    """
    must = set()
    for tile in plan:
        key, owns = plan.key(tile), plan.owns(tile)
        level = key.level
        if after[0][level][1][owns.slices].all():
            continue
        then, now = (given_to(plan, key, known, pixels) for known, pixels in (before, after))
        never_done = np.isnan(before[1][level][:, *owns.slices]).all()
        if never_done or not all(np.array_equal(*pair, equal_nan=True) for pair in zip(then, now, strict=True)):
            must.add(key)
    return must


class Faulty:
    """A work that fails at chosen tiles, remembers what it was given, and can round what it makes.

    ``how`` is where it fails: "begin", "step" or "finish" (an exception there that names no tile; in a step it
    takes the whole batch with it), "named" (a step raises TileFailed, with the whole batch) or "nan" (the
    network's output for that tile alone). It does so the first ``fails`` times. Apart from that, ``lack`` is
    raised by the first calls of the methods in ``short``, as many as it says.
    """

    def __init__(self, work, *, bad=frozenset(), how="begin", fails=np.inf, grain=0.0, short=None, lack=None):
        self._work, self._bad, self._how, self._fails, self._grain = work, bad, how, fails, grain
        self._short, self._lack = Counter(short), lack
        self.given, self.tries, self.poisoned = {}, Counter(), []

    def __getattr__(self, name):
        return getattr(self._work, name)

    def begin(self, inputs):
        self._be_short("begin")
        self.given[inputs.key] = inputs
        self.tries[inputs.key] += 1
        self._strike([inputs.key], "begin")
        state = self._work.begin(inputs)
        if self._struck(inputs.key, "nan"):
            self.poisoned.append(state.x_CHW.clone())
        return state

    def _struck(self, key, how):
        return how == self._how and key in self._bad and self.tries[key] <= self._fails

    def _strike(self, keys, how, error=RuntimeError):
        if any(self._struck(key, how) for key in keys):
            raise error("struck by lightning")

    def _be_short(self, method):
        if self._short[method]:
            self._short[method] -= 1
            raise self._lack

    def step(self, states):
        self._be_short("step")
        keys = [state.key for state in states]
        self._strike(keys, "step")
        self._strike(keys, "named", TileFailed)
        return self._work.step(states)

    def finish(self, state):
        self._be_short("finish")
        self._strike([state.key], "finish")
        window = self._work.finish(state)
        return np.round(window / self._grain).astype(np.float32) * np.float32(self._grain) if self._grain else window


def break_work(monkeypatch, **faults):
    """Make every later run's work a :class:`Faulty`; returns the list that these are added to, one a run."""
    made = []

    def factory(compiled, **more):
        make = work_factory(compiled, **more)

        def make_faulty(batches):
            made.append(Faulty(make(batches), **faults))
            return made[-1]

        return make_faulty

    def predict(self, x_BCHW, t_B, conditions):
        eps_BCHW = real_predict(self, x_BCHW, t_B, conditions)
        for row in range(len(conditions)):
            if any(torch.equal(x_BCHW[row], window) for work in made for window in work.poisoned):
                eps_BCHW[row] = torch.nan
        return eps_BCHW

    real_predict = Gaussian.predict
    monkeypatch.setattr("tileloom.jobs.run.work_factory", factory)
    monkeypatch.setattr(Gaussian, "predict", predict)
    return made


def flip(path, *, at=0.5):
    """Flip one bit somewhere in a file."""
    flip_byte(path, int(Path(path).stat().st_size * at))


def truncate(path):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


def empty(path):
    Path(path).write_bytes(b"")


def remove(path):
    Path(path).unlink()


DAMAGES = [
    flip,
    pytest.param(truncate, marks=pytest.mark.slow),
    pytest.param(empty, marks=pytest.mark.slow),
    remove,
]

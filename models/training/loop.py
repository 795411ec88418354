"""The loop that trains: crops in, checkpoints, sheets, a log and at last the weights out.

::

    OUTPUT/model.safetensors     the mean weights, whole at any time, as a job's model takes them
           log.jsonl             a line of scalars every so many steps
           loss.svg              their curve
           sheets/00001000.png   pictures
           checkpoints/          see :mod:`.checkpoints`

A run that goes on reads the newest checkpoint and draws and reads what it would have drawn and read: on a processor
with the same number of threads, its losses are the same to the last bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from safetensors.torch import save

from ...tiling.crops import Crops, Purpose
from ...tiling.errors import InputError, TileloomError
from ...tiling.place import Place
from ...tiling.weave_picture import write_png
from ..device import fix_arithmetic
from ..weights import DESCRIPTION
from .checkpoints import Checkpoints
from .learner import GRADIENT, Learner
from .objective import LOSS, Batch, Draws, checked_of
from .recipe import Course
from .sheets import curve, sheet

MODEL, LOG, CURVE, SHEETS, CHECKPOINTS = "model.safetensors", "log.jsonl", "loss.svg", "sheets", "checkpoints"
HELD_OUT = "held out"
_CHECKED, _SHOWN = 8, 8
"""Batches that a check is the mean of; pictures in a row of a sheet."""


class TrainingFailed(TileloomError, ArithmeticError):
    """A training whose loss or gradient is no number any more; the message names the step and the crops."""


Report = Callable[[int, Mapping[str, float], Sequence[str]], None]
"""Is told of a step: its scalars, and the places of the files that were written in it."""


def ignore(step: int, scalars: Mapping[str, float], files: Sequence[str]) -> None:
    """A report that nobody reads."""


def train(
    learner: Learner,
    crops: Crops,
    course: Course,
    output: Place,
    *,
    seed: int,
    threads: int = 1,
    report: Report = ignore,
) -> int:
    """Train to the end of a course, from its newest checkpoint on; returns the step at which this run began.

    Peers take equal shares of every step's crops. The first of them checks, shows and writes; all report.
    """
    if course.batch % learner.peers.count:
        raise InputError(f"batch is {course.batch}, which {learner.peers.count} workers cannot share evenly")
    fix_arithmetic()
    torch.set_num_threads(threads)
    run = _Run(learner, crops, course, output, seed)
    began = run.go_on()
    with ThreadPoolExecutor(1) as pool:
        # Crops of the next step are read while this one is learned from.
        ahead = _ahead(pool, run, began)
        for step in range(began, course.steps):
            batch, ahead = ahead.result(), _ahead(pool, run, step + 1)
            files: list[str] = []
            scalars = run.step(step, batch, files)
            report(step + 1, scalars, files)
    return began


def _ahead(pool: ThreadPoolExecutor, run: _Run, step: int) -> Future[Batch]:
    return pool.submit(run.share, min(step, run.course.steps - 1))


class _Run:
    """One run of a training: what it has come to, between two checkpoints."""

    def __init__(self, learner: Learner, crops: Crops, course: Course, output: Place, seed: int) -> None:
        self.learner, self.crops, self.course, self.output, self.seed = learner, crops, course, output, seed
        self.checkpoints = Checkpoints(output / CHECKPOINTS)
        self.lines: list[dict[str, float]] = []
        self.since: list[Mapping[str, float]] = []

    def go_on(self) -> int:
        """The step that comes next, all as it was left before it."""
        if self.learner.peers.rank == 0:
            self.output.sweep()
        found = self.checkpoints.newest()
        if found is None:
            return 0
        self.learner.restore(found.tensors)
        # What was logged after the checkpoint will be logged again.
        self.lines = [line for line in _read_log(self.output / LOG) if line["step"] <= found.step]
        self.since = list(found.facts["since"])
        return found.step

    def step(self, step: int, batch: Batch, files: list[str]) -> Mapping[str, float]:
        """One step, and all that falls due after it."""
        rank = self.learner.peers.rank
        scalars = self.learner.learn(batch, Draws(self.seed, step, rank, self.learner.device), step)
        for name in (LOSS, GRADIENT):
            if not math.isfinite(scalars[name]):
                raise TrainingFailed(
                    f"the {name} is {scalars[name]} at step {step + 1}: lower the rate, or look at what was learned "
                    f"from: {', '.join(batch.where)}"
                )
        if rank:
            return scalars
        self.since.append(scalars)
        done, course = step + 1, self.course
        last = done == course.steps
        if done % course.log == 0 or last:
            # Scalars of the steps that had them: not all steps have the same.
            means = {name: float(np.mean([one[name] for one in self.since if name in one])) for name in scalars}
            self.lines.append({"step": done, **means})
            self.since = []
        if self.crops.checks and (done % course.check == 0 or last):
            scalars = {**scalars, HELD_OUT: self._check()}
            self.lines.append({"step": done, HELD_OUT: scalars[HELD_OUT]})
        if done % course.sheet == 0 or last:
            files += self._show(done)
        if done % course.checkpoint == 0 or last:
            files += self._commit(done)
        return scalars

    def share(self, step: int) -> Batch:
        """This peer's share of the crops of a step."""
        peers, batch = self.learner.peers, self.course.batch
        count = batch // peers.count
        return self.batch("train", step * batch + peers.rank * count, count)

    def batch(self, use: Purpose, first: int, count: int) -> Batch:
        """Crops that follow one another in number."""
        taken = [self.crops.take(use, first + number) for number in range(count)]
        x_BCHW = torch.from_numpy(np.stack([crop.pixels for crop in taken])).to(self.learner.device)
        labels = [crop.label for crop in taken if crop.label is not None]
        y_B = torch.tensor(labels, device=self.learner.device) if len(labels) == count else None
        shown = [[array for _, array in crop.labels.arrays()] for crop in taken if crop.labels]
        labels_BNHW = torch.from_numpy(np.array(shown, np.int64)).to(self.learner.device) if shown else None
        where, scenes = tuple(crop.where for crop in taken), tuple(crop.scene for crop in taken)
        return Batch(x_BCHW, y_B, where, scenes, labels_BNHW)

    def _check(self) -> float:
        """The loss of the mean weights, or what tells more, on the same crops and noise each time."""
        found, told = [], checked_of(self.learner.objective)
        with self.learner.averaged():
            for number in range(_CHECKED):
                draws = Draws(self.seed, -1 - number, device=self.learner.device)
                batch = self.batch("check", number * self.course.batch, self.course.batch)
                found.append(float(self.learner.objective.loss(batch, draws, number)[told]))
        return float(np.mean(found))

    def _show(self, done: int) -> list[str]:
        """A sheet of pictures, where the objective has any."""
        batch = self.batch("check" if self.crops.checks else "train", 0, _SHOWN)
        with self.learner.averaged():
            draws = Draws(self.seed, -1, device=self.learner.device)
            pictures = self.learner.objective.pictures(batch, draws)
        if pictures is None:
            return []
        where = self.output / SHEETS / f"{done:08d}.png"
        write_png(where, sheet(pictures))
        return [str(where)]

    def _commit(self, done: int) -> list[str]:
        """The log, its curve, the weights and the checkpoint, which counts."""
        log, drawn, model = (self.output / name for name in (LOG, CURVE, MODEL))
        log.write("".join(json.dumps(line) + "\n" for line in self.lines).encode())
        drawn.write(curve(self.lines, (LOSS, HELD_OUT)).encode())
        model.write(self._published(done))
        where = self.checkpoints.commit(done, self.learner.saved(), {"since": self.since})
        return [str(place) for place in (log, drawn, model, where)]

    def _published(self, done: int) -> bytes:
        dtype = torch.float16 if self.course.half else torch.float32
        tensors = {
            name: tensor.detach().to(device="cpu", dtype=dtype).contiguous()
            for name, tensor in self.learner.mean_weights().items()
        }
        told = self.learner.objective.describe()
        told["provenance"] = {**told.get("provenance", {}), "data": self.crops.digest, "steps": done}
        # One text alone: several would be stored in any order, and so in other bytes each time.
        return bytes(save(tensors, {DESCRIPTION: json.dumps(told)}))


def _read_log(log: Place) -> list[dict[str, float]]:
    return [json.loads(line) for line in log.read().decode().splitlines()] if log.is_file() else []

"""Running a training: what it will do, whether it may go on, and what it comes to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from time import monotonic
from typing import Any

from .. import __version__
from ..models.training.build import learner_of, numerics_of
from ..models.training.learner import Learner
from ..models.training.loop import HELD_OUT, MODEL, Report, train
from ..models.training.objective import LOSS
from ..models.training.peers import Alone, Group, Peers
from ..models.training.recipe import Course
from ..tiling.crops import Crops
from ..tiling.errors import InputError, JobChanged
from ..tiling.lock import hold
from ..tiling.place import Place, place
from ..tiling.store import write_json
from .changes import changed
from .pace import counted
from .progress import Display
from .train_spec import TrainSpec

TRAINING = "training.json"
# Of a hundred numbers, a mean that keeps so much of itself forgets all but a few of the last.
_KEEP = 0.95
_BYTES = 4
_ALONE = Alone()
# Needs the extra that brings Ray Train: only where there are several workers.
_TOGETHER = "..cluster.training"


@dataclass(frozen=True)
class Pace:
    """How training goes: the loss of late, crops learned from a second, and the time that is left."""

    loss: float
    held_out: float | None
    crops_per_second: float
    seconds_left: float | None

    def __str__(self) -> str:
        checked = "" if self.held_out is None else f", held out {self.held_out:.4g}"
        return f"loss {self.loss:.4g}{checked}, {self.crops_per_second:.3g} crops/s"

    def as_json(self) -> dict[str, Any]:
        """The pace as plain JSON."""
        return asdict(self)


class Stopwatch:
    """Knows how fast steps come, of late rather than since the beginning."""

    def __init__(self, course: Course) -> None:
        """Nothing was seen yet."""
        self._course, self._at = course, monotonic()
        self._pace: Pace | None = None

    def step(self, step: int, scalars: Mapping[str, float]) -> Pace:
        """A step was done."""
        took, self._at = monotonic() - self._at, monotonic()
        before = self._pace
        seconds = took if before is None else self._late(self._course.batch / before.crops_per_second, took)
        self._pace = Pace(
            loss=scalars[LOSS] if before is None else self._late(before.loss, scalars[LOSS]),
            held_out=scalars.get(HELD_OUT) or (before.held_out if before else None),
            crops_per_second=self._course.batch / max(seconds, 1e-9),
            seconds_left=seconds * (self._course.steps - step),
        )
        return self._pace

    @staticmethod
    def _late(before: float, now: float) -> float:
        return _KEEP * before + (1 - _KEEP) * now


class _Shown:
    """Shows whoever looks on how a training goes; remembers its first step and how it went last."""

    def __init__(self, course: Course, watcher: Display) -> None:
        self._watch, self._watcher, self._seen = Stopwatch(course), watcher, 0
        self.first: int | None = None
        self.last: Pace | None = None

    def __call__(self, step: int, scalars: Mapping[str, float], files: Sequence[str]) -> None:
        """A step was done; after a loss of workers it may have been done before."""
        self.first = step if self.first is None else self.first
        self.last = self._watch.step(step, scalars)
        self._watcher.advance(max(0, step - self._seen), self.last)
        self._seen = max(self._seen, step)


@dataclass(frozen=True)
class Trained:
    """What a run of a training came to; the loss is None where there was nothing left to do."""

    model: str
    began: int
    steps: int
    loss: float | None
    held_out: float | None
    seconds: float


@dataclass(frozen=True)
class Training:
    """A training that was asked for, all of it checked but nothing begun."""

    spec: TrainSpec
    crops: Crops
    learner: Learner

    @classmethod
    def prepared(cls, spec: TrainSpec, peers: Peers = _ALONE) -> Training:
        """Open the data and make the network."""
        crops = Crops(spec.scenes(), spec.cutting)
        # An archive without a single whole crop is refused here.
        crops.take("train", 0)
        made = {"version": __version__, "training": spec.identity()}
        subject = spec.subject(crops.bands, len(crops.scenes))
        learner = learner_of(subject, spec.learning, crops, provenance=made, peers=peers)
        return cls(spec, crops, learner)

    @property
    def output(self) -> Place:
        """Where it goes."""
        return place(self.spec.output)

    def lines(self) -> Iterator[str]:
        """What will be done and what it takes, a line each."""
        spec, crops, parameters = self.spec, self.crops, self.learner.parameters
        course, images = spec.course, counted(len(crops.scenes), "image")
        yield f"data: {images}, {crops.pixels / 1e6:.3g} million pixels of {crops.bands} bands"
        yield f"range: {', '.join(f'{low:g} to {high:g}' for low, high in dict.fromkeys(crops.spans))}"
        kind, size = spec.network.kind, (2 if spec.half else 4) * self.learner.published / 1e6
        yield f"network: {kind}, {parameters:,} parameters, a file of {size:.3g} MB"
        yield (
            f"training: {course.steps:,} steps of {course.batch} crops of {spec.crop} pixels a side, "
            f"in {spec.precision} on {self.learner.device}"
        )
        # Weights, their mean, gradients and two moments; a checkpoint has no gradients.
        yield (
            f"memory: {5 * _BYTES * parameters / 1e6:.3g} MB and what a batch takes; "
            f"two checkpoints on disk: {2 * 4 * _BYTES * parameters / 1e6:.3g} MB"
        )
        yield f"output: {spec.output}"

    def run(self, watcher: Display) -> Trained:
        """Train, from the newest checkpoint on."""
        spec, began_at = self.spec, monotonic()
        self.output.reach()
        self.output.room()
        self._refuse_other()
        learn = self.learn if spec.cluster.workers == 1 else _together(spec)
        with hold(self.output, of=spec.output):
            self._begin(watcher)
            watcher.begin("train", spec.steps, unit="steps")
            shown = _Shown(spec.course, watcher)
            learn(shown)
        last = shown.last
        began = spec.steps if shown.first is None else shown.first - 1
        loss, held_out = (None, None) if last is None else (last.loss, last.held_out)
        return Trained(str(self.output / MODEL), began, spec.steps, loss, held_out, monotonic() - began_at)

    def learn(self, report: Report) -> None:
        """Train in this process, alone or as one of several."""
        spec = self.spec
        train(self.learner, self.crops, spec.course, self.output, seed=spec.seed, threads=spec.threads, report=report)

    def _refuse_other(self) -> None:
        """Refuse a folder of something else, and a training that would not go on as it began."""
        begun = self.output / TRAINING
        if not begun.is_file():
            others = [found.name for found in self.output.children() if not found.name.startswith("lock")]
            if self.output.is_file() or others:
                raise InputError(f"{self.spec.output} exists and is no training: choose another output")
            return
        stored = json.loads(begun.read())
        differences = changed(stored["identity"], self.spec.identity())
        if stored["data"] != self.crops.digest:
            differences.append("data: its images are others, or in another order")
        if differences:
            raise JobChanged(
                f"{self.spec.output} was begun as another training ({'; '.join(differences)}): change it back, or "
                "choose another output"
            )
        if stored["steps"] > self.spec.steps:
            raise JobChanged(
                f"{self.spec.output} was trained for {stored['steps']} steps already, and steps is {self.spec.steps}: "
                "give as many or more"
            )

    def _begin(self, watcher: Display) -> None:
        """Write down what is trained, if nobody has; say where numbers will differ in their last bits."""
        begun = self.output / TRAINING
        numerics = numerics_of(self.learner.device) | {"workers": str(self.spec.cluster.workers)}
        if begun.is_file():
            before = json.loads(begun.read())["numerics"]
            if other := changed(before, numerics):
                watcher.say(f"goes on elsewhere, so that losses differ in their last bits ({'; '.join(other)})")
        told = {"identity": self.spec.identity(), "data": self.crops.digest, "steps": self.spec.steps}
        write_json(begun, {**told, "numerics": numerics, "version": __version__})


@dataclass(frozen=True)
class Share:
    """What each of several workers does: it opens the data, makes the same network, and learns with the others."""

    spec: TrainSpec

    def __call__(self, report: Report) -> None:
        """Train, as one of the group that this process is in."""
        Training.prepared(self.spec, Group()).learn(report)


def _together(spec: TrainSpec) -> Callable[[Report], None]:
    """What lets several workers train."""
    try:
        train_on = import_module(_TOGETHER, __package__).train_on
    except ImportError as error:
        raise InputError(f"cluster.workers needs Ray Train ({error}): pip install tileloom[train]") from None
    return partial(train_on, Share(spec), spec.crew)

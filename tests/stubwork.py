"""A TileWork of numpy alone, for workers that start at once, and the faults they are told to have.

Faults are files in a folder: ``FOLDER/kill-level-row-col`` and such. One that strikes ``once`` is removed by
the process that it strikes, after that has written down who it was: the proof that the fault was there.
"""

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tileloom.tiling.canvas import Canvas
from tileloom.tiling.errors import TileFailed

STEPS = 3
# Seconds that a tile stays at a step if it is told to: longer than it takes until a warning is heard.
DWELL = 3.0


@dataclass(frozen=True)
class Halfway:
    """A tile somewhere in its schedule."""

    key: object
    window: object
    steps: int = 0


def watch_writes(faults, named):
    """Die once a tile's pixels are written, where a fault of that name is due."""
    write = Canvas.write

    def watched(canvas, row, col, pixels):
        told = write(canvas, row, col, pixels)
        if faults.due(named.format(canvas=canvas.folder.name, row=row, col=col)):
            die()
        return told

    Canvas.write = watched


@dataclass(frozen=True)
class StubFactory:
    """Makes the work on the worker; ``faults`` is the folder of what is to go wrong."""

    shape: tuple
    faults: Path
    batch: int | None = 2
    pause: float = 0.0

    def __call__(self, batches=None):
        return StubWork(self)


class Faults:
    """What is to go wrong, by name; struck is who was hit."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def plan(self, name, *, once=True):
        (self.folder / name).write_text("once" if once else "always")

    def due(self, name):
        """Whether a fault strikes now; it then leaves a line behind."""
        path = self.folder / name
        try:
            once = path.read_text() == "once"
            if once:
                path.unlink()
        except FileNotFoundError:
            return False
        with (self.folder / "struck").open("a") as lines:
            lines.write(f"{name} {os.getpid()}\n")
        return True

    @property
    def struck(self):
        path = self.folder / "struck"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def place(key):
    return f"{key.level}-{key.row}-{key.col}"


class StubWork:
    """Adds up what a tile is given, position by position, so that any wrong or missing neighbour shows."""

    def __init__(self, factory):
        self._factory, self._faults = factory, Faults(factory.faults)
        if self._faults.due("kill-load"):
            die()
        self.slots = 2 * (factory.batch or 2)
        self.batch_shape = (factory.batch or 2, *factory.shape)
        self.calls_per_tile = STEPS
        self.device_memory = None
        self.numeric_class = {"device": "stub", "kind": "odd" if self._faults.due("odd-class") else "even"}
        self._note("pids")
        watch_writes(self._faults, "kill-written-{row}-{col}")

    def _note(self, name):
        with (self._faults.folder / name).open("a") as lines:
            lines.write(f"{os.getpid()}\n")

    def memory(self, batch):
        return 1000 * batch

    def begin(self, inputs):
        box = inputs.box
        ramp = np.add.outer(np.arange(box.top, box.bottom), np.arange(box.left, box.right)) / 1000
        window = inputs.y.mean(axis=0) + ramp + np.zeros(self._factory.shape)
        if inputs.context is not None:
            known = np.broadcast_to(inputs.context_mask, window.shape)
            window = np.where(known, inputs.context, window + inputs.context[known].mean())
        return Halfway(inputs.key, window)

    def step(self, states):
        time.sleep(self._factory.pause)
        return [self._stepped(state) for state in states]

    def _stepped(self, state):
        name = place(state.key)
        if self._faults.due(f"kill-{name}"):
            die()
        if self._faults.due(f"term-{name}"):
            os.kill(os.getpid(), signal.SIGTERM)
        if self._faults.due(f"hang-{name}"):
            time.sleep(3600)
        if self._faults.due(f"dwell-{name}"):
            time.sleep(DWELL)
        if self._faults.due(f"fail-{name}"):
            return TileFailed(f"{state.key} was told to fail")
        return replace(state, steps=state.steps + 1)

    def finished(self, state):
        return state.steps == STEPS

    def finish(self, state):
        self._note("finished")
        # Another class has other bits.
        return np.sin(state.window + (self.numeric_class["kind"] == "odd")).astype(np.float32)

    def pack(self, state):
        return bytes([state.steps]) + state.window.tobytes()

    def unpack(self, inputs, packed):
        window = np.frombuffer(packed, offset=1).reshape(self._factory.shape)
        return replace(self.begin(inputs), window=window, steps=packed[0])

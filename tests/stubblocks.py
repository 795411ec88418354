"""A BlockWork of numpy alone, for workers that start at once, and the faults they are told to have.

Faults are files, as in ``stubwork``: ``kill-round-block`` and ``term-round-block`` strike before a block's round,
``kill-saved-level-step-row-col`` and ``kill-canvas-level-row-col`` once its pixels are written.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.looms import Adder
from tests.stubwork import Faults, die, watch_writes


@dataclass(frozen=True)
class BlocksFactory:
    """Makes the work on the worker; ``faults`` is the folder of what is to go wrong, ``deadly`` an image to die of."""

    faults: Path
    steps: int = 8
    phases: int = 2
    pause: float = 0.0
    deadly: str = ""
    room: int = 2**30

    def __call__(self, batches=None):
        return StubBlocks(self)


class StubBlocks(Adder):
    """Adds up what is around a block, notes every round that it does, and dies when it is told to."""

    def __init__(self, factory):
        super().__init__(steps=factory.steps, phases=factory.phases, room=factory.room)
        self._faults, self._pause, self._deadly = Faults(factory.faults), factory.pause, factory.deadly
        self.batch_shape, self.device_memory = (self.slots, 1, 1, 1), None
        self.numeric_class = {"device": "stub"}
        watch_writes(self._faults, "kill-{canvas}-{row}-{col}")

    def memory(self, batch):
        return 1000 * batch

    def begin(self, lattice, number, inputs, saved, at):
        self._note(number, at)
        return super().begin(lattice, number, inputs, saved, at)

    def advance(self, blocks):
        time.sleep(self._pause)
        for block, _ in blocks:
            if block.inputs.image == self._deadly and block.round >= 3:
                die()
            name = f"{block.round + 1}-{block.number}"
            if self._faults.due(f"term-{name}"):
                os.kill(os.getpid(), signal.SIGTERM)
            if self._faults.due(f"kill-{name}"):
                die()
        after = super().advance(blocks)
        for block in after:
            self._note(block.number, block.round)
        return after

    def _note(self, block, at):
        with (self._faults.folder / "rounds").open("a") as lines:
            lines.write(f"{os.getpid()} {block} {at}\n")

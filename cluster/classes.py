"""Workers that compute otherwise than others: their numeric classes.

A *numeric class* is all that a tile's bits depend on besides the job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..tiling.work import Work

NumericClass = Mapping[str, str]


@dataclass(frozen=True)
class Description:
    """What a job has to know of its workers' work; bytes for all the slots of one worker."""

    numeric_class: NumericClass
    batch: int
    slots: int
    memory: int
    device_memory: int | None

    @property
    def device(self) -> str:
        """The device's model."""
        return self.numeric_class["device"]


def describe(work: Work) -> Description:
    """What a job has to know of a worker's work."""
    return Description(work.numeric_class, work.batch_shape[0], work.slots, work.memory(work.slots), work.device_memory)


def pool_of(numeric_class: NumericClass) -> str:
    """The pool of all workers of a class, by which tiles and chores are kept for them."""
    return json.dumps(dict(numeric_class), sort_keys=True)


def differences(ours: NumericClass, theirs: NumericClass) -> str:
    """What a worker has otherwise, in words."""
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name}: {theirs.get(name)} in place of {ours.get(name)}" for name in names)

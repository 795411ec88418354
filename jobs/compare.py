"""Mask-shift or joint weaving: what either would cost a job on its own workers, and which one is done sooner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ..tiling.errors import InputError
from ..tiling.frontier import TileState
from ..tiling.simulate import rounds
from .bill import gigabytes, tiles_to_solve
from .compile import Compiled, compile_job
from .forecast import bill_of, slots_of, survey_image, workers_of
from .progress import Silent
from .state import fresh_states

MSR, JOINT = "msr", "joint"
# Joint weaving needs state and halos: it has to be so much sooner done.
_WORTH = 0.9
# Where there are more tiles, their order hardly matters any more.
_MOST_QUEUED = 100_000


@dataclass(frozen=True)
class WeaveCost:
    """What a weave costs: network calls in all, and those that come one after the other on the job's workers.

    A worker has ``memory_bytes`` of state in memory and ``file_bytes`` in files of its machine; workers send each other
    ``step_bytes`` at every step of the finest level, and ``sent_bytes`` in all.
    """

    calls: int
    calls_one_by_one: int
    memory_bytes: int = 0
    file_bytes: int = 0
    step_bytes: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True)
class Comparison:
    """Both weaves on ``workers`` of ``slots`` each; ``better`` is the one to take, ``why`` the reason in words."""

    workers: int
    slots: int
    msr: WeaveCost
    joint: WeaveCost
    better: str
    why: str


def compared(compiled: Compiled, bits: NDArray[np.uint8]) -> Comparison | None:
    """Both weaves of a job that could be woven either way; None: it could not.

    ``bits`` are of the job's own tiles or blocks.
    """
    spec, weave = compiled.spec, compiled.weave
    if weave not in (MSR, JOINT) or spec.parity.carry:
        return None
    other = {"weave": JOINT if weave == MSR else MSR, "guard": "auto"}
    try:
        alike = compile_job(spec.model_copy(update=other), contract=compiled.contract)
    except InputError:
        # What this job asks of tiles or blocks the other weave refuses, so that there is no choice.
        return None
    costs: dict[str, WeaveCost] = {
        weave: _cost(compiled, bits),
        alike.weave: _cost(alike, survey_image(alike, Silent())),
    }
    workers, slots = workers_of(spec), slots_of(spec, compiled.contract)
    return _judged(costs[MSR], costs[JOINT], workers=workers, slots=slots)


def _cost(compiled: Compiled, bits: NDArray[np.uint8]) -> WeaveCost:
    spec, plan = compiled.spec, compiled.image.plan
    bill = bill_of(compiled, tiles_to_solve(bits, plan))
    if (told := bill.lockstep) is not None:
        traded = told.exchanges[0]
        step = sum(traded.phase_bytes)
        return WeaveCost(
            bill.calls, told.calls_one_by_one, told.memory_bytes, told.file_bytes, step, traded.total_bytes
        )
    states = fresh_states(bits)
    at_once = workers_of(spec) * slots_of(spec, compiled.contract)
    if plan.count <= _MOST_QUEUED:
        chain = rounds([plan], [states], slots=at_once)
    else:
        chain = max(plan.critical_path, ceil(np.count_nonzero(states == TileState.TODO) / at_once))
    return WeaveCost(bill.calls, chain * compiled.calls_per_tile)


def _judged(msr: WeaveCost, joint: WeaveCost, *, workers: int, slots: int) -> Comparison:
    if joint.calls_one_by_one < _WORTH * msr.calls_one_by_one:
        better = JOINT
        why = "its windows all advance together, and with msr a tile waits for those before it"
    elif joint.calls > msr.calls / _WORTH:
        better, why = MSR, "it runs only the tiles that have something to restore, and joint all windows"
    else:
        sooner = msr.calls_one_by_one < _WORTH * joint.calls_one_by_one
        better, why = MSR, f"it is done {'sooner' if sooner else 'about as soon'}, and needs neither state nor halos"
    return Comparison(workers, slots, msr, joint, better, why)


def lines(found: Comparison) -> Iterator[str]:
    """The comparison in words."""
    many = "" if found.workers == 1 else "s"
    yield (
        f"weave msr: {found.msr.calls} network calls, about {found.msr.calls_one_by_one} one after the other on "
        f"{found.workers} worker{many} of {found.slots} at a time; no state, nothing between workers"
    )
    joint = found.joint
    filed = f" and {gigabytes(joint.file_bytes)} in files" if joint.file_bytes else ""
    between = (
        f"{gigabytes(joint.step_bytes)} a step between workers, {gigabytes(joint.sent_bytes)} in all"
        if joint.sent_bytes
        else "nothing between workers"
    )
    yield (
        f"weave joint: {joint.calls} network calls, about {joint.calls_one_by_one} one after the other; "
        f"{gigabytes(joint.memory_bytes)} of state a worker in memory{filed}, {between}"
    )
    yield f"better here: {found.better}, since {found.why}"

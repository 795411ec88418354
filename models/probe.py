"""Which batch, and how many lanes, restore the most tiles a second: found by a short trial, once a job."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from time import perf_counter
from typing import Protocol

from ..tiling.errors import OutOfMemory
from .device import CPU, uncompiled
from .engine import DependentRows

# Of the batches that come this near to the fastest the smallest is taken, of the lanes the most: a busy
# neighbour must not decide.
NEAR = 0.9
LARGEST_ON_CPU, LARGEST = 8, 64
# After so long no further shape is tried: a network that is slow at one tile gains little by more.
SECONDS = 10.0


class Rated(Protocol):
    """Whatever shows windows to a network, as fast as it does."""

    def rate(self) -> float:
        """Windows a second with every slot in use."""
        ...


Make = Callable[[int, int], Rated]


def fastest_shape(
    make: Make, *, batch: int | None, lanes: int | None, device: str, worthwhile: Callable[[int, int], bool]
) -> tuple[int, int]:
    """(batch, lanes), of which what is None is found; ``make`` and ``worthwhile`` take both.

    A shape whose rows depend on their slot is passed over. Networks run as they are, not compiled: to compile
    each shape would take longer than any of them saves.
    """
    if batch and lanes:
        return batch, lanes

    @cache
    def rate(batch: int, lanes: int) -> float:
        if not worthwhile(batch, lanes):
            return 0.0
        try:
            return make(batch, lanes).rate()
        except (DependentRows, OutOfMemory):
            return 0.0

    with uncompiled():
        if lanes is None:
            lanes = max(_near_best({count: rate(batch or 1, count) for count in {1, most_lanes(device)}}))
        return batch or _batch(lambda batch: rate(batch, lanes), LARGEST_ON_CPU if device == CPU else LARGEST), lanes


def most_lanes(device: str) -> int:
    """One a core; an accelerator runs kernels side by side of its own accord."""
    return len(os.sched_getaffinity(0)) if device == CPU else 1


def _batch(rate: Callable[[int], float], largest: int) -> int:
    """Among powers of two, as many as the time allows."""
    began, rates = perf_counter(), {1: rate(1)}
    batch = 2
    while batch <= largest and perf_counter() - began < SECONDS:
        rates[batch] = rate(batch)
        batch *= 2
    return min(_near_best(rates))


def _near_best(rates: Mapping[int, float]) -> list[int]:
    enough = NEAR * max(rates.values())
    return [count for count, rate in rates.items() if rate >= enough]

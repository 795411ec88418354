"""Noise schedules: betas, respacing, time travel, and the tables a sampler reads. All float64, no tensors.

An *index* counts the kept steps, 0 the cleanest; a *timestep* is what the network was trained with
(0 to ``total - 1``). Index -1 means clean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..tiling.errors import InputError

Table = NDArray[np.float64]
Kind = Literal["reverse", "undo"]
Spacing = Literal["even", "stride", "fine"]


def betas(name: str, count: int = 1000, *, start: float | None = None, end: float | None = None) -> Table:
    """The variance added at each of ``count`` steps, by the schedule's name.

    "linear", "scaled_linear" (linear in the square root) and "sigmoid" run from ``start`` to ``end``, if left
    out from 0.1 / count to 20 / count; "cosine" has ends of its own.
    """
    low = 0.1 / count if start is None else start
    high = 20.0 / count if end is None else end
    if name == "linear":
        return np.linspace(low, high, count)
    if name == "scaled_linear":
        return np.linspace(math.sqrt(low), math.sqrt(high), count) ** 2
    if name == "sigmoid":
        return low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, count)))
    if name == "cosine":
        left = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        return np.array([min(1 - after / before, 0.999) for before, after in pairwise(left)])
    raise InputError(f"schedule {name!r} is not known: use linear, scaled_linear, sigmoid or cosine")


def beta_table(given: str | Sequence[float], count: int) -> Table:
    """The betas of a chain of ``count`` steps, given by name or one by one."""
    return betas(given, count) if isinstance(given, str) else np.array(given, np.float64)


def space_timesteps(total: int, spec: str | Sequence[int]) -> tuple[int, ...]:
    """The timesteps that are kept, ascending.

    ``spec`` is "ddimN" (a whole stride that keeps exactly N), or the number kept in each of several
    equal sections: a sequence, or a string such as "250" or "10,15,20".
    """
    if isinstance(spec, str) and spec.startswith("ddim"):
        return _even_timesteps(total, *_counts(spec, spec.removeprefix("ddim")))
    counts = _counts(spec, spec) if isinstance(spec, str) else list(spec)
    if not counts:
        raise InputError("respacing names no section: give at least one count")
    size, longer = divmod(total, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < longer)
        kept += _section(start, length, count)
        start += length
    return tuple(kept)


def fine_timesteps(total: int, count: int) -> tuple[int, ...]:
    """The timesteps that are kept, ascending: the first and the last, and between them squares, one apart at least."""
    kept: list[int] = []
    for nth in range(count):
        square = round((total - 1) * (nth / max(1, count - 1)) ** 2)
        kept.append(max(square, kept[-1] + 1 if kept else 0))
    return tuple(kept)


def _counts(spec: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"respacing {spec!r} is not understood: write 250, 10,15,20 or ddim50") from None


def _even_timesteps(total: int, count: int, *rest: int) -> tuple[int, ...]:
    if not rest and count > 0:
        for stride in range(1, total + 1):
            if len(range(0, total, stride)) == count:
                return tuple(range(0, total, stride))
    keeping = {len(range(0, total, stride)) for stride in range(1, total + 1)}
    wanted = ",".join(map(str, (count, *rest)))
    less = max(kept for kept in keeping if kept < count or kept == 1)
    more = min(kept for kept in keeping if kept > count or kept == total)
    raise InputError(f"no whole stride keeps exactly {wanted} of {total} steps: use {less} or {more}")


def _section(start: int, length: int, count: int) -> list[int]:
    if not 0 <= count <= length:
        raise InputError(f"respacing cannot keep {count} steps of a section of {length}: ask for fewer")
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    kept, at = [], 0.0
    for _ in range(count):
        # Repeated addition and rounding half to even are what published schedules were made with.
        kept.append(start + round(at))
        at += stride
    return kept


def respace(original: Table, timesteps: Sequence[int]) -> Table:
    """The betas of the chain that visits only ``timesteps`` and has the same marginals there."""
    kept: Table = np.cumprod(1 - original, dtype=np.float64)[list(timesteps)]
    betas_kept: Table = 1 - kept / np.concatenate([[1.0], kept[:-1]])
    return betas_kept


def jump_times(
    steps: int,
    *,
    n_sample: int = 1,
    jump_length: int = 1,
    jump_n_sample: int = 1,
    jump2_length: int = 1,
    jump2_n_sample: int = 1,
    jump3_length: int = 1,
    jump3_n_sample: int = 1,
    start_resampling: float = 1e8,
) -> tuple[int, ...]:
    """The indices a time-travelling sampler visits (RePaint's resampling), from ``steps - 1`` down to -1.

    From every multiple of a family's length the sampler climbs that length again, ``n_sample - 1``
    times; a climb of family 1 lets families 2 and 3 climb anew, one of family 2 lets family 3.
    Nothing climbs above ``start_resampling``. ``n_sample`` repeats every single step.
    """
    lengths = (jump_length, jump2_length, jump3_length)
    repeats = (jump_n_sample, jump2_n_sample, jump3_n_sample)
    fresh = [
        dict.fromkeys(range(0, steps - length, length), repeat - 1)
        for length, repeat in zip(lengths, repeats, strict=True)
    ]
    budgets = [dict(budget) for budget in fresh]
    times: list[int] = []
    at = steps
    while at >= 1:
        at -= 1
        times.append(at)
        if at + 1 < steps - 1 and at <= start_resampling:
            times += [at + 1, at] * (n_sample - 1)
        for family in (2, 1, 0):
            length = lengths[family]
            if budgets[family].get(at, 0) > 0 and at <= start_resampling - length:
                budgets[family][at] -= 1
                times += range(at + 1, at + length + 1)
                at += length
                budgets[family + 1 :] = [dict(budget) for budget in fresh[family + 1 :]]
    return (*times, -1)


@dataclass(frozen=True, eq=False)
class Schedule:
    """A chain of steps and the order in which a sampler walks it.

    ``betas[i]`` is the variance added from index i-1 to i, ``timesteps[i]`` what the network is told
    at index i, ``times`` the indices visited, ending with -1. All tables are indexed by i.
    """

    betas: Table
    timesteps: tuple[int, ...]
    times: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a walk that does not fit the chain."""
        if len(self.betas) != len(self.timesteps):
            raise InputError(f"schedule has {len(self.betas)} betas for {len(self.timesteps)} timesteps: give one each")
        top, walk = len(self.timesteps) - 1, self.times
        ends_meet = -1 in walk and walk[0] == top and walk.index(-1) == len(walk) - 1
        if not ends_meet or max(walk) > top or any(abs(a - b) != 1 for a, b in pairwise(walk)):
            raise InputError(f"schedule times do not walk from {top} to -1 in steps of one: build them for {top + 1}")

    @cached_property
    def abar(self) -> Table:
        """alpha-bar: the share of the clean signal's power left at each index."""
        return np.cumprod(1 - self.betas, dtype=np.float64)

    @cached_property
    def abar_prev(self) -> Table:
        """alpha-bar one index earlier; 1 before the first."""
        return np.concatenate([[1.0], self.abar[:-1]])

    @cached_property
    def posterior_variance(self) -> Table:
        """The variance of q(x_{i-1} | x_i, x_0)."""
        return self.betas * (1 - self.abar_prev) / (1 - self.abar)

    @cached_property
    def posterior_log_variance_clipped(self) -> Table:
        """Its logarithm, with entry 0 (variance 0) replaced by entry 1."""
        variance = self.posterior_variance.copy()
        variance[0] = variance[1] if len(variance) > 1 else self.betas[0]
        return np.log(variance)

    @cached_property
    def posterior_mean_coef1(self) -> Table:
        """The weight of x_0 in the mean of q(x_{i-1} | x_i, x_0)."""
        return self.betas * np.sqrt(self.abar_prev) / (1 - self.abar)

    @cached_property
    def posterior_mean_coef2(self) -> Table:
        """The weight of x_i in the mean of q(x_{i-1} | x_i, x_0)."""
        return (1 - self.abar_prev) * np.sqrt(1 - self.betas) / (1 - self.abar)

    @cached_property
    def sqrt_recip_abar(self) -> Table:
        """sqrt(1 / alpha-bar): the weight of x_i when x_0 is predicted from it and eps."""
        return np.sqrt(1 / self.abar)

    @cached_property
    def sqrt_recipm1_abar(self) -> Table:
        """sqrt(1 / alpha-bar - 1): the weight of eps, subtracted, in the same prediction."""
        return np.sqrt(1 / self.abar - 1)

    @cached_property
    def calls(self) -> int:
        """Reverse transitions, one network call each."""
        return sum(after < before for before, after in pairwise(self.times))

    @property
    def undos(self) -> int:
        """Forward transitions, which only add noise."""
        return len(self.times) - 1 - self.calls

    def transitions(self) -> list[tuple[Kind, int]]:
        """The walk, one entry a transition, with the index whose table entries it uses.

        ("reverse", i) goes from i to i-1; ("undo", i) goes from i-1 to i:
        ``x_i = sqrt(1 - betas[i]) x_{i-1} + sqrt(betas[i]) noise``.
        """
        return [("reverse", a) if b < a else ("undo", b) for a, b in pairwise(self.times)]


def steps_below(name: str | Sequence[float], noise: float, *, total: int = 1000) -> int:
    """How many steps of a chain, from the first on, have no more than so much noise, as its standard deviation."""
    return total if noise == 1 else int(np.searchsorted(1 - np.cumprod(1 - beta_table(name, total)), noise**2, "right"))


def schedule(
    name: str | Sequence[float] = "linear",
    *,
    steps: int,
    travel_length: int = 1,
    travel_repeat: int = 1,
    total: int = 1000,
    jumps: Mapping[str, int] = MappingProxyType({}),
    spacing: Spacing = "even",
    begin: float = 1.0,
) -> Schedule:
    """The usual schedule: ``steps`` of ``total``; betas by name, or all ``total`` of them.

    Steps are spaced evenly from the first to the last of all, by the one whole "stride" from the first on that keeps
    as many, or "fine": as the squares of whole numbers are, so that most lie where little noise is left. Below a
    ``begin`` of 1 they are spaced like that over those with no more noise than this, as its standard deviation.

    Every stretch of ``travel_length`` steps is walked ``travel_repeat`` times (DDNM's time travel; 1 for none).
    ``jumps`` are further parameters of :func:`jump_times`, by name.
    """
    for field, value in (("steps", steps), ("travel length", travel_length), ("travel repeat", travel_repeat)):
        if value < 1:
            raise InputError(f"{field} is {value}: it must be at least 1")
    if steps > total:
        raise InputError(f"steps is {steps}, but the model's schedule has {total}: give at most {total}")
    table, low = beta_table(name, total), steps_below(name, begin, total=total)
    if steps > low:
        raise InputError(
            f"steps is {steps}, but the model's schedule has {low} with as little noise as begin, {begin:g}: give "
            f"{f'at most {low}, or ' if low else ''}more of begin"
        )
    if spacing == "fine":
        timesteps = fine_timesteps(low, steps)
    else:
        timesteps = space_timesteps(low, f"ddim{steps}" if spacing == "stride" else [steps])
    times = jump_times(steps, jump_length=travel_length, jump_n_sample=travel_repeat, **jumps)
    return Schedule(respace(table, timesteps), timesteps, times)

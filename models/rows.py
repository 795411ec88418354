"""Whether the rows of a batch leave each other alone, which is what lets unrelated tiles share a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Takes which rows to run, in this order, from the first slot on; returns what came out, slot by slot.
Forward = Callable[[Sequence[int]], Tensor]


def dependent_row(forward: Forward, count: int) -> int | None:
    """The first of ``count`` rows that is other bits in another slot or company; None where there is none.

    Runs them in several arrangements: full, reversed, rotated, and half of them before padding.
    """
    rows = list(range(count))
    seen: dict[int, Tensor] = {}
    for order in (rows, rows[::-1], rows[1:] + rows[:1], rows[: -(-count // 2)]):
        for row, told_CHW in zip(order, forward(order), strict=False):
            if not torch.equal(seen.setdefault(row, told_CHW), told_CHW):
                return row
    return None

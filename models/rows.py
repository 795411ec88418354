"""Whether the rows of a batch leave each other alone, which is what lets unrelated tiles share a pass.

Some kernels share out their sums by a row's slot. A layer that has such a one runs in parts instead: of one size,
the largest in which its rows leave each other alone. In parts of a single row every row has the same slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

_OWNER = "settled for"

# Takes which rows to run, in this order, from the first slot on; returns what came out, slot by slot.
Forward = Callable[[Sequence[int]], Tensor]


def dependent_row(forward: Forward, count: int) -> int | None:
    """The first of ``count`` rows that is other bits in another slot or company; None where there is none.

    Runs them in several arrangements: full, reversed, rotated, and half of them before padding.
    """
    rows = list(range(count))
    seen: dict[int, Tensor] = {}
    # A single row has only itself to agree with.
    arrangements = (rows, rows[::-1], rows[1:] + rows[:1], rows[: -(-count // 2)]) if count > 1 else (rows, rows)
    for order in arrangements:
        for row, told_CHW in zip(order, forward(order), strict=False):
            if not torch.equal(seen.setdefault(row, told_CHW), told_CHW):
                return row
    return None


def claim(network: nn.Module, owner: object) -> None:
    """Make a network somebody's: layers are settled for one shape of the batch, and so for one engine."""
    vars(network)[_OWNER] = owner


def belongs(network: nn.Module, owner: object) -> bool:
    """Whether nobody has claimed a network since."""
    return vars(network).get(_OWNER) is owner


def layers_in_parts(network: nn.Module) -> list[int]:
    """The rows in a part, for each layer that runs in parts."""
    return [vars(layer)["forward"].keywords["rows"] for layer in _candidates(network) if "forward" in vars(layer)]


def run_together(network: nn.Module) -> None:
    """Let every layer run on whole batches again."""
    for layer in _candidates(network):
        vars(layer).pop("forward", None)


def run_in_parts(network: nn.Module, forward: Callable[[], object]) -> None:
    """Let those layers run in parts whose kernels heed a row's slot in the shapes that ``forward`` brings up."""
    found: list[tuple[nn.Module, int]] = []

    def judge(layer: nn.Module, inputs: tuple[Tensor, ...], told: Tensor) -> None:
        whole = partial(type(layer).forward, layer)
        if _heeds_slots(whole, inputs[0], told):
            found.append((layer, _largest_part(whole, inputs[0])))

    handles = [layer.register_forward_hook(judge) for layer in _candidates(network)]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    for layer, rows in found:
        vars(layer)["forward"] = partial(_in_parts, partial(type(layer).forward, layer), rows=rows)


def _candidates(network: nn.Module) -> list[nn.Module]:
    """The layers whose kernels libraries choose by shape."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)]


def _largest_part(layer: Callable[[Tensor], Tensor], given: Tensor) -> int:
    """Of the sizes that cut the batch into equal parts, the largest in which rows leave each other alone."""
    count = len(given)
    for rows in (size for size in range(count // 2, 1, -1) if count % size == 0):
        parted = partial(_in_parts, layer, rows=rows)
        if not _heeds_slots(parted, given, parted(given)):
            return rows
    return 1


def _heeds_slots(layer: Callable[[Tensor], Tensor], given: Tensor, told: Tensor) -> bool:
    if len(given) == 1:
        return False
    return any(not torch.equal(layer(given.roll(by, 0)), told.roll(by, 0)) for by in {1, len(given) // 2})


def _in_parts(layer: Callable[[Tensor], Tensor], given: Tensor, *, rows: int) -> Tensor:
    return torch.cat([layer(part) for part in torch.split(given, rows)])

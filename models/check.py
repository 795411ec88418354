"""The contract test of denoisers: whatever is wrapped as one, of this package or of a plug-in, has to pass it.

::

    from tileloom.models.check import check_denoiser

    def test_contract():
        check_denoiser(plugin.load({}, "cpu"))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from ..tiling.box import Box
from ..tiling.errors import InputError, TileloomError
from ..tiling.label_window import LabelWindow
from .contract import Contract
from .denoiser import Condition, Denoiser
from .rows import dependent_row
from .schedule import beta_table

# What may follow one another along the channels: eps, v, a gradient.
_MOST_PARTS = 3
# A last timestep that leaves less of the signal than this is all noise; there eps has to look like the noisy window:
# by its correlation with it, and by how large it is beside it.
_ALL_NOISE, _ALIKE, _SIZES = 0.1, 0.7, (0.5, 1.5)
_NOTHING = Condition()


class BrokenDenoiser(TileloomError, AssertionError):
    """A denoiser that does not do what its protocol says."""


def check_denoiser(
    denoiser: Denoiser, *, told: Condition = _NOTHING, trained: bool = True, device: str = "cpu"
) -> None:
    """Raise :class:`BrokenDenoiser`, one sentence, with the first thing that a denoiser does not keep.

    ``told`` is what every window is told, besides the level and class, which are tried out. A network that has
    learned nothing is checked with ``trained=False``: whether its eps is eps nobody could say.
    """
    terms = denoiser.contract
    _check_terms(terms)
    if terms.holes:
        raise InputError(f"model {terms.name} fills holes and tells no noise, so no denoiser's terms are its own")
    _check_numerics(denoiser)
    with _one_thread(), torch.inference_mode():
        for size in _sizes(terms):
            for batch in _batches(terms):
                Trial(denoiser, told, (batch, terms.bands or 2, size, size), device).check_answer()
        size = terms.native_tile
        trial = Trial(denoiser, told, (_batches(terms)[-1], terms.bands or 2, size, size), device)
        # Kernels for tiny windows may mix rows: an engine looks at the very shape of its job.
        trial.check_rows()
        trial.check_memory()
        trial.check_timesteps()
        if trained:
            trial.check_meaning()


def _check_terms(terms: object) -> None:
    """Whether a contract can be kept at all."""
    if not isinstance(terms, Contract):
        raise BrokenDenoiser(f"its contract is {type(terms).__name__}: make it a tileloom.models.contract.Contract")
    try:
        terms.check((terms.native_tile, terms.native_tile), terms.bands or 1)
        betas = beta_table(terms.betas, terms.timesteps)
    except InputError as error:
        raise BrokenDenoiser(f"the contract of {terms.name} cannot be kept: {error}") from None
    if len(betas) != terms.timesteps or not (0 < betas.min() <= betas.max() < 1):
        raise BrokenDenoiser(
            f"the contract of {terms.name} has betas that are not {terms.timesteps} numbers between 0 and 1"
        )
    low, high = terms.value_range or (0, 1)
    least, most = terms.batch_limits
    if low >= high or least < 1 or (most is not None and most < least):
        raise BrokenDenoiser(f"the contract of {terms.name} has a value_range or batch_limits without anything inside")


def _check_numerics(denoiser: Denoiser) -> None:
    """Whether what its bits depend on is told, as texts."""
    told = dict(denoiser.numerics)
    if "precision" not in told or not all(isinstance(text, str) for text in (*told, *told.values())):
        raise BrokenDenoiser(
            f"the numerics of {denoiser.contract.name} are {told}: name its precision and all else that its bits "
            "depend on, as texts"
        )


def _sizes(terms: Contract) -> list[int]:
    """The smallest window, the next one, and the network's own."""
    multiple = terms.size_multiple
    least = -(-terms.smallest_tile // multiple) * multiple
    sizes = {least, least + multiple, terms.native_tile}
    return sorted(size for size in sizes if terms.largest_tile is None or size <= terms.largest_tile)


def _batches(terms: Contract) -> list[int]:
    """The fewest windows that a call takes, and some more."""
    least, most = terms.batch_limits
    return sorted({least, max(least, 3 if most is None else min(3, most))})


@contextmanager
def _one_thread() -> Iterator[None]:
    """The number of threads that an engine uses: with more, bits depend on how sums are split among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Trial:
    """A denoiser and a batch of unlike windows, (batch, bands, rows, columns)."""

    denoiser: Denoiser
    told: Condition
    shape: tuple[int, ...]
    device: str

    @cached_property
    def x_BCHW(self) -> Tensor:
        """Noise, the same every time."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    @cached_property
    def t_B(self) -> Tensor:
        """Timesteps from all of the schedule, with fractions."""
        last, count = self.denoiser.contract.timesteps - 1, self.shape[0]
        return torch.tensor([last * (row + 0.75) / count for row in range(count)], device=self.device)

    @cached_property
    def conditions(self) -> list[Condition]:
        """Levels, classes and labels that differ from row to row, where the denoiser is told of them."""
        terms = self.denoiser.contract
        return [
            replace(
                self.told,
                level=row % 2 if "level" in terms.conditions else self.told.level,
                label=row % terms.classes if terms.classes else self.told.label,
                labels=self._labels(row),
            )
            for row in range(self.shape[0])
        ]

    def _labels(self, row: int) -> LabelWindow | None:
        """What the pixels of a row show, where the denoiser is told of that: any class, and some edges."""
        terms, size = self.denoiser.contract, self.shape[2:]
        if not terms.label_classes:
            return self.told.labels
        drawn = np.random.default_rng(row).integers(0, terms.label_classes, size).astype(np.uint16)
        return LabelWindow(Box(0, 0, *size), drawn, drawn % 2 == 0 if terms.label_edges else None)

    def check_answer(self) -> None:
        """Shape, type, finite values, inputs left alone, and the same answer every time."""
        x_BCHW, t_B, conditions = self.x_BCHW.clone(), self.t_B.clone(), list(self.conditions)
        told_BCHW = self.denoiser.predict(x_BCHW, t_B, conditions)
        batch, bands, *size = self.shape
        parts = told_BCHW.shape[1] // bands if told_BCHW.ndim == 4 else 0
        if told_BCHW.shape != (batch, parts * bands, *size) or not 1 <= parts <= _MOST_PARTS:
            shape = "x".join(map(str, told_BCHW.shape))
            raise self._broken(f"answers {shape}: as many channels as its input has, or two or three times as many")
        if told_BCHW.dtype is not torch.float32:
            raise self._broken(f"answers in {told_BCHW.dtype}, not float32")
        if not torch.isfinite(told_BCHW).all():
            raise self._broken("answers with values that are not finite")
        if not (torch.equal(x_BCHW, self.x_BCHW) and torch.equal(t_B, self.t_B) and conditions == self.conditions):
            raise self._broken("changes the windows, timesteps or conditions that it is given")
        if not torch.equal(told_BCHW, self.denoiser.predict(x_BCHW, t_B, conditions)):
            raise self._broken("does not repeat itself")

    def check_rows(self) -> None:
        """A row is the same bits in any slot, in any company, before any padding."""
        if dependent_row(self._forward, self.shape[0]) is not None:
            raise self._broken("gives a row other values in another slot or company")
        used = list(range(-(-self.shape[0] // 2)))
        clean_BCHW, full_BCHW = self._forward(used), self._forward(used, padding=3.0)
        if not torch.equal(clean_BCHW[: len(used)], full_BCHW[: len(used)]):
            raise self._broken("lets padding, the rows beyond its conditions, change the others")

    def check_memory(self) -> None:
        """What it says to need is whole bytes, holds its answer at least, and grows with the batch."""
        batch, *window = self.shape
        weights, forward = self.denoiser.memory(self.shape)
        _, larger = self.denoiser.memory((2 * batch, *window))
        whole = all(isinstance(size, int) and size >= 0 for size in (weights, forward))
        if not whole or forward < 4 * prod(self.shape) or larger <= forward:
            raise self._broken(
                f"says to need {weights} and {forward} bytes, twice the batch {larger}: "
                "give weights, then what a pass holds besides"
            )

    def check_timesteps(self) -> None:
        """Where two timesteps make a difference, half-way between makes another one."""
        middle = (self.denoiser.contract.timesteps - 1) // 2
        before, between, after = (
            self.denoiser.predict(self.x_BCHW, torch.full_like(self.t_B, middle + part), self.conditions)
            for part in (0, 0.5, 1)
        )
        if not torch.equal(before, after) and (torch.equal(before, between) or torch.equal(between, after)):
            raise self._broken("rounds timesteps, which may be fractional")

    def check_meaning(self) -> None:
        """Of pure noise, what it predicts is the noise; v and clean windows are not."""
        terms = self.denoiser.contract
        if np.prod(1 - beta_table(terms.betas, terms.timesteps)) > _ALL_NOISE:
            return
        last_B = torch.full_like(self.t_B, terms.timesteps - 1)
        told_BCHW = self.denoiser.predict(self.x_BCHW, last_B, self.conditions)[:, : self.shape[1]]
        size, largest = told_BCHW.norm(), self.x_BCHW.norm()
        alike = float((told_BCHW * self.x_BCHW).sum() / (size * largest).clamp(min=1e-30))
        low, high = _SIZES
        if alike < _ALIKE or not low < float(size / largest) < high:
            raise self._broken(
                f"does not predict eps: of pure noise it returns what is {float(size / largest):.2f} times as large "
                f"and correlates with it by {alike:.2f}; give a network that predicts eps "
                "with the betas of its contract, or convert what it predicts"
            )

    def _forward(self, order: Sequence[int], padding: float = 0.0) -> Tensor:
        """The rows of ``order`` in the first slots; what fills the others is no image."""
        rows = list(order)
        x_BCHW, t_B = torch.full_like(self.x_BCHW, padding), torch.full_like(self.t_B, padding)
        x_BCHW[: len(rows)], t_B[: len(rows)] = self.x_BCHW[rows], self.t_B[rows]
        return self.denoiser.predict(x_BCHW, t_B, [self.conditions[row] for row in rows])

    def _broken(self, what: str) -> BrokenDenoiser:
        shape = "x".join(map(str, self.shape))
        return BrokenDenoiser(f"model {self.denoiser.contract.name}, given windows of {shape}, {what}")

"""Linear measurements of a window, their exact pseudo-inverses, and their coarser versions.

Every task is one blockwise weighted sum with disjoint supports (see ``tiling.measurement``)::

    A x  = sum over a block (scale x scale pixels, and the bands if gray) of K x
    A+ y = K up(y) / sum over the block of K^2

with ``K = visible / values in a block``. Sums are folded by single additions in a fixed order, so a
value's bits depend neither on the batch nor on the window around it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from ..tiling.box import Box
from ..tiling.errors import InputError
from ..tiling.measurement import Measurement
from ..tiling.work import Bools, TileInputs
from .parity import AS_WRITTEN, SVD_COLORS, Parity

Lifting = Callable[[Tensor], Tensor]


def block_mean(x: Tensor, factor: int) -> Tensor:
    """The mean of each factor x factor block of the last two axes."""
    return _block_sum(x, factor) * (1 / factor**2)


def block_repeat(x: Tensor, factor: int) -> Tensor:
    """Each pixel of the last two axes as a factor x factor block."""
    return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1) if factor > 1 else x


def _block_sum(x: Tensor, factor: int) -> Tensor:
    *lead, rows, cols = x.shape
    folded = reduce(torch.add, x.reshape(*lead, rows // factor, factor, cols).unbind(-2))
    return reduce(torch.add, folded.reshape(*lead, rows // factor, cols // factor, factor).unbind(-1))


def _block_all(mask: Tensor, factor: int) -> Tensor:
    *lead, rows, cols = mask.shape
    return mask.reshape(*lead, rows // factor, factor, cols // factor, factor).all(-1).all(-2)


class Operator:
    """The measurement of one window: ``A``, ``pinv``, ``project``; tensors are (..., band, row, column).

    ``shape`` is the window's (rows, columns) in target pixels. ``measured`` tells on y's grid which
    values exist, ``visible`` on the target grid which pixels count, each (rows, columns) or with a
    leading band axis; None: all. ``A`` is 0 where nothing is measured, and ``pinv`` ignores y there.
    """

    def __init__(
        self,
        measurement: Measurement,
        *,
        bands: int,
        shape: tuple[int, int],
        measured: Tensor | None = None,
        visible: Tensor | None = None,
        device: torch.device | str = "cpu",
        parity: Parity = AS_WRITTEN,
    ) -> None:
        """Settle which values are measured and how each is spread back."""
        scale = measurement.scale
        _refuse_cut(shape, scale)
        self.measurement = measurement
        self.bands = bands
        self.shape = shape
        self.device = device
        self.parity = parity
        self.visible = None if visible is None else visible.to(device).expand(bands, *shape)
        self._colors = _colors(bands, parity, device=device) if measurement.gray else None
        self._weight = 1 / (scale**2 * (bands if measurement.gray and self._colors is None else 1))
        self.measured = None if measured is None else measured.to(device).expand(self.y_shape)
        self._gain: Tensor | None = None
        if self.visible is not None and not parity.released_pinv:
            seen = self._sum(self.visible.double()) / (1 if self._colors is None else bands)
            # A block with nothing visible spreads onto hidden pixels only, so any finite gain will do there.
            self._gain = (1 / (seen.clamp(min=1) * self._weight)).float()

    @property
    def align(self) -> int:
        """The block, in target pixels, that crops must respect."""
        return self.measurement.align

    @property
    def y_shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns) of the measurement."""
        scale = self.measurement.scale
        return 1 if self.measurement.gray else self.bands, self.shape[0] // scale, self.shape[1] // scale

    def A(self, x: Tensor) -> Tensor:
        """The measurement of x; 0 where unmeasured."""
        seen = x if self.visible is None else x.masked_fill(~self.visible, 0)
        if self._colors is not None:
            seen = seen * self._colors
        return self._keep(self._sum(seen) * self._weight)

    def pinv(self, y: Tensor) -> Tensor:
        """``A+ y``: the smallest x that measures as y; 0 where y tells nothing."""
        spread = self._keep(y if self._gain is None else y * self._gain)
        x = block_repeat(spread, self.measurement.scale).expand(*y.shape[:-3], self.bands, *self.shape)
        if self._colors is not None:
            x = x * (self._colors / self._colors.square().sum())
        return x if self.visible is None else x.masked_fill(~self.visible, 0)

    def project(self, x: Tensor, Apy: Tensor, *, lam: float | Tensor = 1.0) -> Tensor:
        """DDNM's range-space correction, ``lam A+y + x - lam A+(A x)``, added in this order."""
        back = self.pinv(self.A(x))
        # The same bits as a product with 1, and two passes over the pixels less at nearly every step.
        return Apy + x - back if isinstance(lam, float) and lam == 1 else lam * Apy + x - lam * back

    @property
    def singular(self) -> Tensor:
        """A's singular value at every pixel that is seen: constant in a block, whose weights' length it is."""
        power = self._weight * (1.0 if self._colors is None else float(self._colors.square().sum()))
        if self._gain is None:
            return torch.full((1, 1, 1), power**0.5, device=self.device)
        return block_repeat((power / self._gain).sqrt(), self.measurement.scale)

    def crop(self, box: Box) -> Operator:
        """The operator of an aligned part of the window; ``box`` in pixels from the window's corner."""
        if any(edge % self.align for edge in (box.top, box.left, box.bottom, box.right)):
            raise InputError(f"crop at {box} cuts blocks of {self.align} pixels: align it to them")
        y_box = box.coarsen(self.align)
        return Operator(
            self.measurement,
            bands=self.bands,
            shape=box.shape,
            measured=None if self.measured is None else self.measured[:, *y_box.slices],
            visible=None if self.visible is None else self.visible[:, *box.slices],
            device=self.device,
            parity=self.parity,
        )

    def coarsen(self, factor: int) -> tuple[Operator, Lifting] | None:
        """The operator of the window pooled by ``factor`` and the map of its y: ``A'(pool(x)) = lift(A x)``.

        A coarse value counts as measured only if everything below it is. None where no coarser level
        exists or it would add nothing.
        """
        coarser = self.measurement.coarsen(factor)
        if coarser is None:
            return None
        _refuse_cut(self.shape, factor)
        measurement, by = coarser
        known = self._wholly_measured()
        if known is not None:
            known = _block_all(known, by.pool)
        operator = Operator(
            measurement,
            bands=self.bands,
            shape=(self.shape[0] // factor, self.shape[1] // factor),
            measured=known,
            device=self.device,
            parity=self.parity,
        )
        return operator, lambda y: _known_only(block_mean(y, by.pool), known)

    def _wholly_measured(self) -> Tensor | None:
        """Where a value of y is measured with nothing of its block hidden; None: everywhere."""
        if self.visible is None:
            return self.measured
        whole = _block_all(self.visible, self.measurement.scale)
        whole = whole.all(0, keepdim=True) if self.measurement.gray else whole
        return whole if self.measured is None else whole & self.measured

    def _sum(self, x: Tensor) -> Tensor:
        if self.measurement.gray:
            x = reduce(torch.add, x.unbind(-3)).unsqueeze(-3)
        return _block_sum(x, self.measurement.scale)

    def _keep(self, y: Tensor) -> Tensor:
        return _known_only(y, self.measured)


def _refuse_cut(shape: tuple[int, int], block: int) -> None:
    if shape[0] % block or shape[1] % block:
        raise InputError(f"window of {shape[0]} x {shape[1]} pixels is cut by blocks of {block}: align it to them")


def _known_only(y: Tensor, known: Tensor | None) -> Tensor:
    return y if known is None else y.masked_fill(~known, 0)


def _colors(bands: int, parity: Parity, *, device: torch.device | str) -> Tensor | None:
    """The weight of each band in the gray, (bands, 1, 1); None where all weigh the same."""
    if not parity.svd_colors:
        return None
    if bands != len(SVD_COLORS):
        raise InputError(f"parity.svd_colors weighs three bands, the image has {bands}: leave it out")
    return torch.tensor(SVD_COLORS, device=device)[:, None, None]


def operator_for(
    inputs: TileInputs, bands: int, *, device: torch.device | str = "cpu", parity: Parity = AS_WRITTEN
) -> Operator:
    """The operator of a tile's window."""
    return Operator(
        inputs.measurement,
        bands=bands,
        shape=inputs.box.shape,
        measured=_mask(inputs.measured),
        visible=_mask(inputs.visible),
        device=device,
        parity=parity,
    )


def _mask(mask: Bools | None) -> Tensor | None:
    """A mask as a tensor; None where it hides nothing, which spares the work."""
    return None if mask is None or mask.all() else torch.tensor(mask)

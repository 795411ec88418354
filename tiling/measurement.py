"""What is known of an image: the arithmetic of a linear measurement, without its pixels.

Every task is a blockwise weighted mean: *downsample* averages ``scale`` x ``scale`` pixels, *gray*
averages the bands, a *mask* hides pixels of the target grid (before the mean) or values of the
measured grid (after it). Any ordered composition of these has this one form, so its exact
pseudo-inverse and its coarser version are closed formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class MaskSite(StrEnum):
    """On which grid the mask lies."""

    NONE = "none"
    TARGET = "target"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Lift:
    """How a level's observation becomes the next coarser one's: ``y' = pool(y)``, masks by "all known".

    ``pool`` averages y (1: y is unchanged); ``fold`` turns a target mask into one of y's grid,
    where a value counts as measured only if its whole ``fold`` x ``fold`` block was visible (1: no mask to fold).
    """

    pool: int = 1
    fold: int = 1

    @property
    def identity(self) -> bool:
        """Whether the coarser level reads the very same observation."""
        return self.pool == 1 and self.fold == 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """``y = mask(mean over scale x scale blocks (and bands, if gray) of mask(x)) + noise``.

    ``sigma`` is the noise's standard deviation on a data range of [0, 1].
    """

    scale: int = 1
    gray: bool = False
    mask: MaskSite = MaskSite.NONE
    sigma: float = 0.0

    @property
    def align(self) -> int:
        """The block, in target pixels, that crops must respect."""
        return self.scale

    @property
    def exact(self) -> bool:
        """Whether a measured value is the pixel itself, to come back bit-identical."""
        return self.scale == 1 and not self.gray and self.sigma == 0

    @property
    def trivial(self) -> bool:
        """Whether the measurement leaves nothing to restore."""
        return self.exact and self.mask is MaskSite.NONE

    def coarsen(self, factor: int) -> tuple[Measurement, Lift] | None:
        """The measurement of the image pooled by ``factor``, and how its y comes from this one's.

        For every x: ``A'(pool(x)) = lift(A(x))``. None where no coarser level exists or it would add nothing.
        """
        if self.scale == 1:
            return replace(self, sigma=self.sigma / factor), Lift(pool=factor)
        if self.scale % factor:
            return None
        coarse = replace(self, scale=self.scale // factor)
        lift = Lift()
        if self.mask is MaskSite.TARGET:
            coarse, lift = replace(coarse, mask=MaskSite.MEASURED), Lift(fold=self.scale)
        return None if coarse.trivial else (coarse, lift)

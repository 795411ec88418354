"""What the published programs do otherwise than their papers, as switches.

Torch stays out, so that a plan can read them.
"""

from __future__ import annotations

from dataclasses import dataclass

SVD_COLORS = (0.3333, 0.3334, 0.3333)


@dataclass(frozen=True, slots=True)
class Parity:
    """Behaviour of the released programs; all of it is off unless asked for.

    ``carry``: a tile begins from the finished tile before it in raster order instead of from noise.
    ``released_lambda``: the trust in a noisy measurement is sigma_t / a_t * sigma_y, for sigma_t / (a_t sigma_y).
    ``released_pinv``: values are spread back as if nothing of their blocks were masked, which is no pseudo-inverse.
    ``coarse_everywhere``: the coarser level's pixels are imposed beside known pixels too.
    ``half_stride``: tiles lie half a tile apart and have no guard band.
    ``svd_colors``: three bands are averaged to gray with the weights of the spectral program.
    ``simplified``: the DDIM form's noise as in the short form of its program.
    """

    carry: bool = False
    released_lambda: bool = False
    released_pinv: bool = False
    coarse_everywhere: bool = False
    half_stride: bool = False
    svd_colors: bool = False
    simplified: bool = False


AS_WRITTEN = Parity()

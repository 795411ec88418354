"""The likelihood of a pixel among the 256 values that it may have, exact in every tail."""

from __future__ import annotations

import torch
from torch import Tensor

# Half a step of stored pixels in model range, [-1, 1].
HALF_STEP = 1 / 255


def pixel_nll(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """``-ln`` of the mass of N(mean, std^2) in [x - 1/255, x + 1/255], in nats; the steps at -1 and 1 have no end.

    The mass is told by the logarithms of two distribution functions, on whichever side of the mean both are small:
    ``ln (Phi(b) - Phi(a)) = ln Phi(b) + ln (1 - Phi(a) / Phi(b))``.
    """
    precision = (-log_std).exp()
    low, high = (x - mean - HALF_STEP) * precision, (x - mean + HALF_STEP) * precision
    above = low + high > 0
    near, far = torch.where(above, -low, high), torch.where(above, -high, low)
    log_near, log_far = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
    inner = log_near + torch.log(-torch.expm1(log_far - log_near))
    lowest, highest = torch.special.log_ndtr(high), torch.special.log_ndtr(-low)
    return -torch.where(x < HALF_STEP - 1, lowest, torch.where(x > 1 - HALF_STEP, highest, inner))

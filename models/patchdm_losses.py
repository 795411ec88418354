"""What Patch-DM and the network that draws its styles are trained on: pure functions of all that is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .collage import PatchGrid, collage, cut, pad
from .latent import LatentNet
from .patchdm import PatchUNet
from .schedule import Schedule
from .signatures import EPS

# Of all images, so many lose their style, and so many their position, for guidance.
DROP_STYLE, DROP_POSITION = 0.1, 0.5


def drops_of(style_u_B: Tensor, position_u_B: Tensor) -> Tensor:
    """Drop flags (batch, 2) from uniform draws of each image."""
    return torch.stack([style_u_B < DROP_STYLE, position_u_B < DROP_POSITION], dim=1)


def noised(x0: Tensor, noise: Tensor, t_B: Tensor, chain: Schedule) -> Tensor:
    """``sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise``, a timestep of the chain for each of a batch.

    Of ``(noise, -x_0)`` it is ``v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0``.
    """
    abar = torch.as_tensor(chain.abar, device=t_B.device)[t_B].reshape(-1, *[1] * (x0.ndim - 1))
    return abar.sqrt().to(x0.dtype) * x0 + (1 - abar).sqrt().to(x0.dtype) * noise


@dataclass(frozen=True, eq=False)
class Draw:
    """All that is drawn for one batch of images.

    ``noise`` (batch, band, row, column) covers the window; ``t`` (batch) are whole timesteps; ``drops`` (batch, 2)
    are drop flags; ``corner`` is the encoder patch in the north-west of the window, in patches, the same for all
    images.
    """

    noise: Tensor
    t: Tensor
    drops: Tensor
    corner: tuple[int, int]


def patch_losses(
    network: PatchUNet, x0_BCHW: Tensor, style_BS: Tensor, draw: Draw, chain: Schedule, *, predicts: str = EPS
) -> tuple[Tensor, Tensor]:
    """The mean squared errors of two decodings of one window of 2 x 2 encoder patches, which are added.

    One decodes the patch in their middle from the collage of their features, the other each of the four from
    its own. Outside the image x_t is 0, as in sampling, and errors there count as none; they do count in the
    mean's denominator. The network ``predicts`` the noise (eps) or v.
    """
    patch, half = network.config.patch, network.config.half
    x0_BCHW, inside_11HW = _window(x0_BCHW, draw.corner, patch)
    x_BCHW = noised(x0_BCHW, draw.noise, draw.t, chain) * inside_11HW
    wanted_BCHW = draw.noise if predicts == EPS else noised(draw.noise, -x0_BCHW, draw.t, chain)
    grid = PatchGrid(1, 1, *draw.corner)
    four = [each.repeat_interleave(4, dim=0) for each in (draw.t, style_BS, draw.drops)]
    encoder = grid.encoder_positions().to(x_BCHW).repeat(len(x_BCHW), 1)
    decoder = grid.decoder_positions().to(x_BCHW).repeat(len(x_BCHW), 1)
    told = four[0], encoder, *four[1:]
    features = network.encode(cut(x_BCHW, patch), *told)
    plain = network.decode(features, *told)
    moved = [collage(feature, grid) for feature in features]
    shifted = network.decode(moved, draw.t, decoder, style_BS, draw.drops)
    inside_N1pp = cut(inside_11HW, patch).repeat(len(x_BCHW), 1, 1, 1)
    plain_errors: Tensor = (cut(wanted_BCHW, patch) - plain) ** 2 * inside_N1pp
    shifted_errors: Tensor = (wanted_BCHW[..., half:-half, half:-half] - shifted) ** 2
    return shifted_errors.mean(), plain_errors.mean()


def _window(x_BCHW: Tensor, corner: tuple[int, int], patch: int) -> tuple[Tensor, Tensor]:
    """Of images with half a patch of zeros around them a window of 2 x 2 patches, and 1 where it is image."""
    rows, cols = (slice(start * patch, (start + 2) * patch) for start in corner)
    inside_11HW = torch.ones_like(x_BCHW[:1, :1])
    return pad(x_BCHW, patch)[..., rows, cols], pad(inside_11HW, patch)[..., rows, cols]


def style_losses(network: LatentNet, x0_BC: Tensor, noise_BC: Tensor, t_B: Tensor, chain: Schedule) -> Tensor:
    """The mean absolute error of the noise in each style of a batch (L1)."""
    told_BC: Tensor = network(noised(x0_BC, noise_BC, t_B, chain), t_B)
    return (noise_BC - told_BC).abs().mean(dim=1)

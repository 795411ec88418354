"""What Patch-DM and the network that draws its styles are trained on: pure functions of all that is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .collage import PatchGrid, collage, cut, pad
from .latent import LatentNet
from .patchdm import PatchUNet
from .schedule import Schedule

# Of all images, so many lose their style, and so many their position, for guidance.
DROP_STYLE, DROP_POSITION = 0.1, 0.5


def drops_of(style_u_B: Tensor, position_u_B: Tensor) -> Tensor:
    """Drop flags (batch, 2) from uniform draws of each image."""
    return torch.stack([style_u_B < DROP_STYLE, position_u_B < DROP_POSITION], dim=1)


def noised(x0: Tensor, noise: Tensor, t_B: Tensor, chain: Schedule) -> Tensor:
    """``sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise``, a timestep of the chain for each of a batch."""
    abar = torch.as_tensor(chain.abar, device=t_B.device)[t_B].reshape(-1, *[1] * (x0.ndim - 1))
    return abar.sqrt().to(x0.dtype) * x0 + (1 - abar).sqrt().to(x0.dtype) * noise


@dataclass(frozen=True, eq=False)
class Draw:
    """All that is drawn for one batch of images.

    ``noise`` (batch, band, row, column) covers the images and their padding; ``t`` (batch) are whole timesteps;
    ``drops`` (batch, 2) are drop flags; ``corner`` is the encoder patch in the north-west of the window, in
    patches, the same for all images.
    """

    noise: Tensor
    t: Tensor
    drops: Tensor
    corner: tuple[int, int]


def patch_loss(network: PatchUNet, x0_BCHW: Tensor, style_BS: Tensor, draw: Draw, chain: Schedule) -> Tensor:
    """The mean squared errors of two decodings of one window of 2 x 2 encoder patches, added.

    One decodes the patch in their middle from the collage of their features, the other each of the four from
    its own. Outside the image x_t is 0, as in sampling, and errors there count as none; they do count in the
    mean's denominator.
    """
    patch, half = network.config.patch, network.config.half
    row, col = (start * patch for start in draw.corner)

    def window(padded_BCHW: Tensor) -> Tensor:
        return padded_BCHW[..., row : row + 2 * patch, col : col + 2 * patch]

    inside_BCHW = window(pad(torch.ones_like(x0_BCHW), patch))
    noise_BCHW = window(draw.noise)
    x_BCHW = noised(window(pad(x0_BCHW, patch)), noise_BCHW, draw.t, chain) * inside_BCHW
    grid = PatchGrid(1, 1, *draw.corner)
    four = [each.repeat_interleave(4, dim=0) for each in (draw.t, style_BS, draw.drops)]
    encoder = grid.encoder_positions().to(x_BCHW).repeat(len(x_BCHW), 1)
    decoder = grid.decoder_positions().to(x_BCHW).repeat(len(x_BCHW), 1)
    told = four[0], encoder, *four[1:]
    features = network.encode(cut(x_BCHW, patch), *told)
    plain = network.decode(features, *told)
    moved = [collage(feature, grid) for feature in features]
    shifted = network.decode(moved, draw.t, decoder, style_BS, draw.drops)
    plain_errors: Tensor = (cut(noise_BCHW, patch) - plain) ** 2 * cut(inside_BCHW, patch)
    shifted_errors: Tensor = (noise_BCHW[..., half:-half, half:-half] - shifted) ** 2
    return shifted_errors.mean() + plain_errors.mean()


def style_losses(network: LatentNet, x0_BC: Tensor, noise_BC: Tensor, t_B: Tensor, chain: Schedule) -> Tensor:
    """The mean absolute error of the noise in each style of a batch (L1)."""
    told_BC: Tensor = network(noised(x0_BC, noise_BC, t_B, chain), t_B)
    return (noise_BC - told_BC).abs().mean(dim=1)

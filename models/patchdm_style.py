"""The style that a Patch-DM network draws in, computed once for a job."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiling.box import Box
from ..tiling.scaling import DEFAULT_RANGES, Scaling
from ..tiling.source import open_source
from .lanes import Lanes
from .latent import draw_styles
from .noise import Address, PositionNoise
from .patchdm import PatchUNet, StyleEncoder
from .style import Style, seen_side


def style_of(network: PatchUNet, style: Style) -> Tensor:
    """The code of a style, on the processor in float32, and on one thread: other counts give other bits."""
    return Lanes(1).once(partial(_style_of, network, style))


@torch.inference_mode()
def _style_of(network: PatchUNet, style: Style) -> Tensor:
    config = network.config
    if style.source == "row":
        return network.styles(torch.tensor([style.number]))[0].clone()
    if style.source == "code":
        return torch.from_numpy(style.code(config.style_channels))
    if style.source == "sample":
        noise = PositionNoise(style.number).windows([Address("style", 0, 0, Box(0, 0, 1, config.style_channels))], 1)
        return draw_styles(network.latent_net, noise.reshape(1, -1))[0]
    encoder = network.encoder
    assert isinstance(encoder, StyleEncoder)
    style_BS: Tensor = encoder(_image(style.file, seen_side(encoder.config)))
    return style_BS[0]


def _image(file: str, side: int) -> Tensor:
    """An image as one of so many pixels a side, each the mean of those that it covers, in [-1, 1]."""
    source = open_source(file)
    pixels = source.read(Box(0, 0, source.height, source.width))
    x_CHW = Scaling(*DEFAULT_RANGES[source.dtype.name]).to_model(pixels)
    return F.interpolate(torch.from_numpy(x_CHW)[None].float(), size=(side, side), mode="area")

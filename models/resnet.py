"""The trunk of ResNet-50 (He et al., 2016), whose features pictures are compared by; it learns nothing here."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tiling.errors import InputError
from .checkpoint import load_tensors, shapes_of
from .shapes import mismatch

# (blocks, channels inside a block) of each layer; what comes out has four times as many.
_LAYERS = ((3, 64), (4, 128), (6, 256), (3, 512))
_GROWTH = 4
# Of the pictures that common weights were trained on, whose values run from 0 to 1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The layer that tells classes, and counts of batches.
_UNUSED = re.compile(r"fc\.(weight|bias)|.*\.num_batches_tracked")


class Norm(nn.Module):
    """Batch norm as it was learned."""

    def __init__(self, width: int) -> None:
        """Weights that change nothing."""
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Every channel, scaled and shifted."""
        told = dict(self.named_buffers())
        return F.batch_norm(x, told["running_mean"], told["running_var"], told["weight"], told["bias"])


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a skip; the middle one has the stride."""

    def __init__(self, told: int, width: int, stride: int) -> None:
        """Random weights."""
        super().__init__()
        made = _GROWTH * width
        self.conv1, self.bn1 = nn.Conv2d(told, width, 1, bias=False), Norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), Norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, made, 1, bias=False), Norm(made)
        self.downsample = None
        if stride > 1 or told != made:
            self.downsample = nn.Sequential(nn.Conv2d(told, made, 1, stride, bias=False), Norm(made))

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of both ways."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(h)))))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNetTrunk(nn.Module):
    """ResNet-50 without its last layer, under the parameter names of common weights files."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), Norm(64)
        told = 64
        for number, (blocks, width) in enumerate(_LAYERS, start=1):
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            made = [told] + [_GROWTH * width] * (blocks - 1)
            parts = [Bottleneck(wide, width, stride) for wide, stride in zip(made, strides, strict=True)]
            self.add_module(f"layer{number}", nn.Sequential(*parts))
            told = _GROWTH * width

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """What each layer sees in pictures in model range: in their first three bands, or in the last one again."""
        bands = x_BCHW.shape[1]
        seen = x_BCHW[:, [min(band, bands - 1) for band in range(3)]]
        mean, std = (torch.tensor(values, device=x_BCHW.device)[:, None, None] for values in (_MEAN, _STD))
        h = F.relu(self.bn1(self.conv1(((seen + 1) / 2 - mean) / std)))
        h, features = F.max_pool2d(h, 3, 2, padding=1), []
        for number in range(1, len(_LAYERS) + 1):
            h = self.get_submodule(f"layer{number}")(h)
            features.append(h)
        return features


def load_trunk(file: str) -> ResNetTrunk:
    """The trunk with the weights of a file, which are all there or refused."""
    tensors = {name: tensor for name, tensor in load_tensors(file).items() if not _UNUSED.fullmatch(name)}
    trunk = ResNetTrunk()
    if wrong := mismatch(shapes_of(trunk.state_dict()), shapes_of(tensors)):
        raise InputError(f"{file} is no ResNet-50 in the common format, since {wrong}: name the file of one")
    trunk.load_state_dict(tensors)
    return trunk.requires_grad_(False).eval()

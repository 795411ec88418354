"""A small network that reads off a picture what each pixel shows, and how far its reading agrees with a map.

It learns from drawn scenes with their label maps, the same from run to run on one machine. Pictures are float32 in
[0, 1], (band, row, column); classes are (row, column).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks._damage import BANDS, Image
from benchmarks._kept import keep
from benchmarks._study import digest
from tileloom.models.device import fix_arithmetic
from tileloom.tiling.box import Box
from tileloom.tiling.terra.land import Kinds, Use
from tileloom.tiling.terra.scene import Terra

CLASSES = len(Use)
_STEM = 2
"""Pixels a side that lie in one place of the network's finest level: four channels each instead."""
_APART = 512
"""Pixels between windows of a scene: no two show the same."""
_RAREST = 1e-3
"""The share of pixels that a class has at least when it is weighed."""


@dataclass(frozen=True)
class Course:
    """What it learns from and for how long: ``places`` x ``places`` windows of each seed's scene."""

    seeds: tuple[int, ...]
    places: int = 8
    window: int = 128
    steps: int = 2000
    batch: int = 8
    crop: int = 64
    rate: float = 3e-3
    width: int = 32


class Segmenter(nn.Module):
    """A U-Net of three levels: pictures (batch, band, row, column) to scores (batch, class, row, column).

    Rows and columns are multiples of 8.
    """

    def __init__(self, width: int) -> None:
        """With PyTorch's own random weights."""
        super().__init__()
        fine, middle, coarse = width, 2 * width, 3 * width
        self.down = nn.ModuleList([_block(BANDS * _STEM**2, fine), _block(fine, middle), _block(middle, coarse)])
        self.up = nn.ModuleList([_block(coarse + middle, middle), _block(middle + fine, fine)])
        self.head = nn.Conv2d(fine, CLASSES * _STEM**2, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Scores of every class."""
        h_BCHW = F.pixel_unshuffle(2 * x_BCHW - 1, _STEM)
        passed = []
        for level, block in enumerate(self.down):
            h_BCHW = block(F.avg_pool2d(h_BCHW, 2) if level else h_BCHW)
            passed.append(h_BCHW)
        h_BCHW = passed.pop()
        for block in self.up:
            near_BCHW = F.interpolate(h_BCHW, scale_factor=2, mode="nearest")
            h_BCHW = block(torch.cat([near_BCHW, passed.pop()], dim=1))
        return F.pixel_shuffle(self.head(h_BCHW), _STEM)

    def read(self, picture: Image) -> Kinds:
        """The most likely class of each pixel of a picture of any size."""
        rows, cols = picture.shape[1:]
        multiple = 4 * _STEM
        wide = np.pad(picture, [(0, 0), (0, -rows % multiple), (0, -cols % multiple)], mode="edge")
        with torch.inference_mode():
            scores_CHW = self.eval()(torch.from_numpy(wide)[None])[0]
        found: Kinds = scores_CHW.argmax(dim=0).numpy().astype(np.uint8)[:rows, :cols]
        return found


def _block(width: int, wide: int) -> nn.Sequential:
    layers = []
    for channels in (width, wide):
        layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers)


def segmenter(course: Course, folder: Path) -> Segmenter:
    """The one of a course: as it was kept in a folder, or else it learns now, and is kept."""
    file = folder / f"segmenter-{digest(asdict(course))}.safetensors"
    if not file.exists():
        made = learned(course)
        keep(file, lambda begun: save_file(made.state_dict(), begun))
    kept = Segmenter(course.width)
    kept.load_state_dict(load_file(file))
    return kept


def learned(course: Course) -> Segmenter:
    """A network that has gone through a course."""
    fix_arithmetic()
    pictures, classes = _windows(course)
    # Rare classes count as much in what is told of a reading: here by the root of how rare they are.
    shares = np.bincount(classes.ravel(), minlength=CLASSES) / classes.size
    weights = torch.from_numpy(np.sqrt(1 / np.maximum(shares, _RAREST)).astype(np.float32))
    chance = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Segmenter(course.width).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=course.rate)
    for step in range(course.steps):
        for group in optimizer.param_groups:
            group["lr"] = course.rate * 0.5 * (1 + cos(pi * step / course.steps))
        x_BCHW, y_BHW = _crops(pictures, classes, course, chance)
        loss = F.cross_entropy(network(x_BCHW), y_BHW, weights)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network


def _windows(course: Course) -> tuple[Image, Kinds]:
    """Pictures (window, band, row, column) and classes (window, row, column) of all scenes."""
    corners = [(seed, row, col) for seed in course.seeds for row, col in np.ndindex(course.places, course.places)]
    side = course.window
    boxes = ((seed, Box(0, 0, side, side).shift(_APART * row, _APART * col)) for seed, row, col in corners)
    seen, shown = zip(*(Terra(seed, BANDS, "float32").look(box) for seed, box in boxes), strict=True)
    return np.stack(seen), np.stack(shown)


def _crops(pictures: Image, classes: Kinds, course: Course, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Crops from anywhere, turned and mirrored."""
    seen, shown = [], []
    for _ in range(course.batch):
        which = chance.integers(len(pictures))
        row, col = chance.integers(course.window - course.crop + 1, size=2)
        part = (slice(row, row + course.crop), slice(col, col + course.crop))
        quarters, mirrored = chance.integers(4), slice(None, None, chance.choice([-1, 1]))
        seen.append(np.rot90(pictures[which][:, *part][..., mirrored], quarters, (1, 2)))
        shown.append(np.rot90(classes[which][part][:, mirrored], quarters))
    return torch.from_numpy(np.stack(seen)), torch.from_numpy(np.stack(shown).astype(np.int64))


def confusion(readings: Iterable[Kinds], maps: Iterable[Kinds], classes: int = CLASSES) -> NDArray[np.int64]:
    """How many pixels that a map says are one class (row) were read as another (column)."""
    pairs = [
        np.bincount(classes * told.ravel().astype(np.int64) + read.ravel(), minlength=classes**2)
        for read, told in zip(readings, maps, strict=True)
    ]
    return np.sum(pairs, axis=0, dtype=np.int64).reshape(classes, classes)


def ious(counts: NDArray[np.int64]) -> dict[int, float]:
    """Intersection over union of every class that is present in the maps, pixels of all of them together."""
    both, told, read = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return {number: float(both[number] / (told + read - both)[number]) for number in np.flatnonzero(told).tolist()}


def mean_iou(counts: NDArray[np.int64]) -> float:
    """The mean of the classes that are present in the maps."""
    return float(np.mean(list(ious(counts).values())))

"""What a trained denoiser knows beyond a spectrum: its error at every noise level, on scenes it was not trained on.

Beside it stands the best linear one, Wiener's: a Gaussian field whose spectrum, and how bands go together at each of
its frequencies, are those of the scenes that the network learned from. ``ratio`` is the network's mean squared error
over the field's, at levels of abar, the share of the clean signal's power that is left. With ``--smoke`` the network is
tiny and knows nothing, so that only the field is judged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks._damage import BANDS, SEEDS, Image
from benchmarks._report import Benchmark, Figures, Limit
from benchmarks._study import model_of
from benchmarks.quality import small_net
from tileloom.models.build import denoiser_of
from tileloom.models.denoiser import Condition, Denoiser, split_answer
from tileloom.models.device import fix_arithmetic
from tileloom.models.schedule import beta_table
from tileloom.tiling.box import Box
from tileloom.tiling.terra.scene import Terra

LEARNED_FROM = (2, 4, 5, 9)
"""Seeds of ``examples/terra/train.yaml``."""
LEVELS = (0.999, 0.99, 0.97, 0.93, 0.85, 0.7, 0.5, 0.35, 0.2, 0.1, 0.07, 0.04, 0.02, 0.01)
_EACH = 1024
"""Pixels between windows of a scene that the field is fitted to: they show unlike places."""
_BATCH = 8

LIMITS: Mapping[str, Limit] = {"field of nothing known": ("<=", 1.0)}
TARGETS: Mapping[str, Limit] = {"worst ratio, 0.1 to 0.999": ("<=", 1.0), "worst ratio, 0.01 to 0.1": ("<=", 1.1)}


@dataclass(frozen=True)
class Field:
    """A Gaussian field on square crops, as its cosine transform has it: a mean, and how bands vary by frequency.

    ``power`` is (row, column, band, band); what is not of one frequency is taken to be independent.
    """

    mean: Image
    power: Image

    @classmethod
    def of(cls, crops: Image) -> Field:
        """The field that crops (crop, band, row, column) look most like."""
        mean = crops.mean(axis=(0, 2, 3))[:, None, None]
        found = _turned(crops - mean)
        return cls(mean, np.einsum("nbij,ncij->ijbc", found, found) / len(crops))

    def clean(self, noisy: Image, abar: float) -> Image:
        """The best guess of crops in ``noisy = sqrt(abar) x + sqrt(1 - abar) noise``."""
        noise = (1 - abar) / abar * np.eye(len(self.mean))
        gain = self.power @ np.linalg.inv(self.power + noise)
        seen = _turned(noisy / sqrt(abar) - self.mean)
        return self.mean + _turned(np.einsum("ijbc,ncij->nbij", gain, seen), back=True)


def _turned(crops: Image, *, back: bool = False) -> Image:
    """The orthonormal cosine transform of crops, or back from it."""
    side = crops.shape[-1]
    k, x = np.arange(side)[:, None], np.arange(side)[None, :]
    waves = sqrt(2 / side) * np.cos(np.pi * (x + 0.5) * k / side)
    waves[0] /= sqrt(2)
    waves = waves.T if back else waves
    return np.asarray(waves @ crops @ waves.T)


def guesses(denoiser: Denoiser, noisy: Image, timestep: int, abar: float) -> Image:
    """The network's clean crops, as jobs bound them."""
    cleaned = []
    with torch.inference_mode():
        for at in range(0, len(noisy), _BATCH):
            x_BCHW = torch.from_numpy(noisy[at : at + _BATCH].astype(np.float32))
            told = denoiser.predict(x_BCHW, torch.full((len(x_BCHW),), float(timestep)), [Condition()] * len(x_BCHW))
            eps = torch.stack([split_answer(one, BANDS).eps for one in told])
            cleaned.append(((x_BCHW - sqrt(1 - abar) * eps) / sqrt(abar)).clamp(-1, 1).double().numpy())
    return np.concatenate(cleaned)


def compare(denoiser: Denoiser, field: Field, crops: Image) -> Iterator[tuple[float, float, float]]:
    """(level, the network's mean squared error, the field's) at every level, on a range of [-1, 1]."""
    contract = denoiser.contract
    chain = np.cumprod(1 - beta_table(contract.betas, contract.timesteps))
    for number, level in enumerate(LEVELS):
        timestep = int(np.abs(chain - level).argmin())
        abar = float(chain[timestep])
        noise = np.random.default_rng(number).standard_normal(crops.shape)
        noisy = sqrt(abar) * crops + sqrt(1 - abar) * noise
        ours, theirs = guesses(denoiser, noisy, timestep, abar), np.clip(field.clean(noisy, abar), -1, 1)
        yield level, float(np.square(ours - crops).mean()), float(np.square(theirs - crops).mean())


def crops_of(seed: int, box: Box, side: int) -> Image:
    """A window of a scene in model range, cut into crops (crop, band, row, column)."""
    seen = 2 * Terra(seed, BANDS, "float32").look(box)[0].astype(np.float64) - 1
    rows, cols = box.height // side, box.width // side
    return seen.reshape(BANDS, rows, side, cols, side).transpose(1, 3, 0, 2, 4).reshape(-1, BANDS, side, side)


def errors_of(model: Mapping[str, Any], *, windows: int, crops: int) -> Figures:
    """Errors by level; the field from so many windows a side of each scene learned from, of crops x crops each."""
    fix_arithmetic()
    denoiser = denoiser_of(model)
    side = denoiser.contract.native_tile
    at = [_EACH * number for number in range(windows)]
    learned = [
        crops_of(seed, Box(top, left, top + crops * side, left + crops * side), side)
        for seed in LEARNED_FROM[:windows]
        for top in at
        for left in at
    ]
    field = Field.of(np.concatenate(learned))
    held_out = np.concatenate([crops_of(seed, Box(0, 0, 4 * side, 4 * side), side) for seed in SEEDS[: 2 * windows]])
    figures: dict[str, float] = {}
    ratios, nothing = {}, float(np.square(held_out - field.mean).mean())
    for level, ours, theirs in compare(denoiser, field, held_out):
        figures |= {f"abar {level:g} network": ours, f"abar {level:g} field": theirs}
        ratios[level] = figures[f"abar {level:g} ratio"] = ours / theirs
    figures["worst ratio, 0.1 to 0.999"] = max(ratio for level, ratio in ratios.items() if level >= 0.1)
    figures["worst ratio, 0.01 to 0.1"] = max(ratio for level, ratio in ratios.items() if level <= 0.1)
    figures["field of nothing known"] = max(figures[f"abar {level:g} field"] for level in LEVELS) / nothing
    return figures


def measure(smoke: bool, *, model: str) -> Figures:
    """A model; at the small size a random net."""
    if not smoke:
        return errors_of(model_of(model), windows=4, crops=4)
    with TemporaryDirectory() as folder:
        return errors_of(small_net(Path(folder)), windows=1, crops=4)


BENCHMARK = Benchmark(
    "denoising", measure, LIMITS, TARGETS, {"model": {"default": "terra", "help": "a model by its name or file"}}
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())

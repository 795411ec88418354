"""The exact denoiser of a stationary Gaussian field: no weights, known truth.

A window of the field has the covariance ``std^2 B (x) R (x) C``: bands, rows and columns, where R and C
are symmetric Toeplitz matrices of correlations. In the eigenvectors of R and C everything is diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..tiling.work import Floats
from .contract import Contract, Covariance, GaussianSpec, gaussian_contract, gaussian_spec
from .denoiser import Condition
from .schedule import schedule

Doubles = NDArray[np.float64]


def correlation(spec: GaussianSpec, distance: Doubles) -> Doubles:
    """The correlation of two pixels of one row (or column) at a distance in pixels."""
    roots: dict[Covariance, float] = {"exponential": 1.0, "matern32": sqrt(3), "matern52": sqrt(5)}
    d = roots[spec.covariance] * np.abs(distance) / spec.length
    polynomials: dict[Covariance, Doubles] = {
        "exponential": np.ones_like(d),
        "matern32": 1 + d,
        "matern52": 1 + d + d**2 / 3,
    }
    return polynomials[spec.covariance] * np.exp(-d)


def axis_covariance(spec: GaussianSpec, size: int, block: int = 1) -> Doubles:
    """Correlations along one axis of ``size`` values, each the mean of ``block`` pixels: P Toeplitz P^T.

    Still Toeplitz: two blocks d apart share ``block - |u|`` pixel pairs at the distance ``d block + u``.
    """
    overlap = np.arange(1 - block, block)
    weights = (block - np.abs(overlap)) / block**2
    lags = correlation(spec, np.arange(size, dtype=np.float64)[:, None] * block + overlap) @ weights
    return np.asarray(lags[np.abs(np.subtract.outer(np.arange(size), np.arange(size)))])


@dataclass(frozen=True, slots=True, eq=False)
class _Spectrum:
    """A window's covariance made diagonal: eigenvectors of rows and columns, and their variances (row, column)."""

    rows: Tensor
    cols: Tensor
    variance: Tensor

    def apply(self, x_CHW: Tensor, common_HW: Tensor, apart_HW: Tensor) -> Tensor:
        """A matrix that is diagonal here, times a window.

        The mean over the bands is scaled by ``common_HW``, what the bands have apart from it by ``apart_HW``.
        """
        z_CHW = self.rows.T @ (x_CHW @ self.cols)
        mean_HW = z_CHW.mean(dim=0)
        z_CHW = apart_HW * (z_CHW - mean_HW) + common_HW * mean_HW
        return self.rows @ (z_CHW @ self.cols.T)


def _band_shares(spec: GaussianSpec, bands: int) -> tuple[float, float]:
    """The band covariance's eigenvalues: of the mean over the bands, and of what they have apart from it."""
    apart = 1 - spec.band_correlation
    return apart + bands * spec.band_correlation, apart


def _diagonalise(spec: GaussianSpec, shape: tuple[int, int], block: int, device: str = "cpu") -> _Spectrum:
    """Made in float64 on the processor by torch, whose thread count the engine fixes: other counts give other bits."""
    axes = [torch.linalg.eigh(torch.from_numpy(axis_covariance(spec, size, block))) for size in shape]
    (row_values, rows), (col_values, cols) = axes
    variance = spec.std**2 * torch.outer(row_values.clamp(min=0), col_values.clamp(min=0))
    return _Spectrum(*(table.to(device) for table in (rows.float(), cols.float(), variance)))


_spectrum = lru_cache(maxsize=64)(_diagonalise)


@dataclass(frozen=True)
class Gaussian:
    """``eps = (x_t - sqrt(abar) E[x_0 | x_t]) / sqrt(1 - abar)`` of a :class:`GaussianSpec`'s field.

    With a = sqrt(abar), s = sqrt(1 - abar), prior mean m and covariance S it is
    ``s (a^2 S + s^2)^-1 (x_t - a m)``: no difference of near-equal numbers, however small s is.
    """

    spec: GaussianSpec = field(default_factory=GaussianSpec)

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Gaussian:
        """From a model's options."""
        return cls(gaussian_spec(options))

    @property
    def contract(self) -> Contract:
        """Any number of bands, any window, values without bounds."""
        return gaussian_contract({})

    @property
    def numerics(self) -> Mapping[str, str]:
        """Single precision."""
        return {"precision": "fp32"}

    @cached_property
    def _log_abar(self) -> Doubles:
        contract = self.contract
        return np.log(schedule(contract.betas, steps=contract.timesteps, total=contract.timesteps).abar)

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """The noise in each window; a row is computed alone, from memory of its own, whatever its slot."""
        eps_BCHW = torch.zeros_like(x_BCHW)
        for row, condition in enumerate(conditions):
            eps_BCHW[row] = self._predict(x_BCHW[row].clone(), float(t_B[row]), condition)
        return eps_BCHW

    def _predict(self, x_CHW: Tensor, timestep: float, condition: Condition) -> Tensor:
        bands, height, width = x_CHW.shape
        spectrum = _spectrum(self.spec, (height, width), condition.factor**condition.level, str(x_CHW.device))
        abar = float(np.exp(np.interp(timestep, np.arange(len(self._log_abar)), self._log_abar)))
        scales = [
            (sqrt(1 - abar) / (abar * share * spectrum.variance + (1 - abar))).float()
            for share in _band_shares(self.spec, bands)
        ]
        return spectrum.apply(x_CHW - sqrt(abar) * self.spec.mean, *scales)

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """Tables, then the batch's prediction and the temporaries of one row."""
        batch, bands, height, width = batch_shape
        tables = 4 * (height**2 + width**2) + 8 * height * width
        return tables, 4 * bands * height * width * (batch + 6)


def sample_field(spec: GaussianSpec, shape: tuple[int, int, int], *, seed: int) -> Floats:
    """A draw of the field on a grid of ``shape`` (bands, rows, columns): white noise times its covariance's root."""
    bands, height, width = shape
    z_CHW = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))
    # Made anew: this may run on any number of threads, whose bits a denoiser of the same process must not meet.
    spectrum = _diagonalise(spec, (height, width), 1)
    roots = [(share * spectrum.variance).sqrt().float() for share in _band_shares(spec, bands)]
    x_CHW: Floats = (spec.mean + spectrum.apply(z_CHW, *roots)).numpy()
    return x_CHW

"""The Gaussian denoiser against dense linear algebra on the whole window, and its contract."""

import math

import numpy as np
import pytest
import torch

from tileloom.models.contract import GaussianSpec, gaussian_spec, split_model
from tileloom.models.denoiser import Condition
from tileloom.models.gaussian import Gaussian, axis_covariance, correlation, sample_field
from tileloom.models.kinds import contract_of
from tileloom.tiling.errors import InputError

BETAS = np.linspace(1e-4, 0.02, 1000)
LOG_ABAR = np.cumsum(np.log1p(-BETAS))


def dense_covariance(spec, bands, height, width):
    """From the definition, pixel pair by pixel pair; order (band, row, column)."""
    shape = {
        "exponential": lambda d: math.exp(-d / spec.length),
        "matern32": lambda d: (1 + math.sqrt(3) * d / spec.length) * math.exp(-math.sqrt(3) * d / spec.length),
        "matern52": lambda d: (
            (1 + math.sqrt(5) * d / spec.length + 5 * d * d / (3 * spec.length**2))
            * math.exp(-math.sqrt(5) * d / spec.length)
        ),
    }[spec.covariance]
    rows, cols = ([[shape(abs(i - j)) for j in range(n)] for i in range(n)] for n in (height, width))
    between = [[1.0 if a == b else spec.band_correlation for b in range(bands)] for a in range(bands)]
    return spec.std**2 * np.kron(np.kron(between, rows), cols)


def dense_pool(bands, height, width, block):
    """The matrix of block means of every band."""
    small = np.kron(np.eye(height // block), np.full(block, 1 / block))
    wide = np.kron(np.eye(width // block), np.full(block, 1 / block))
    return np.kron(np.eye(bands), np.kron(small, wide))


def dense_eps(covariance, mean, x_CHW, timestep):
    """(x - a E[x0|x]) / s, with E[x0|x] = m + a S (a^2 S + s^2 I)^-1 (x - a m), solved in float64."""
    abar = math.exp(np.interp(timestep, np.arange(1000), LOG_ABAR))
    a, s2 = math.sqrt(abar), 1 - abar
    x = x_CHW.double().numpy().ravel()
    gain = a * covariance @ np.linalg.solve(a * a * covariance + s2 * np.eye(len(x)), x - a * mean)
    return ((x - a * (mean + gain)) / math.sqrt(s2)).reshape(x_CHW.shape), abar


@pytest.mark.parametrize("covariance", ["exponential", "matern32", "matern52"])
@pytest.mark.parametrize(("level", "factor"), [(0, 2), (1, 2), (2, 2), (1, 3)])
def test_posterior_mean_is_the_dense_closed_form(covariance, level, factor):
    spec = GaussianSpec(covariance, length=5.0, std=0.7, mean=0.2, band_correlation=0.6)
    bands, height, width = 3, 6, 8
    block = factor**level
    pool = dense_pool(bands, height * block, width * block, block)
    dense = pool @ dense_covariance(spec, bands, height * block, width * block) @ pool.T
    x_BCHW = torch.randn((5, bands, height, width), generator=torch.Generator().manual_seed(1))
    t_B = torch.tensor([0.0, 1.0, 250.0, 640.5, 999.0])
    eps_BCHW = Gaussian(spec).predict(x_BCHW, t_B, [Condition(level, factor)] * 5)
    assert eps_BCHW.dtype == torch.float32
    for x_CHW, t, eps_CHW in zip(x_BCHW, t_B, eps_BCHW, strict=True):
        expected, abar = dense_eps(dense, spec.mean, x_CHW, float(t))
        # s eps / a is what a sampler subtracts from x / a to get x0: the error that counts.
        error = np.abs(eps_CHW.numpy() - expected).max() * math.sqrt((1 - abar) / abar)
        assert error < 2e-6 / math.sqrt(abar)


@pytest.mark.parametrize(("bands", "between"), [(1, 0.0), (1, 0.9), (4, 0.0), (13, 0.99)])
def test_any_number_of_bands(bands, between):
    spec = GaussianSpec(length=3.0, std=0.5, band_correlation=between)
    x_BCHW = torch.randn((1, bands, 4, 5), generator=torch.Generator().manual_seed(2))
    eps_BCHW = Gaussian(spec).predict(x_BCHW, torch.tensor([300.0]), [Condition()])
    expected, _ = dense_eps(dense_covariance(spec, bands, 4, 5), 0.0, x_BCHW[0], 300.0)
    np.testing.assert_allclose(eps_BCHW[0].numpy(), expected, atol=2e-6)


def test_large_smooth_window_stays_accurate_at_the_first_timestep():
    spec = GaussianSpec("matern52", length=40.0, std=0.5, band_correlation=0.0)
    x_BCHW = torch.from_numpy(sample_field(spec, (1, 24, 24), seed=3)[None])
    eps_BCHW = Gaussian(spec).predict(x_BCHW, torch.tensor([0.0]), [Condition()])
    expected, abar = dense_eps(dense_covariance(spec, 1, 24, 24), 0.0, x_BCHW[0], 0.0)
    assert np.abs(eps_BCHW[0].numpy() - expected).max() * math.sqrt(1 - abar) < 2e-6


@pytest.mark.parametrize("covariance", ["exponential", "matern32", "matern52"])
@pytest.mark.parametrize("block", [1, 2, 3, 8])
def test_coarse_covariance_is_the_pooled_one(covariance, block):
    spec = GaussianSpec(covariance, length=7.0)
    fine = correlation(spec, np.subtract.outer(np.arange(6 * block), np.arange(6 * block)).astype(float))
    pool = np.kron(np.eye(6), np.full(block, 1 / block))
    np.testing.assert_allclose(axis_covariance(spec, 6, block), pool @ fine @ pool.T, rtol=1e-13)


def test_rows_beyond_the_conditions_are_padding():
    x_BCHW = torch.randn((4, 1, 6, 6))
    x_BCHW[2:] = torch.nan
    alone = Gaussian().predict(x_BCHW, torch.full((4,), 100.0), [Condition()] * 2)
    assert torch.isfinite(alone[:2]).all()


def test_a_row_has_the_same_bits_in_every_slot_and_company():
    denoiser = Gaussian(GaussianSpec(length=4.0))
    x_BCHW = torch.randn((5, 3, 7, 9), generator=torch.Generator().manual_seed(4))
    t_B = torch.tensor([0.0, 10.0, 500.0, 700.0, 999.0])
    conditions = [Condition(level) for level in (0, 1, 0, 2, 1)]
    together = denoiser.predict(x_BCHW, t_B, conditions)
    for order in ([4, 3, 2, 1, 0], [1, 2, 3, 4, 0], [2, 2, 2, 0, 2]):
        moved = denoiser.predict(x_BCHW[order], t_B[order], [conditions[row] for row in order])
        assert torch.equal(moved, together[order])


def test_sampled_fields_have_the_covariance():
    spec = GaussianSpec("matern32", length=3.0, std=0.5, mean=0.25, band_correlation=0.7)
    draws = np.stack([sample_field(spec, (2, 4, 5), seed=seed).ravel() for seed in range(4_000)])
    assert draws.dtype == np.float32
    assert np.abs(draws.mean(axis=0) - 0.25).max() < 5 * 0.5 / math.sqrt(4_000)
    spread = np.abs(np.cov(draws, rowvar=False) - dense_covariance(spec, 2, 4, 5)).max()
    assert spread < 5 * math.sqrt(2) * 0.25 / math.sqrt(4_000)


def test_sampling_repeats_by_seed():
    spec = GaussianSpec()
    assert np.array_equal(sample_field(spec, (1, 8, 8), seed=5), sample_field(spec, (1, 8, 8), seed=5))
    assert not np.array_equal(sample_field(spec, (1, 8, 8), seed=5), sample_field(spec, (1, 8, 8), seed=6))


def test_contract_of_the_field():
    for contract in (contract_of("gaussian"), contract_of({"name": "gaussian", "length": 3.5}), Gaussian().contract):
        assert contract.name == "gaussian"
        assert contract.bands is None
        assert contract.value_range is None
        contract.check((64, 48), 13)
    with pytest.raises(InputError, match=r"tile 2 does not suit model gaussian.*nearest is 4"):
        contract_of("gaussian").check((2, 64), 3)


def test_model_is_a_name_or_a_mapping():
    assert split_model("gaussian") == ("gaussian", {})
    assert split_model({"name": "gaussian", "std": 1.0}) == ("gaussian", {"std": 1.0})
    assert gaussian_spec({"length": 4, "covariance": "matern52"}) == GaussianSpec("matern52", length=4)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("gausian", "no model is called 'gausian'"),
        ({"length": 3}, r"model\.name is missing"),
        ({"name": "gaussian", "lenght": 3}, r"model\.lenght is no option of gaussian; its options are covariance"),
        ({"name": "gaussian", "covariance": "cubic"}, r"model\.covariance is 'cubic'; choose one of exponential"),
        ({"name": "gaussian", "length": 0}, r"model\.length is 0"),
        ({"name": "gaussian", "length": "8"}, r"model\.length is '8'; give a finite number"),
        ({"name": "gaussian", "length": float("nan")}, r"model\.length is nan"),
        ({"name": "gaussian", "std": -1.0}, r"model\.std is -1\.0"),
        ({"name": "gaussian", "mean": True}, r"model\.mean is True"),
        ({"name": "gaussian", "band_correlation": 1.0}, r"model\.band_correlation is 1\.0"),
    ],
)
def test_wrong_models_are_refused_in_one_sentence(model, words):
    with pytest.raises(InputError, match=words):
        contract_of(model)

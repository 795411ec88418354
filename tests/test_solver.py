"""DDNM against its own recursion in dense float64 matrices, and what it promises of draws, steps and ends."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tileloom.models.contract import GaussianSpec
from tileloom.models.denoiser import Condition
from tileloom.models.gaussian import Gaussian
from tileloom.models.noise import PositionNoise
from tileloom.models.schedule import schedule
from tileloom.models.solvers import Ddnm
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.errors import InputError
from tileloom.tiling.measurement import MaskSite, Measurement
from tileloom.tiling.work import TileInputs

STEPS = 6
PLAIN = (5, 4, 3, 2, 1, 0, -1)
TRAVEL = (5, 4, 3, 4, 5, 4, 3, 2, 1, 2, 3, 2, 1, 0, 1, 0, -1)
SPEC = GaussianSpec("exponential", length=3.0, std=0.6, mean=0.3, band_correlation=0.4)
FIELD = Gaussian(SPEC)
TABLES = {steps: schedule(steps=steps) for steps in (STEPS, 100)}


class Given:
    """A noise field of chosen draws, nought where none was chosen, that keeps account of what it was asked for."""

    device = "cpu"

    def __init__(self, draws=None):
        self.draws = draws or {}
        self.asked = []

    def windows(self, addresses, bands):
        self.asked += [draw for _, _, draw, _ in addresses]
        return torch.stack([self.draws.get(draw, torch.zeros(bands, *box.shape)) for _, _, draw, box in addresses])


def solver(*, times=PLAIN, noise=None, bands=1, clip=None):
    return Ddnm(replace(TABLES[STEPS], times=times), Given() if noise is None else noise, bands, clip)


def tile(measurement, *, bands=1, size=(6, 6), seed=0, **more):
    """A tile with random pixels everywhere; masks and context as told in ``more``."""
    rng = np.random.default_rng(seed)
    shape = (1 if measurement.gray else bands, size[0] // measurement.scale, size[1] // measurement.scale)
    measured = rng.random(shape) < 0.5 if measurement.mask is MaskSite.MEASURED else np.ones(shape, bool)
    y = np.where(measured, rng.standard_normal(shape), 0).astype(np.float32)
    if measurement.mask is MaskSite.TARGET:
        more["visible"] = rng.random(size) < 0.7
    return TileInputs("scene", TileKey(0, 0, 0), Box(0, 0, *size), measurement, y, measured, **more)


def with_context(inputs, bands):
    """The same tile with finished pixels on its left."""
    context = np.random.default_rng(7).standard_normal((bands, *inputs.box.shape)).astype(np.float32)
    mask = np.zeros(inputs.box.shape, bool)
    mask[:, :2] = True
    return replace(inputs, context=context, context_mask=mask)


def with_coarse(inputs, bands):
    """The same tile above a coarser level that knows all but one of its pixels."""
    shape = inputs.box.height // 2, inputs.box.width // 2
    mask = np.ones(shape, bool)
    mask[0, 1] = False
    return replace(inputs, coarse=np.full((bands, *shape), 0.7, np.float32), coarse_mask=mask, factor=2)


def walk(ddnm, state, predict):
    """The result of a tile from here on, and the network calls it took."""
    calls = 0
    while not ddnm.finished(state):
        state, calls = ddnm.tell(state, predict(*ddnm.ask(state)[:2])), calls + 1
    return ddnm.result(state), calls


def gaussian(x_CHW, timestep):
    return FIELD.predict(x_CHW[None], torch.tensor([timestep]), [Condition()])[0]


def no_noise(x_CHW, timestep):
    """A network that takes every window for clean: x0 is x scaled."""
    return torch.zeros_like(x_CHW)


# ---------------------------------------------------------------------------------------------------------
# The recursion in dense matrices: nothing below this line and above the next reads tileloom's arithmetic.


class Chain:
    """Tables of the respaced chain, from the textbook's definitions."""

    kept = np.array([round(k * 999 / (STEPS - 1)) for k in range(STEPS)])
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[kept]
    before = np.append(1.0, abar[:-1])
    beta = 1 - abar / before
    variance = beta * (1 - before) / (1 - abar)
    clean = beta * np.sqrt(before) / (1 - abar)
    noisy = (1 - before) * np.sqrt(1 - beta) / (1 - abar)


def block_means(rows, cols, block):
    """The matrix that pools a band of rows x cols pixels."""
    tall = np.kron(np.eye(rows // block), np.full(block, 1 / block))
    wide = np.kron(np.eye(cols // block), np.full(block, 1 / block))
    return np.kron(tall, wide)


def measuring(inputs, bands):
    """A as a matrix whose unmeasured rows are left out, and the values that it gave."""
    rows, cols = inputs.box.shape
    pool = block_means(rows, cols, inputs.measurement.scale)
    mixed = np.full((1, bands), 1 / bands) if inputs.measurement.gray else np.eye(bands)
    matrix = np.kron(mixed, pool)
    if inputs.visible is not None:
        matrix = matrix * np.tile(inputs.visible.ravel(), bands)
    told = inputs.measured.ravel() & (np.abs(matrix).sum(axis=1) > 0)
    return matrix[told], inputs.y.ravel()[told].astype(float)


def prior(bands, rows, cols):
    """Covariance of the exponential field, order (band, row, column)."""
    line = [np.exp(-np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / SPEC.length) for n in (rows, cols)]
    between = np.where(np.eye(bands, dtype=bool), 1.0, SPEC.band_correlation)
    return SPEC.std**2 * np.kron(between, np.kron(*line))


def trust(i, sigma):
    """DDNM+: lambda and gamma of equation 18, with sigma_t and a_t of the posterior."""
    sigma_t, a_t = math.sqrt(Chain.variance[i]), Chain.clean[i]
    if sigma_t >= a_t * sigma:
        return 1.0, Chain.variance[i] - (a_t * sigma) ** 2
    return sigma_t / (a_t * sigma), 0.0


def constrained(inputs, bands, lam):
    """x0 -> x0_hat as (matrix, vector): low frequencies, then the measurement, then the overlap."""
    size = bands * inputs.box.area
    matrix, vector = np.eye(size), np.zeros(size)
    if inputs.coarse is not None:
        known = np.tile(inputs.coarse_mask.ravel(), bands)
        pool = np.kron(np.eye(bands), block_means(*inputs.box.shape, inputs.factor))[known]
        up = np.linalg.pinv(pool)
        matrix, vector = matrix - up @ pool, vector + up @ inputs.coarse.ravel()[known]
    a, y = measuring(inputs, bands)
    back = np.linalg.pinv(a)
    keep = np.eye(size) - lam * back @ a
    matrix, vector = keep @ matrix, keep @ vector + lam * back @ y
    if inputs.context is not None:
        pasted = np.tile(inputs.context_mask.ravel(), bands)
        matrix[pasted] = 0
        vector[pasted] = inputs.context.ravel()[pasted]
    return matrix, vector


def recursion(inputs, bands, times):
    """DDNM's result when the network is the exact posterior mean: its mean, and a matrix for every draw of noise."""
    covariance = prior(bands, *inputs.box.shape)
    unit = np.eye(len(covariance))
    mean, maps = np.zeros(len(unit)), [unit]
    for i, after in pairwise(times):
        if after > i:
            step, shift, added = math.sqrt(1 - Chain.beta[after]) * unit, 0, Chain.beta[after]
        else:
            a, s2 = math.sqrt(Chain.abar[i]), 1 - Chain.abar[i]
            gain = np.linalg.solve(a * a * covariance + s2 * unit, a * covariance).T
            offset = SPEC.mean * (1 - a * gain.sum(axis=1))
            lam, added = trust(i, 2 * inputs.measurement.sigma)
            matrix, vector = constrained(inputs, bands, lam)
            step = Chain.clean[i] * matrix @ gain + Chain.noisy[i] * unit
            shift = Chain.clean[i] * (matrix @ offset + vector)
        mean, maps = step @ mean + shift, [step @ m for m in maps] + [math.sqrt(added) * unit]
    return mean, maps


# ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def affine(inputs, bands, times):
    """The solver's result as an affine map of its noise: the constant, and a matrix for every draw."""
    shape = bands, *inputs.box.shape
    size = math.prod(shape)
    silent = solver(times=times, bands=bands)
    states = [silent.begin(inputs)]
    while not silent.finished(states[-1]):
        states.append(silent.tell(states[-1], gaussian(*silent.ask(states[-1])[:2])))
    constant = silent.result(states[-1]).double().numpy().ravel()
    matrices = []
    for draw in range(len(times)):
        # What came before a draw is the same for all of its values; the walk goes on from there.
        before = [state for state in states if state.position < max(1, draw)][-1]
        columns = np.empty((size, size))
        for at, unit in enumerate(torch.eye(size)):
            loud = solver(times=times, noise=Given({draw: unit.reshape(shape)}), bands=bands)
            x_CHW, _ = walk(loud, before if draw else loud.begin(inputs), gaussian)
            columns[:, at] = x_CHW.double().numpy().ravel() - constant
        matrices.append(columns)
    return constant, matrices


@dataclass(frozen=True)
class Case:
    measurement: Measurement
    times: tuple[int, ...] = PLAIN
    bands: int = 1
    dress: tuple[Callable, ...] = ()

    def inputs(self, *size):
        inputs = tile(self.measurement, bands=self.bands, size=size)
        for put_on in self.dress:
            inputs = put_on(inputs, self.bands)
        return inputs


MASKED = MaskSite.MEASURED
CASES = {
    "sr:2": Case(Measurement(scale=2)),
    "inpaint": Case(Measurement(mask=MASKED)),
    "denoise": Case(Measurement(sigma=0.1)),
    "noisy sr:2": Case(Measurement(scale=2, sigma=0.2)),
    "sr:2, time travel": Case(Measurement(scale=2), TRAVEL),
    "noisy inpaint, time travel": Case(Measurement(mask=MASKED, sigma=0.15), TRAVEL),
    "old photo": Case(Measurement(2, gray=True, mask=MaskSite.TARGET), bands=2),
    "coarse and overlap": Case(Measurement(scale=2, sigma=0.1), bands=2, dress=(with_coarse, with_context)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_results_are_spread_as_the_recursion_says(case):
    inputs = case.inputs(6, 4)
    constant, matrices = affine(inputs, case.bands, case.times)
    mean, maps = recursion(inputs, case.bands, case.times)
    np.testing.assert_allclose(constant, mean, atol=1e-4)
    np.testing.assert_allclose(sum(m @ m.T for m in matrices), sum(m @ m.T for m in maps), atol=1e-4)


@pytest.mark.parametrize("size", [(6, 6), (8, 6), (8, 8)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_results_are_those_of_the_recursion_for_any_noise(case, size):
    inputs = case.inputs(*size)
    mean, maps = recursion(inputs, case.bands, case.times)
    draws = torch.randn((len(maps), case.bands, *size), generator=torch.Generator().manual_seed(5))
    ddnm = solver(times=case.times, noise=Given(dict(enumerate(draws))), bands=case.bands)
    x_CHW, _ = walk(ddnm, ddnm.begin(inputs), gaussian)
    expected = mean + sum(m @ draw.double().numpy().ravel() for m, draw in zip(maps, draws, strict=True))
    np.testing.assert_allclose(x_CHW.numpy().ravel(), expected, atol=2e-4)


@pytest.mark.parametrize("sigma", [0.1, 0.15, 0.2])
def test_noisy_cases_trust_fully_at_first_and_less_at_last(sigma):
    trusts = [trust(i, 2 * sigma)[0] for i in range(STEPS)]
    assert trusts == sorted(trusts)
    assert trusts[0] == 0
    assert 0 < trusts[1] < 1
    assert trusts[-1] == 1


def solver_of_100():
    return Ddnm(TABLES[100], Given(), 1)


@given(st.integers(0, 99), st.floats(0, 4))
def test_measurement_noise_and_added_noise_fill_the_posterior(i, sigma):
    lam, gamma = solver_of_100().weights(i, sigma)
    brought = lam * TABLES[100].posterior_mean_coef1[i] * sigma
    assert gamma + brought**2 == pytest.approx(TABLES[100].posterior_variance[i], rel=1e-9, abs=1e-15)
    assert 0 <= lam <= 1
    assert gamma == 0 or lam == 1


def test_a_noiseless_measurement_is_trusted_at_every_step():
    weights = [solver_of_100().weights(i, 0.0) for i in range(100)]
    assert weights == [(1.0, variance) for variance in TABLES[100].posterior_variance]


def test_eta_is_the_share_of_each_draw_that_is_added():
    """Without noise a step is the posterior's mean itself."""
    draws = dict(enumerate(torch.randn(8, 1, 4, 4)))
    begun = solver(noise=Given(draws)).begin(tile(Measurement(scale=2), size=(4, 4)))
    none, half, all_of_it = (
        replace(solver(noise=Given(draws)), eta=eta).tell(begun, torch.zeros(1, 4, 4)).x_CHW for eta in (0.0, 0.5, 1.0)
    )
    variance = TABLES[STEPS].posterior_variance[STEPS - 1]
    torch.testing.assert_close(half - none, 0.5 * (all_of_it - none))
    torch.testing.assert_close(all_of_it - none, draws[1] * math.sqrt(variance))


@pytest.mark.parametrize(("length", "repeat", "calls", "undos"), [(1, 1, 100, 0), (10, 3, 280, 180)])
def test_network_calls_of_published_settings(length, repeat, calls, undos):
    steps = schedule(steps=100, travel_length=length, travel_repeat=repeat)
    noise = Given()
    ddnm = Ddnm(steps, noise, 1)
    x_CHW, taken = walk(ddnm, ddnm.begin(tile(Measurement(), size=(4, 4))), no_noise)
    assert ddnm.calls == taken == calls
    # x_T, then one draw a transition; the last step has none.
    assert noise.asked == list(range(calls + undos))
    assert torch.isfinite(x_CHW).all()


def test_undo_steps_use_the_beta_of_the_index_they_reach():
    draws = dict(enumerate(torch.randn(8, 1, 4, 4)))
    unmeasured = replace(tile(Measurement(), size=(4, 4)), measured=np.zeros((1, 4, 4), bool))
    straight = solver(times=PLAIN, noise=Given(draws))
    back = solver(times=(5, 4, 5, 4, 3, 2, 1, 0, -1), noise=Given(draws))
    twice = solver(times=(5, 4, 3, 4, 5, 4, 3, 2, 1, 0, -1), noise=Given(draws))
    at = straight.begin(unmeasured)
    x4 = straight.tell(at, gaussian(*straight.ask(at)[:2]))
    x3 = straight.tell(x4, gaussian(*straight.ask(x4)[:2]))
    keep, add = np.sqrt(1 - Chain.beta), np.sqrt(Chain.beta)
    told = back.tell(at, gaussian(*back.ask(at)[:2]))
    assert told.position == 2
    torch.testing.assert_close(told.x_CHW, keep[5] * x4.x_CHW + add[5] * draws[2])
    told = twice.tell(x4, gaussian(*twice.ask(x4)[:2]))
    assert told.position == 4
    torch.testing.assert_close(told.x_CHW, keep[5] * (keep[4] * x3.x_CHW + add[4] * draws[3]) + add[5] * draws[4])


def test_the_network_is_told_the_original_timestep():
    ddnm = solver(times=TRAVEL)
    state, seen = ddnm.begin(tile(Measurement())), []
    while not ddnm.finished(state):
        seen.append(ddnm.ask(state)[1])
        state = ddnm.tell(state, torch.zeros(1, 6, 6))
    assert seen == [float(Chain.kept[i]) for i, after in pairwise(TRAVEL) if after < i]


def last_step(inputs, *, bands=1, clip=None, x_CHW=None):
    """The state before the last step, and the finished one; the network answers with noise."""
    ddnm = solver(bands=bands, clip=clip)
    x_CHW = torch.randn((bands, *inputs.box.shape)) if x_CHW is None else x_CHW
    before = replace(ddnm.begin(inputs), x_CHW=x_CHW, position=STEPS - 1)
    eps_CHW = torch.randn((bands, *inputs.box.shape))
    after = ddnm.tell(before, eps_CHW)
    assert ddnm.finished(after)
    tables = ddnm.schedule
    guess_CHW = float(tables.sqrt_recip_abar[0]) * x_CHW - float(tables.sqrt_recipm1_abar[0]) * eps_CHW
    return guess_CHW, ddnm.result(after)


@pytest.mark.parametrize("measurement", [Measurement(2), Measurement(mask=MASKED), Measurement(2, gray=True)])
def test_the_result_measures_as_y(measurement):
    inputs = tile(measurement, bands=2)
    _, x_CHW = last_step(inputs, bands=2)
    a, y = measuring(inputs, 2)
    np.testing.assert_allclose(a @ x_CHW.double().numpy().ravel(), y, atol=1e-6)


def test_the_last_guess_is_returned_to_the_bit_where_nothing_is_known():
    inputs = tile(Measurement(mask=MASKED))
    guess_CHW, x_CHW = last_step(inputs)
    free = torch.from_numpy(~inputs.measured)
    assert free.any()
    assert torch.equal(x_CHW[free], guess_CHW[free])


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_finished_neighbours_come_back_to_the_bit(sigma):
    inputs = with_context(tile(Measurement(2, sigma=sigma), bands=2), 2)
    _, x_CHW = last_step(inputs, bands=2)
    assert np.array_equal(x_CHW.numpy()[:, inputs.context_mask], inputs.context[:, inputs.context_mask])


@pytest.mark.parametrize("measurement", [Measurement(sigma=0.01), Measurement(2, sigma=0.3)])
def test_a_noisy_measurement_does_not_touch_the_last_guess(measurement):
    guess_CHW, x_CHW = last_step(tile(measurement))
    assert torch.equal(x_CHW, guess_CHW)


def test_guesses_are_clipped_only_where_the_range_is_known():
    inputs = replace(tile(Measurement(mask=MASKED)), y=np.full((1, 6, 6), 1.5, np.float32))
    wide_CHW = torch.linspace(-3, 3, 36).reshape(1, 6, 6)
    free = torch.from_numpy(~inputs.measured)
    guess_CHW, unclipped_CHW = last_step(inputs, x_CHW=wide_CHW)
    assert torch.equal(unclipped_CHW[free], guess_CHW[free])
    assert guess_CHW[free].abs().max() > 1
    guess_CHW, clipped_CHW = last_step(inputs, x_CHW=wide_CHW, clip=(-1.0, 1.0))
    assert torch.equal(clipped_CHW[free], guess_CHW[free].clamp(-1, 1))
    # What is measured is imposed after the guess was clipped, and may lie beyond.
    assert clipped_CHW[~free].numpy() == pytest.approx(1.5)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("times", [PLAIN, TRAVEL])
def test_every_transition_has_a_draw_of_its_own_number(times, sigma):
    noise = Given()
    ddnm = solver(times=times, noise=noise)
    state = ddnm.begin(tile(Measurement(sigma=sigma)))
    assert noise.asked == [0]
    while not ddnm.finished(state):
        noise.asked.clear()
        before, state = state, ddnm.tell(state, torch.zeros(1, 6, 6))
        left = range(before.position, state.position)
        assert noise.asked == [position + 1 for position in left if times[position + 1] >= 0]


def test_noise_is_asked_for_by_image_level_and_place():
    addresses = []

    class Addressed(Given):
        def windows(self, asked, bands):
            addresses.extend((image, level, box, bands) for image, level, _, box in asked)
            return super().windows(asked, bands)

    inputs = replace(tile(Measurement(), bands=3), image="other", key=TileKey(2, 1, 0), box=Box(12, 6, 18, 12))
    ddnm = solver(times=TRAVEL, noise=Addressed(), bands=3)
    walk(ddnm, ddnm.begin(inputs), no_noise)
    assert set(addresses) == {("other", 2, Box(12, 6, 18, 12), 3)}


def test_overlapping_tiles_share_their_noise():
    ddnm = solver(times=TRAVEL, noise=PositionNoise(3))
    west = replace(tile(Measurement(), size=(6, 6)), measured=np.zeros((1, 6, 6), bool))
    east = replace(west, key=TileKey(0, 0, 1), box=Box(0, 4, 6, 10))
    left, right = ddnm.begin(west), ddnm.begin(east)
    while not ddnm.finished(left):
        assert torch.equal(left.x_CHW[..., 4:], right.x_CHW[..., :2])
        left, right = (ddnm.tell(state, 0.1 * state.x_CHW) for state in (left, right))
    assert torch.equal(ddnm.result(left)[..., 4:], ddnm.result(right)[..., :2])


def test_sigma_is_stated_on_half_the_models_range():
    assert solver().begin(tile(Measurement(sigma=0.1))).sigma == 0.2


def test_a_step_can_be_taken_again():
    ddnm = solver(times=TRAVEL, noise=PositionNoise(3))
    state = ddnm.begin(tile(Measurement(2, sigma=0.1)))
    while not ddnm.finished(state):
        kept_CHW, eps_CHW = state.x_CHW.clone(), gaussian(*ddnm.ask(state)[:2])
        once, again = ddnm.tell(state, eps_CHW), ddnm.tell(state, eps_CHW)
        assert torch.equal(state.x_CHW, kept_CHW)
        assert torch.equal(once.x_CHW, again.x_CHW)
        state = once


def test_a_measurement_of_another_shape_is_refused_by_name():
    inputs = replace(tile(Measurement(2), bands=1), key=TileKey(1, 2, 3))
    with pytest.raises(
        InputError, match="image scene, tile level 1 row 2 column 3: measurement is 1x3x3, must be 3x3x3"
    ):
        solver(bands=3).begin(inputs)

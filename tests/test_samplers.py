"""Samplers beside DDNM: each against its published formula, all of them against what every sampler promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiles import BANDS, LEVELS, TILE, run, tile
from tileloom.models.ancestral import Ddpm
from tileloom.models.contract import GaussianSpec
from tileloom.models.ddim import Ddim, DdnmImplicit
from tileloom.models.denoiser import Condition
from tileloom.models.engine import Engine
from tileloom.models.gaussian import Gaussian
from tileloom.models.noise import Address, PositionNoise
from tileloom.models.operators import Operator, operator_for
from tileloom.models.parity import SVD_COLORS, Parity
from tileloom.models.repaint import Repaint
from tileloom.models.schedule import schedule
from tileloom.models.solvers import Ddnm
from tileloom.tiling.errors import InputError
from tileloom.tiling.measurement import MaskSite, Measurement

STEPS = schedule(steps=6, travel_length=2, travel_repeat=2)
NOISE = PositionNoise(5)
KINDS = {"ddnm": Ddnm, "ddim-ddnm": DdnmImplicit, "repaint": Repaint, "ddpm": Ddpm, "ddim": Ddim}
HOLES = Measurement(mask=MaskSite.MEASURED)
FREE = {"context": None, "context_mask": None, "measured": np.zeros((BANDS, TILE, TILE), bool)}


def solver(kind, *, clip=None, **more):
    return kind(STEPS, NOISE, BANDS, clip, **more)


def free(**more):
    """A tile of which nothing is known."""
    return tile(1, **{**FREE, **more})


def random(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


EPS, V, G = (random(seed, BANDS, TILE, TILE) for seed in (1, 2, 3))
SHARE = V.clamp(-1, 1)


def told(*parts):
    return torch.cat(parts)


def at(position, ddnm, inputs):
    """A state somewhere in the schedule, in noise of its own."""
    return replace(ddnm.begin(inputs), position=position, x_CHW=random(9, BANDS, TILE, TILE))


def plain(index):
    """A position whose reverse step no undo follows."""
    times = STEPS.times
    return next(p for p, i in enumerate(times[:-2]) if i == index and times[p + 1] < i and times[p + 2] < times[p + 1])


# --- DDPM ---


def posterior(index, x0, x, noise, variance, gradient=0.0):
    """One ancestral step in float64, from the definition of q."""
    beta, abar, before = (float(table[index]) for table in (STEPS.betas, STEPS.abar, STEPS.abar_prev))
    mean = (np.sqrt(before) * beta * x0 + np.sqrt(1 - beta) * (1 - before) * x) / (1 - abar)
    return mean + variance * gradient + np.sqrt(variance) * noise


def guess(index, x, eps):
    abar = float(STEPS.abar[index])
    return (x - np.sqrt(1 - abar) * eps) / np.sqrt(abar)


@pytest.mark.parametrize(
    ("v", "variance"),
    [(None, "posterior"), (-1.0, "posterior"), (1.0, "beta"), (0.0, "between")],
)
def test_ddpm_draws_from_the_posterior_with_the_variance_that_the_network_learned(v, variance):
    ddpm, index = solver(Ddpm), 2
    state = at(plain(index), ddpm, free())
    beta, least = float(STEPS.betas[index]), float(STEPS.posterior_variance[index])
    expected = {"posterior": least, "beta": beta, "between": np.sqrt(beta * least)}[variance]
    answer = EPS if v is None else told(EPS, torch.full_like(EPS, v))
    ours = ddpm.tell(state, answer).x_CHW
    x0 = guess(index, state.x_CHW.double().numpy(), EPS.numpy())
    draw = ddpm.draw(state).numpy()
    expected = posterior(index, x0, state.x_CHW.numpy(), draw, expected)
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_guidance_moves_the_mean_of_ddpm_by_the_variance_times_the_gradient():
    ddpm, index = solver(Ddpm), 2
    state = at(plain(index), ddpm, free())
    with_it, without = (ddpm.tell(state, told(EPS, SHARE, *more)).x_CHW for more in ((G,), ()))
    beta, least = float(STEPS.betas[index]), float(STEPS.posterior_variance[index])
    share = (SHARE.numpy() + 1) / 2
    np.testing.assert_allclose(with_it - without, beta**share * least ** (1 - share) * G.numpy(), atol=1e-6)


def test_guidance_moves_the_mean_of_ddnm_by_gamma_times_the_gradient():
    ddnm, index = solver(Ddnm), 2
    state = at(plain(index), ddnm, free())
    with_it, without = (ddnm.tell(state, told(EPS, SHARE, *more)).x_CHW for more in ((G,), ()))
    np.testing.assert_allclose(with_it - without, ddnm.weights(index, 0.0)[1] * G, atol=1e-6)
    noisy = replace(state, sigma=100.0)
    assert torch.equal(ddnm.tell(noisy, told(EPS, SHARE, G)).x_CHW, ddnm.tell(noisy, EPS).x_CHW)


def test_what_is_known_is_met_also_where_guidance_pulls_at_the_last_step():
    ddpm = solver(Ddpm)
    inputs = tile(0)
    state = at(len(STEPS.times) - 2, ddpm, inputs)
    end = ddpm.tell(state, told(EPS, SHARE, 50 * G)).x_CHW
    np.testing.assert_allclose(operator_for(inputs, BANDS).A(end), inputs.y, atol=1e-5)


# --- DDIM ---


def test_ddim_with_all_its_noise_is_ddpm():
    ddim, ddpm = solver(Ddim, eta=1.0), solver(Ddpm)
    for index in (4, 1):
        state = at(plain(index), ddim, free())
        assert torch.allclose(ddim.tell(state, EPS).x_CHW, ddpm.tell(state, EPS).x_CHW, atol=2e-5)


def test_ddim_without_noise_is_a_rotation_of_signal_and_noise():
    ddim, index = solver(Ddim), 4
    state = at(plain(index), ddim, free())
    x0, before = guess(index, state.x_CHW.numpy(), EPS.numpy()), float(STEPS.abar_prev[index])
    expected = np.sqrt(before) * x0 + np.sqrt(1 - before) * EPS.numpy()
    np.testing.assert_allclose(ddim.tell(state, EPS).x_CHW, expected, atol=2e-5)
    other = replace(ddim, noise=PositionNoise(6))
    assert torch.equal(other.tell(state, EPS).x_CHW, ddim.tell(state, EPS).x_CHW)


def test_the_eps_of_a_bounded_guess_belongs_to_it():
    """Else x_t would not be ``sqrt(abar) x_0 + sqrt(1 - abar) eps`` of both."""
    ddim, index = solver(Ddim, clip=(-0.5, 0.5)), 4
    state = at(plain(index), ddim, free())
    abar, before = float(STEPS.abar[index]), float(STEPS.abar_prev[index])
    x0 = guess(index, state.x_CHW.numpy(), EPS.numpy()).clip(-0.5, 0.5)
    eps = (state.x_CHW.numpy() - np.sqrt(abar) * x0) / np.sqrt(1 - abar)
    expected = np.sqrt(before) * x0 + np.sqrt(1 - before) * eps
    np.testing.assert_allclose(ddim.tell(state, EPS).x_CHW, expected, atol=2e-5)


@pytest.mark.parametrize("kind", [Ddim, DdnmImplicit])
def test_guidance_turns_the_eps_of_implicit_samplers(kind):
    ddim, index = solver(kind), 3
    state = at(plain(index), ddim, free())
    turned = EPS - float(np.sqrt(1 - STEPS.abar[index])) * G
    ours, expected = ddim.tell(state, told(EPS, SHARE, G)).x_CHW, ddim.tell(state, turned).x_CHW
    assert torch.allclose(ours, expected, atol=1e-5)


# --- DDNM in its DDIM form ---


def test_the_ddim_form_mixes_fresh_noise_with_the_networks():
    ddim, index = solver(DdnmImplicit, eta=0.6), 3
    state = at(plain(index), ddim, free())
    x0, before = guess(index, state.x_CHW.numpy(), EPS.numpy()), float(STEPS.abar_prev[index])
    mixed = 0.6 * ddim.draw(state).numpy() + 0.8 * EPS.numpy()
    expected = np.sqrt(before) * x0 + np.sqrt(1 - before) * mixed
    np.testing.assert_allclose(ddim.tell(state, EPS).x_CHW, expected, atol=2e-5)


def test_time_travel_of_the_ddim_form_noises_the_guess_that_knows_nothing():
    ddim = solver(DdnmImplicit)
    times = STEPS.times
    p = next(
        p for p in range(len(times) - 2) if times[p + 1] < times[p] < times[p + 2] + 1 and times[p + 2] > times[p + 1]
    )
    state = at(p, ddim, tile(0))
    climbed = ddim.tell(state, EPS)
    x0, abar = guess(times[p], state.x_CHW.numpy(), EPS.numpy()), float(STEPS.abar[times[climbed.position]])
    last = replace(state, position=climbed.position - 1)
    expected = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * ddim.draw(last).numpy()
    np.testing.assert_allclose(climbed.x_CHW, expected, atol=2e-5)


def dense(operator, shape):
    """A as a matrix on flattened windows."""
    columns = torch.eye(int(np.prod(shape))).reshape(-1, *shape)
    return operator.A(columns).reshape(len(columns), -1).T.double().numpy()


@pytest.mark.parametrize("sigma", [0.02, 0.3, 3.0])
@pytest.mark.parametrize("seen", ["all", "some"])
@pytest.mark.parametrize("gray", [False, True])
def test_a_noisy_measurement_is_weighed_by_singular_values(sigma, seen, gray):
    """The published formula in an SVD of A; eps, unlike there, is turned into the basis and back."""
    visible = None if seen == "all" else np.random.default_rng(3).random((TILE, TILE)) < 0.6
    measurement = Measurement(2, gray, MaskSite.NONE if visible is None else MaskSite.TARGET, sigma / 2)
    y_shape = (1 if gray else BANDS, TILE // 2, TILE // 2)
    inputs = free(
        measurement=measurement, y=random(4, *y_shape).numpy(), measured=np.ones(y_shape, bool), visible=visible
    )
    ddim, index = solver(DdnmImplicit, eta=0.6), 2
    state = at(plain(index), ddim, inputs)
    matrix = dense(operator_for(inputs, BANDS), (BANDS, TILE, TILE))
    u, s, vt = np.linalg.svd(matrix)
    s = np.concatenate([s, np.zeros(len(vt) - len(s))])
    s[s < 1e-6] = 0
    a, holds = np.sqrt(STEPS.abar_prev[index]), np.sqrt(1 - STEPS.abar_prev[index])
    x0 = guess(index, state.x_CHW.double().numpy(), EPS.numpy()).reshape(-1)
    n, eps = vt @ ddim.draw(state).numpy().reshape(-1), vt @ EPS.numpy().reshape(-1)
    in_y = np.zeros(len(s))
    in_y[: len(u)] = u.T @ inputs.y.reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        brought = a * sigma / s
        fits = holds >= brought
        lam = np.where(fits, 1, 0.8 * holds / brought)
        drawn = np.where(fits, np.sqrt(np.maximum(0, holds**2 - brought**2)), 0.6 * holds) * n
        clean = np.where(s > 0, vt @ x0 + lam * (in_y / s - vt @ x0), vt @ x0)
    step = np.where(s > 0, drawn, holds * (0.6 * n + 0.8 * eps))
    expected = vt.T @ (a * clean + step)
    np.testing.assert_allclose(ddim.tell(state, EPS).x_CHW.reshape(-1), expected, atol=5e-5)


# --- RePaint ---


def holed(**more):
    """A tile with known pixels, unknown ones, and a neighbour's."""
    measured = np.random.default_rng(2).random((BANDS, TILE, TILE)) < 0.4
    measured[:] = measured[0]
    context_mask = np.zeros((TILE, TILE), bool)
    context_mask[:, :3] = ~measured[0, :, :3]
    y = np.where(measured, random(5, BANDS, TILE, TILE).numpy(), np.float32(0))
    context = random(6, BANDS, TILE, TILE).numpy()
    return tile(1, measurement=HOLES, y=y, measured=measured, context=context, context_mask=context_mask, **more)


def known_of(inputs):
    values = np.where(inputs.context_mask, inputs.context, inputs.y)
    return values, inputs.measured | inputs.context_mask


def test_repaint_asks_of_windows_whose_known_pixels_have_the_noise_of_their_level():
    repaint, inputs = solver(Repaint), holed()
    values, known = known_of(inputs)
    state = repaint.begin(inputs)
    assert torch.equal(state.x_CHW, NOISE.windows([Address(inputs.image, inputs.key.level, 0, inputs.box)], BANDS)[0])
    seen = set()
    while not repaint.finished(state := repaint.tell(state, EPS)):
        abar = float(STEPS.abar[STEPS.times[state.position]])
        asked = repaint.ask(state)[0].numpy()
        noise = (asked - np.sqrt(abar) * values)[known] / np.sqrt(1 - abar)
        assert 0.7 < noise.std() < 1.3
        assert abs(noise.mean()) < 0.4
        seen.add(noise.tobytes())
    assert len(seen) == STEPS.calls - 1


def test_repaint_gives_known_pixels_back_unless_it_is_told_not_to():
    inputs = holed()
    values, known = known_of(inputs)
    ends = []
    for paste in (True, False):
        repaint = solver(Repaint, paste=paste)
        state = repaint.begin(inputs)
        while not repaint.finished(state):
            state = repaint.tell(state, EPS)
        ends.append(repaint.result(state).numpy())
    np.testing.assert_array_equal(ends[0][known], values[known])
    np.testing.assert_array_equal(ends[0][~known], ends[1][~known])
    assert (ends[1][known] != values[known]).all()


def test_repaint_keeps_low_frequencies_on_the_guess():
    coarse, mask = random(7, BANDS, TILE // 2, TILE // 2).numpy(), np.ones((TILE // 2, TILE // 2), bool)
    nothing = {"measured": np.zeros((BANDS, TILE, TILE), bool), "context": None, "context_mask": None}
    inputs = replace(holed(coarse=coarse, coarse_mask=mask), **nothing)
    repaint = solver(Repaint)
    state = repaint.begin(inputs)
    while not repaint.finished(state):
        state = repaint.tell(state, EPS)
    means = repaint.result(state).reshape(BANDS, TILE // 2, 2, TILE // 2, 2).mean(dim=(2, 4))
    np.testing.assert_allclose(means, coarse, atol=1e-4)


@pytest.mark.parametrize("measurement", [Measurement(2), Measurement(gray=True), replace(HOLES, sigma=0.1)])
def test_repaint_refuses_what_is_no_hole(measurement):
    with pytest.raises(InputError, match="choose ddnm for this task"):
        solver(Repaint).begin(tile(0, measurement=measurement))


# --- what all of them promise ---


def predict(state):
    field = Gaussian(GaussianSpec(length=3.0))
    return lambda x_CHW, t: field.predict(x_CHW[None], torch.tensor([t]), [Condition(state.key.level)])[0]


def finished(walk, inputs):
    state, calls = walk.begin(inputs), 0
    while not walk.finished(state):
        state, calls = walk.tell(state, predict(state)(*walk.ask(state)[:2])), calls + 1
    return walk.result(state), calls


@pytest.mark.parametrize("name", KINDS)
def test_a_tile_ends_in_agreement_with_its_neighbours_and_its_measurement(name):
    inputs = holed()
    values, known = known_of(inputs)
    end, calls = finished(solver(KINDS[name]), inputs)
    assert calls == STEPS.calls
    np.testing.assert_allclose(end.numpy()[known], values[known], atol=1e-6)
    np.testing.assert_array_equal(end.numpy()[:, inputs.context_mask], inputs.context[:, inputs.context_mask])


@pytest.mark.parametrize("name", [name for name in KINDS if name != "repaint"])
@pytest.mark.parametrize("parity", [Parity(), Parity(released_lambda=True, simplified=True)])
def test_a_tile_ends_in_agreement_with_low_frequencies_and_averages(name, parity):
    """Of a noiseless measurement, whatever quirks are asked for."""
    coarse = random(7, BANDS, TILE // 2, TILE // 2).numpy()
    inputs = tile(0, coarse=coarse, coarse_mask=np.ones(coarse.shape[1:], bool))
    end, _ = finished(solver(KINDS[name], parity=parity), inputs)
    np.testing.assert_allclose(operator_for(inputs, BANDS).A(end), inputs.y, atol=1e-5)
    unmeasured = replace(inputs, measured=np.zeros_like(inputs.measured), y=np.zeros_like(inputs.y))
    end, _ = finished(solver(KINDS[name], parity=parity), unmeasured)
    np.testing.assert_allclose(end.reshape(BANDS, TILE // 2, 2, TILE // 2, 2).mean(dim=(2, 4)), coarse, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_tiles_keep_their_bits_in_company_and_over_a_pause(name):
    engine = Engine(
        Gaussian(GaussianSpec(length=3.0)),
        solver(KINDS[name]),
        tile=(TILE, TILE),
        bands=BANDS,
        batch=2,
        levels=LEVELS,
    )
    inputs = [holed(), replace(holed(), image="another")]
    alone = [engine.finish(run(engine, engine.begin(one))) for one in inputs]
    states = [engine.begin(one) for one in inputs]
    for step in range(engine.calls_per_tile):
        states = engine.step(states)
        if step == 3:
            states = [engine.unpack(one, engine.pack(state)) for one, state in zip(inputs, states, strict=True)]
    for ours, theirs in zip(map(engine.finish, states), alone, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert engine.finished(states[0])


@pytest.mark.parametrize("name", KINDS)
def test_what_is_drawn_ahead_is_all_that_is_asked_for(name, monkeypatch):
    """Two tiles through every kind of transition, time travel included."""
    walk = solver(KINDS[name])
    states = [walk.begin(holed()), walk.begin(replace(holed(), image="another"))]
    alone, asked = list(states), []
    windows = PositionNoise.windows

    def counted(field, addresses, bands):
        asked.append(addresses)
        return windows(field, addresses, bands)

    monkeypatch.setattr(PositionNoise, "windows", counted)
    while not walk.finished(states[0]):
        ahead = walk.draw_ahead(states)
        assert {len(addresses) for addresses in asked} == {2}
        asked.clear()
        answers = [state.x_CHW / 2 for state in states]
        states = [walk.tell(state, answer) for state, answer in zip(ahead, answers, strict=True)]
        assert asked == []
        alone = [walk.tell(state, answer) for state, answer in zip(alone, answers, strict=True)]
        asked.clear()
        for ours, theirs in zip(states, alone, strict=True):
            assert torch.equal(ours.x_CHW, theirs.x_CHW)
            assert ours.drawn == {}


def test_a_saved_state_belongs_to_its_sampler_and_its_settings():
    walks = [solver(kind) for kind in KINDS.values()]
    walks += [
        solver(Ddnm, parity=Parity(released_lambda=True)),
        solver(DdnmImplicit, eta=0.5),
        solver(Repaint, paste=False),
    ]
    assert len({walk.begin(holed()).origin for walk in walks}) == len(walks)


def test_a_carried_tile_begins_from_the_window_it_is_given():
    start = random(8, BANDS, TILE, TILE).numpy()
    for kind in KINDS.values():
        fresh, carried = (solver(kind).begin(holed(start=one)) for one in (None, start))
        np.testing.assert_array_equal(carried.x_CHW, start)
        assert carried.origin != fresh.origin


# --- quirks of the published programs ---


def test_the_released_lambda_slips_in_its_precedence():
    ours, released = solver(Ddnm), solver(Ddnm, parity=Parity(released_lambda=True))
    i, sigma = 1, 0.5
    spread, a = np.sqrt(STEPS.posterior_variance[i]), STEPS.posterior_mean_coef1[i]
    assert spread < a * sigma
    assert ours.weights(i, sigma) == pytest.approx((spread / (a * sigma), 0))
    assert released.weights(i, sigma) == pytest.approx((spread / a * sigma, 0))
    for walk in (ours, released):
        assert walk.weights(i, 1e-3)[0] == 1


def test_the_released_pseudo_inverse_spreads_as_if_nothing_were_masked():
    visible = torch.zeros(2, 2, dtype=torch.bool)
    visible[0] = True
    y = torch.tensor([[[3.0]]])
    made = {"bands": 1, "shape": (2, 2), "visible": visible}
    exact = Operator(Measurement(2, mask=MaskSite.TARGET), **made)
    released = Operator(Measurement(2, mask=MaskSite.TARGET), **made, parity=Parity(released_pinv=True))
    assert exact.pinv(y).tolist() == [[[6, 6], [0, 0]]]
    assert released.pinv(y).tolist() == [[[3, 3], [0, 0]]]
    assert exact.A(exact.pinv(y)).item() == 3
    assert released.A(released.pinv(y)).item() == 1.5


@pytest.mark.parametrize("mask", [False, True])
def test_weighed_colours_keep_the_laws_of_a_pseudo_inverse(mask):
    visible = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) < 0.5 if mask else None
    site = MaskSite.TARGET if mask else MaskSite.NONE
    made = {"bands": 3, "shape": (4, 4), "visible": visible, "parity": Parity(svd_colors=True)}
    operator = Operator(Measurement(2, gray=True, mask=site), **made)
    matrix = dense(operator, (3, 4, 4))
    inverse = operator.pinv(torch.eye(4).reshape(4, 1, 2, 2)).reshape(4, -1).T.double().numpy()
    np.testing.assert_allclose(inverse, np.linalg.pinv(matrix), atol=1e-5)
    if not mask:
        np.testing.assert_allclose(matrix.sum(axis=1), sum(SVD_COLORS), atol=1e-6)
    with pytest.raises(InputError, match="weighs three bands, the image has 2"):
        Operator(Measurement(gray=True), bands=2, shape=(4, 4), parity=Parity(svd_colors=True))

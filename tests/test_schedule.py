from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileloom.models.schedule import Schedule, betas, jump_times, respace, schedule, space_timesteps
from tileloom.tiling.errors import InputError


def test_linear_betas_run_from_1e_4_to_2e_2_whatever_their_number():
    assert betas("linear")[[0, 1, -1]] == pytest.approx([1e-4, 1e-4 + 0.0199 / 999, 0.02], rel=1e-14)
    assert betas("linear", 250)[[0, -1]] == pytest.approx([4e-4, 0.08], rel=1e-14)


def test_cosine_betas_follow_the_squared_cosine_and_stop_at_0_999():
    values = betas("cosine")
    assert values[0] == pytest.approx(4.12842248e-05, rel=1e-8)
    assert values[-1] == 0.999
    left = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    assert np.cumprod(1 - values)[:-1] == pytest.approx(left[1:-1] / left[0], rel=1e-9)


def test_an_unknown_schedule_is_refused_by_name():
    with pytest.raises(InputError, match="'quadratic' is not known: use linear, scaled_linear, sigmoid or cosine"):
        betas("quadratic")


@pytest.mark.parametrize(
    ("total", "spec", "first", "last", "count"),
    [
        (1000, "ddim50", (0, 20, 40), 980, 50),
        (1000, "ddim25", (0, 40, 80), 960, 25),
        (1000, "250", (0, 4, 8), 999, 250),
        (1000, "8", (0, 143, 285), 999, 8),
        (1000, "10,15,20", (0, 37, 74), 999, 45),
        (300, [10, 15, 20], (0, 11, 22), 299, 45),
        (1000, [1000], (0, 1, 2), 999, 1000),
        (10, [1], (0,), 0, 1),
    ],
)
def test_respacing_keeps_the_published_timesteps(total, spec, first, last, count):
    kept = space_timesteps(total, spec)
    assert kept[: len(first)] == first
    assert kept[-1] == last
    assert len(kept) == count


def test_respacing_rounds_half_to_even():
    assert space_timesteps(6, [3]) == (0, 2, 5)  # 2.5 rounds to 2
    assert space_timesteps(8, [3]) == (0, 4, 7)  # 3.5 rounds to 4


def test_sections_longer_by_one_come_first():
    assert space_timesteps(7, [1, 1, 1]) == (0, 3, 5)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ddim999", "no whole stride keeps exactly 999 of 1000 steps: use 500 or 1000"),
        ("ddim60", "no whole stride keeps exactly 60 of 1000 steps: use 59 or 63"),
        ("ddim0", "no whole stride"),
        ("ddim5,5", "no whole stride"),
        ("ddim", "not understood"),
        ("fast", "not understood"),
        ("1001", "cannot keep 1001 steps of a section of 1000"),
        ([600, 10], "cannot keep 600 steps of a section of 500"),
        ([-1], "cannot keep -1"),
        ([], "at least one count"),
    ],
)
def test_impossible_respacing_is_refused(spec, said):
    with pytest.raises(InputError, match=said):
        space_timesteps(1000, spec)


def test_steps_may_be_a_whole_stride_apart():
    strided = schedule(steps=50, spacing="stride")
    assert strided.timesteps == tuple(range(0, 1000, 20))
    assert np.array_equal(strided.betas, respace(betas("linear"), strided.timesteps))
    assert strided.times == schedule(steps=50).times
    with pytest.raises(InputError, match="exactly 60 of 1000"):
        schedule(steps=60, spacing="stride")


@pytest.mark.parametrize("steps", [2, 6, 20, 50, 250, 1000])
def test_even_steps_are_rounded_shares_of_the_whole_chain(steps):
    assert schedule(steps=steps).timesteps == tuple(round(i * 999 / (steps - 1)) for i in range(steps))


def test_more_steps_than_there_are_name_the_key_and_the_most():
    with pytest.raises(InputError, match=r"^steps is 5000, but the model's schedule has 1000: give at most 1000$"):
        schedule(steps=5000)
    assert len(schedule(steps=1000).timesteps) == 1000


@given(st.integers(1, 400), st.data())
def test_respacing_keeps_distinct_ascending_timesteps(total, data):
    count = data.draw(st.integers(1, total))
    kept = space_timesteps(total, [count])
    assert len(kept) == count
    assert all(a < b for a, b in pairwise((-1, *kept, total)))


def test_respaced_betas_keep_the_marginals():
    original, kept = betas("linear"), space_timesteps(1000, "50")
    assert np.cumprod(1 - respace(original, kept)) == pytest.approx(np.cumprod(1 - original)[list(kept)], rel=1e-12)
    assert respace(original, range(1000)) == pytest.approx(original, rel=1e-9)


@pytest.mark.parametrize(
    ("steps", "jumps", "reverse", "undo"),
    [
        (100, {"jump_length": 10, "jump_n_sample": 3}, 280, 180),
        (250, {"jump_length": 10, "jump_n_sample": 3}, 730, 480),
        (250, {"jump_length": 10, "jump_n_sample": 10}, 2410, 2160),
        (250, {"jump_length": 10, "jump_n_sample": 10, "start_resampling": 100}, 1150, 900),
        (100, {"jump_length": 2, "jump_n_sample": 2}, 198, 98),
        (12, {"n_sample": 2, "jump_length": 3, "jump_n_sample": 2}, 40, 28),
        (20, {"jump_length": 5, "jump_n_sample": 2, "jump2_length": 2, "jump2_n_sample": 2}, 69, 49),
    ],
)
def test_jumps_cost_what_was_published(steps, jumps, reverse, undo):
    walk = pairwise(jump_times(steps, **jumps))
    ups = [b > a for a, b in walk]
    assert (ups.count(False), ups.count(True)) == (reverse, undo)


def test_a_jump_climbs_from_every_multiple_of_its_length():
    assert jump_times(6, jump_length=3, jump_n_sample=2) == (5, 4, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, -1)
    assert jump_times(5, jump_length=2, jump_n_sample=2) == (4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1)


def test_single_steps_repeat_below_the_second():
    assert jump_times(4, n_sample=2) == (3, 2, 1, 2, 1, 0, 1, 0, -1)


def test_a_longer_jump_lets_the_shorter_ones_climb_anew():
    both = jump_times(9, jump_length=4, jump_n_sample=2, jump2_length=2, jump2_n_sample=2)
    assert both.count(8) == 1 + 2 + 1  # the start, two climbs from 6, one climb from 4


@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 50),
)
def test_every_walk_goes_by_single_steps_from_the_noise_to_clean(steps, length, repeat, second, third, single, start):
    times = jump_times(
        steps,
        n_sample=single,
        jump_length=length,
        jump_n_sample=repeat,
        jump2_length=second,
        jump2_n_sample=2,
        jump3_length=third,
        jump3_n_sample=2,
        start_resampling=start,
    )
    assert times[0] == steps - 1
    assert times[-1] == -1
    assert times.count(-1) == 1
    assert all(abs(a - b) == 1 for a, b in pairwise(times))
    assert max(times) < steps


def test_a_plain_schedule_calls_once_a_step():
    plain = schedule(steps=50)
    assert plain.times == tuple(range(49, -2, -1))
    assert (plain.calls, plain.undos) == (50, 0)
    assert plain.timesteps == space_timesteps(1000, "50")


def test_time_travel_undoes_with_the_noise_of_the_index_it_climbs_to():
    travelling = schedule(steps=3, travel_length=1, travel_repeat=2)
    assert travelling.times == (2, 1, 2, 1, 0, 1, 0, -1)
    assert travelling.transitions() == [
        ("reverse", 2),
        ("undo", 2),
        ("reverse", 2),
        ("reverse", 1),
        ("undo", 1),
        ("reverse", 1),
        ("reverse", 0),
    ]
    assert (travelling.calls, travelling.undos) == (5, 2)


def test_the_last_step_returns_the_clean_estimate_itself():
    tables = schedule(steps=20)
    assert tables.posterior_mean_coef1[0] == 1
    assert tables.posterior_mean_coef2[0] == 0
    assert tables.posterior_variance[0] == 0
    assert tables.abar_prev[0] == 1


def test_tables_of_the_eight_step_schedule():
    tables = schedule(steps=8)
    assert tables.betas[:3] == pytest.approx([1e-4, 0.197170136, 0.463318354], rel=1e-8)
    assert tables.abar[1] == pytest.approx(0.80274958, rel=1e-7)
    assert tables.posterior_variance[1] == pytest.approx(9.99592990e-05, rel=1e-8)
    assert tables.posterior_log_variance_clipped[:3] == pytest.approx([-9.21074747] * 2 + [-1.82906182], rel=1e-8)
    assert tables.posterior_mean_coef1[1:3] == pytest.approx([0.99954301, 0.72932425], rel=1e-7)
    assert tables.posterior_mean_coef2[1:3] == pytest.approx([0.00045425, 0.25387937], rel=1e-4)
    assert tables.sqrt_recip_abar[1:3] == pytest.approx([1.1161176, 1.52353202], rel=1e-7)
    assert tables.sqrt_recipm1_abar[1:3] == pytest.approx([0.49570001, 1.14941281], rel=1e-7)


@given(st.integers(2, 100), st.sampled_from(["linear", "cosine"]))
def test_the_posterior_is_bayes_rule(steps, name):
    s = schedule(name, steps=steps)
    x0, x = 0.3, -1.2  # precisions add: q(x_i | x_{i-1}) times q(x_{i-1} | x0)
    i = steps - 1
    keep, prior = 1 - s.betas[i], 1 - s.abar_prev[i]
    precision = keep / s.betas[i] + 1 / prior
    mean = (np.sqrt(keep) * x / s.betas[i] + np.sqrt(s.abar_prev[i]) * x0 / prior) / precision
    assert s.posterior_variance[i] == pytest.approx(1 / precision, rel=1e-9)
    assert s.posterior_mean_coef1[i] * x0 + s.posterior_mean_coef2[i] * x == pytest.approx(mean, rel=1e-9, abs=1e-12)


def test_the_clean_estimate_undoes_the_noising():
    s = schedule(steps=30)
    x0, eps = 0.7, -0.4
    x = np.sqrt(s.abar) * x0 + np.sqrt(1 - s.abar) * eps
    assert s.sqrt_recip_abar * x - s.sqrt_recipm1_abar * eps == pytest.approx(x0, rel=1e-9)


def test_a_single_step_is_a_legal_schedule():
    one = schedule(steps=1)
    assert one.times == (0, -1)
    assert np.isfinite(one.posterior_log_variance_clipped).all()


@pytest.mark.parametrize("field", ["steps", "travel_length", "travel_repeat"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(InputError, match=f"{field.replace('_', ' ')} is 0"):
        schedule(**({"steps": 5} | {field: 0}))


@pytest.mark.parametrize(
    "times", [(), (2, 1, 0), (3, 2, 1, 0, -1), (2, 0, -1), (2, 3, 2, 1, 0, -1), (2, 1, 0, -1, 0, -1)]
)
def test_a_walk_made_for_other_steps_is_refused(times):
    three = schedule(steps=3)
    with pytest.raises(InputError, match="do not walk from 2 to -1"):
        Schedule(three.betas, three.timesteps, times)


def test_betas_and_timesteps_must_match():
    three = schedule(steps=3)
    with pytest.raises(InputError, match="3 betas for 2 timesteps"):
        Schedule(three.betas, three.timesteps[:2], three.times)

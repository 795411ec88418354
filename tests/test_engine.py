"""The engine: a tile's bits in any company, failures that stay alone, and what is refused."""

import re
from dataclasses import replace
from itertools import count as naturals
from random import Random
from threading import Barrier, current_thread, main_thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import CALLS, STEPS, Network, Wrapped, alone, engine, engine_of, gaussian
from tests.tiles import BANDS, LEVELS, TILE, run, tile
from tileloom.models.ancestral import Ddpm
from tileloom.models.ddim import Ddim
from tileloom.models.denoiser import Condition
from tileloom.models.noise import PositionNoise
from tileloom.models.parity import Parity
from tileloom.models.schedule import schedule
from tileloom.models.solvers import Ddnm
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.errors import CorruptChunk, InputError, TileFailed, TileloomError


@pytest.mark.parametrize("make", [gaussian, Network])
@pytest.mark.parametrize("lanes", [1, 2])
@given(seed=st.integers(0, 2**32), batch=st.sampled_from([1, 2, 3, 5]))
@settings(max_examples=12)
def test_a_tile_has_the_same_bits_alone_and_in_any_company(make, lanes, seed, batch):
    work = engine_of(make, batch, lanes)
    rng = Random(seed)
    waiting, flights, results = rng.sample(range(7), 7), {}, {}
    while waiting or flights:
        for _ in range(rng.randint(0 if flights else 1, 3)):
            if waiting:
                at = waiting.pop()
                flights[at] = work.begin(tile(at))
        chosen = rng.sample(sorted(flights), rng.randint(1, len(flights)))
        for at, state in zip(chosen, work.step([flights[at] for at in chosen]), strict=True):
            flights[at] = state
            if work.finished(state):
                results[at] = work.finish(flights.pop(at)).tobytes()
    assert [at for at in range(7) if results[at] != alone(make, batch, at)] == []


def test_one_forward_pass_holds_any_images_levels_and_timesteps():
    passes = []

    def watch(eps_BCHW, x_BCHW, t_B, conditions):
        passes.append((tuple(x_BCHW.shape), t_B.tolist(), [(told.level, told.factor) for told in conditions]))
        return eps_BCHW

    work = engine(Wrapped(watch), batch=4, factor=3)
    states = [run(work, work.begin(tile(at)), steps) for at, steps in [(0, 0), (1, 1), (2, 5)]]
    asked = [STEPS.timesteps[STEPS.times[state.position]] for state in states]
    assert len(set(asked)) == 3
    passes.clear()
    work.step(states)
    assert passes == [((4, BANDS, TILE, TILE), [*asked, 0.0], [(0, 3), (1, 3), (2, 3)])]


JOBS = {
    "another seed": Ddnm(STEPS, PositionNoise(9), BANDS),
    "another schedule": Ddnm(schedule(steps=9), PositionNoise(4), BANDS, (-1.0, 1.0)),
    "ancestral": Ddpm(schedule("cosine", steps=6), PositionNoise(4), BANDS),
    "implicit": Ddim(schedule(steps=4), PositionNoise(4), BANDS, told=Condition(factor=3)),
    "released": Ddnm(STEPS, PositionNoise(4), BANDS, parity=Parity(released_lambda=True)),
}


@pytest.mark.parametrize("lanes", [1, 2])
def test_tiles_of_several_jobs_share_a_forward_pass_and_keep_their_bits(lanes):
    seen = []

    def watch(eps_BCHW, x_BCHW, t_B, conditions):
        seen.append((len(conditions), len(set(t_B[: len(conditions)].tolist())), {told.factor for told in conditions}))
        return eps_BCHW

    work = engine(Wrapped(watch), lanes=lanes)
    jobs = [work, *(work.beside(solver) for solver in JOBS.values())]
    isolated = [engine(solver=job._solver) for job in jobs]
    states = {(at, job): jobs[job].begin(tile(at)) for at in (1, 2) for job in range(len(jobs))}
    seen.clear()
    results = {}
    for turn in naturals():
        if not states:
            break
        chosen = Random(turn).sample(sorted(states), len(states))
        for key, state in zip(chosen, jobs[turn % len(jobs)].step([states[key] for key in chosen]), strict=True):
            states[key] = state
            if work.finished(state):
                results[key] = jobs[0].finish(states.pop(key)).tobytes()
    for (at, job), ours in results.items():
        alone = isolated[job]
        state = alone.begin(tile(at))
        assert ours == alone.finish(run(alone, state)).tobytes()
    assert len({ours for (at, _), ours in results.items() if at == 2}) == len(jobs)
    assert any(rows == 3 and timesteps == 3 and len(factors) == 2 for rows, timesteps, factors in seen)


def test_a_state_of_one_job_is_not_taken_for_anothers():
    work = engine()
    packed = work.pack(work.begin(tile(1)))
    assert work.pack(work.unpack(tile(1), packed)) == packed
    for solver in JOBS.values():
        with pytest.raises(CorruptChunk, match="of other inputs or another schedule"):
            work.beside(solver).unpack(tile(1), packed)


def test_rows_of_padding_never_matter():
    def spoil(eps_BCHW, x_BCHW, t_B, conditions):
        assert not x_BCHW[len(conditions) :].any()
        eps_BCHW[len(conditions) :] = torch.nan
        return eps_BCHW

    clean, spoilt = engine(batch=4), engine(Wrapped(spoil), batch=4)
    for count in (1, 2, 3):
        states = [[work.begin(tile(at)) for at in range(count)] for work in (clean, spoilt)]
        for _ in range(CALLS):
            states = [work.step(group) for work, group in zip((clean, spoilt), states, strict=True)]
        for ours, theirs in zip(*states, strict=True):
            assert torch.equal(ours.x_CHW, theirs.x_CHW)


def test_a_step_advances_more_states_than_slots_in_order():
    work = engine(batch=2, lanes=2)
    states = [work.begin(tile(at)) for at in range(7)]
    together = work.step(states)
    assert [state.key for state in together] == [state.key for state in states]
    for state, one in zip(states, together, strict=True):
        assert torch.equal(one.x_CHW, run(work, state, 1).x_CHW)
    assert work.step([]) == []


def test_a_tile_takes_as_many_steps_as_it_says():
    work = engine(batch=2)
    state = work.begin(tile(0))
    for _ in range(work.calls_per_tile):
        assert not work.finished(state)
        state = run(work, state, 1)
    assert work.finished(state)
    x_CHW = work.finish(state)
    assert x_CHW.shape == (BANDS, TILE, TILE)
    assert x_CHW.dtype == np.float32
    assert (work.slots, work.batch_shape, work.calls_per_tile) == (2, (2, BANDS, TILE, TILE), CALLS)


def test_windows_need_not_be_square():
    work = engine(gaussian(), tile=(4, 12))
    inputs = tile(
        0, box=Box(4, 0, 8, 12), y=tile(0).y[:, :2].repeat(2, axis=2)[..., :6], measured=np.ones((2, 2, 6), bool)
    )
    state = run(work, work.begin(inputs), 3)
    x_CHW = work.finish(run(work, work.unpack(inputs, work.pack(state)), CALLS - 3))
    assert x_CHW.tobytes() == work.finish(run(work, state, CALLS - 3)).tobytes()
    np.testing.assert_allclose(x_CHW.reshape(2, 2, 2, 6, 2).mean(axis=(2, 4)), inputs.y, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_tile_without_finite_values_fails_alone(value, lanes):
    def spoil(eps_BCHW, x_BCHW, t_B, conditions):
        for row, told in enumerate(conditions):
            if told.level == 3 and t_B[row] < 600:
                eps_BCHW[row, 1, 2, 3] = value
        return eps_BCHW

    work = engine(Wrapped(spoil), lanes=lanes)
    key, box = TileKey(3, 5, 6), Box(40, 48, 40 + TILE, 48 + TILE)
    states = {at: work.begin(tile(at)) for at in (1, 5, 2)}
    states[5] = work.begin(tile(5, image="cathedral", key=key, box=box))
    failed = []
    for _ in range(CALLS):
        for at, state in zip(list(states), work.step(list(states.values())), strict=True):
            states[at] = state
        failed += [states.pop(at) for at in list(states) if isinstance(states[at], TileFailed)]
    assert [str(failure) for failure in failed] == [
        "image cathedral, tile level 3 row 5 column 6 (rows 40:48, columns 48:56) "
        f"has values that are not finite after timestep {STEPS.timesteps[2]}"
    ]
    assert {at: work.finish(state).tobytes() for at, state in states.items()} == {
        at: alone(Network, 3, at) for at in (1, 2)
    }


def test_a_measurement_that_is_not_finite_fails_its_tile():
    work = engine_of(Network, 3, 1)
    y = tile(0).y.copy()
    y[0, 1, 1] = np.nan
    failure, companion = work.step([work.begin(tile(0, y=y)), work.begin(tile(1))])
    assert isinstance(failure, TileFailed)
    assert torch.equal(companion.x_CHW, run(work, work.begin(tile(1)), 1).x_CHW)


def test_clipping_hides_no_value_that_is_not_finite():
    def spoil(eps_BCHW, x_BCHW, t_B, conditions):
        return eps_BCHW + (float("inf") if conditions[0].level == LEVELS else 0)

    work = engine(Wrapped(spoil), clip=(-1.0, 1.0))
    (failure,) = work.step([work.begin(tile(0, key=TileKey(LEVELS, 0, 0)))])
    assert isinstance(failure, TileFailed)


def slot(eps_BCHW, x_BCHW, t_B, conditions):
    return eps_BCHW * (1 + 1e-6 * torch.arange(len(x_BCHW)))[:, None, None, None]


def average(eps_BCHW, x_BCHW, t_B, conditions):
    return eps_BCHW - 1e-3 * x_BCHW.mean()


def neighbour(eps_BCHW, x_BCHW, t_B, conditions):
    return eps_BCHW + 1e-6 * x_BCHW.roll(1, dims=0)


def timesteps(eps_BCHW, x_BCHW, t_B, conditions):
    return eps_BCHW * (1 + t_B.amax() / 1e4)


def company(eps_BCHW, x_BCHW, t_B, conditions):
    return eps_BCHW * (1 + 1e-3 * len(conditions))


def levels(eps_BCHW, x_BCHW, t_B, conditions):
    return eps_BCHW + conditions[0].level


@pytest.mark.parametrize("batch", [2, 3, 4, 7])
@pytest.mark.parametrize("spoil", [slot, average, neighbour, timesteps, company, levels])
def test_a_network_that_heeds_slot_or_company_is_refused(spoil, batch):
    words = f"model network in batches of {batch}x2x8x8 gives a tile other values in another slot or company; choose"
    with pytest.raises(TileloomError, match=words) as refusal:
        engine(Wrapped(spoil), batch=batch)
    assert "\n" not in str(refusal.value)


def test_a_network_that_never_repeats_itself_is_refused():
    draws = torch.Generator().manual_seed(0)

    def restless(eps_BCHW, x_BCHW, t_B, conditions):
        return eps_BCHW + torch.randn(1, generator=draws)

    with pytest.raises(TileloomError, match="other values in another slot or company"):
        engine(Wrapped(restless), batch=1)


@pytest.fixture
def threads():
    """A process that would run two threads in every operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_every_forward_pass_runs_on_one_thread_of_a_lane():
    seen = set()

    def watch(eps_BCHW, x_BCHW, t_B, conditions):
        seen.add((torch.get_num_threads(), current_thread() is main_thread()))
        return eps_BCHW

    work = engine(Wrapped(watch), batch=1, lanes=2)
    # Whatever the process does later, lanes keep their own.
    torch.set_num_threads(2)
    states = [work.begin(tile(at)) for at in range(4)]
    for _ in range(CALLS):
        states = work.step(states)
    assert seen == {(1, False)}


def test_lanes_run_side_by_side():
    both, met = Barrier(2), []

    def meet(eps_BCHW, x_BCHW, t_B, conditions):
        if conditions[0].level == LEVELS:
            met.append(both.wait(timeout=60))
        return eps_BCHW

    work = engine(Wrapped(meet), batch=1, lanes=2)
    work.step([work.begin(tile(at, key=TileKey(LEVELS, at, 0))) for at in range(2)])
    assert sorted(met) == [0, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": (3, 8)}, "tile 3 does not suit model network: it takes multiples of 1 from 4 up; the nearest is 4"),
        ({"tile": (8, 2)}, "tile 2 does not suit model network"),
        ({"batch": 0}, "batch is 0; give at least 1"),
        ({"lanes": -1}, "lanes is -1; give at least 1"),
    ],
)
def test_what_the_network_cannot_do_is_refused_when_built(options, words):
    with pytest.raises(InputError, match=words):
        engine(**options)


def test_a_number_of_bands_that_the_network_does_not_know_is_refused():
    network = Network()
    network.contract = replace(Network.contract, bands=2)
    with pytest.raises(InputError, match="model network works on 2 bands, the image has 3: give it an image of 2"):
        engine(network, bands=3)


def test_a_tile_of_another_size_or_bands_is_refused():
    work = engine_of(Network, 3, 1)
    with pytest.raises(InputError, match=r"image scene-0, tile level 0 row 0 column 1 .* is not 8x8 pixels"):
        work.begin(tile(0, box=Box(0, 4, TILE, 5 + TILE)))
    with pytest.raises(
        InputError, match=r"image scene-0, tile level 0 row 0 column 1: measurement is 1x4x4, must be 2x4x4"
    ):
        work.begin(tile(0, y=tile(0).y[:1]))


ANSWERS = {
    "a band too few": (lambda eps: eps[:, 1:], "was given 3x2x8x8 and answers 3x1x8x8 in torch.float32"),
    "a row too few": (lambda eps: eps[1:], "and answers 2x2x8x8"),
    "other pixels": (lambda eps: eps[..., 1:], "and answers 3x2x8x7"),
    "other numbers": (lambda eps: eps.double(), "and answers 3x2x8x8 in torch.float64"),
    "no numbers": (lambda eps: eps * torch.nan, "values that are not finite in fp32: its weights may be damaged"),
}


@pytest.mark.parametrize(("spoil", "says"), ANSWERS.values(), ids=ANSWERS)
def test_a_network_that_answers_with_something_else_is_refused_before_a_tile_is_spent(spoil, says):
    with pytest.raises(TileloomError, match=re.escape(says)):
        engine(Wrapped(lambda eps, *_: spoil(eps)))

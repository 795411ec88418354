"""The engine's promise: a tile's bits depend on nothing but the tile, whoever shares its forward pass."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tileloom.models.build import EngineFactory
from tileloom.models.contract import GaussianSpec
from tileloom.models.engine import Engine
from tileloom.models.gaussian import Gaussian
from tileloom.models.noise import PositionNoise
from tileloom.models.schedule import schedule
from tileloom.models.solvers import Ddnm
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.errors import CorruptChunk, InputError, TileFailed, TileloomError
from tileloom.tiling.measurement import MaskSite, Measurement
from tileloom.tiling.work import TileInputs

TILE, BANDS, STEPS = (8, 12), 3, 4
WALK = schedule(steps=STEPS, travel_length=2, travel_repeat=2)
SPEC = GaussianSpec(length=4.0)


def engine(*, batch=3, lanes=1, denoiser=None, bands=BANDS, seed=0, walk=WALK):
    solver = Ddnm(walk, PositionNoise(seed), bands)
    return Engine(denoiser or Gaussian(SPEC), solver, tile=TILE, bands=bands, batch=batch, lanes=lanes, levels=3)


def tile(number):
    """Tiles of three images and levels, super-resolved or inpainted in turn, the first of them with context."""
    rng = np.random.default_rng(number)
    measurement = (Measurement(scale=2), Measurement(mask=MaskSite.MEASURED), Measurement(sigma=0.1))[number % 3]
    shape = BANDS, TILE[0] // measurement.scale, TILE[1] // measurement.scale
    measured = rng.random(shape) < 0.4 if measurement.mask is MaskSite.MEASURED else np.ones(shape, bool)
    y = np.where(measured, rng.standard_normal(shape), 0).astype(np.float32)
    box = Box(0, 0, *TILE).shift(4 * number, 6 * number)
    inputs = TileInputs(f"image {number % 4}", TileKey(number % 3, number, number), box, measurement, y, measured)
    if number % 2:
        return inputs
    mask = np.zeros(TILE, bool)
    mask[:, :4] = True
    context = rng.standard_normal((BANDS, *TILE)).astype(np.float32)
    return replace(inputs, context=context, context_mask=mask)


def run(work, state):
    """The state to its end, alone in the batch."""
    while not work.finished(state):
        (state,) = work.step([state])
    return work.finish(state)


@pytest.fixture(scope="module")
def alone():
    """Each tile's result when it ran alone, in batches of three."""
    work = engine(batch=3)
    return [run(work, work.begin(tile(number))) for number in range(9)]


class Wrapped:
    """A Gaussian denoiser whose prediction is tampered with by ``spoil(eps_BCHW, x_BCHW)``."""

    def __init__(self, spoil, **terms):
        self.inner = Gaussian(SPEC)
        self.contract = replace(self.inner.contract, name="tampered", **terms)
        self.spoil = spoil
        self.seen = []

    def predict(self, x_BCHW, t_B, conditions):
        self.seen.append((tuple(x_BCHW.shape), tuple(t_B.tolist()), tuple(c.level for c in conditions)))
        return self.spoil(self.inner.predict(x_BCHW, t_B, conditions), x_BCHW)

    def memory(self, batch_shape):
        return self.inner.memory(batch_shape)


def test_a_tile_alone_takes_as_many_calls_as_announced():
    work = engine()
    state, calls = work.begin(tile(0)), 0
    while not work.finished(state):
        (state,) = work.step([state])
        calls += 1
    assert calls == work.calls_per_tile == WALK.calls > STEPS
    result = work.finish(state)
    assert result.dtype == np.float32
    assert result.shape == (BANDS, *TILE)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_same_bits_in_any_company_slot_and_lane(alone, lanes, seed):
    """Tiles join at random moments, so images, levels and timesteps mix; slots are dealt anew at each step."""
    order = random.Random(seed)
    work = engine(batch=3, lanes=lanes)
    waiting, running, results = list(range(9)), {}, {}
    order.shuffle(waiting)
    while waiting or running:
        while waiting and len(running) < work.slots and (not running or order.random() < 0.5):
            number = waiting.pop()
            running[number] = work.begin(tile(number))
        numbers = order.sample(sorted(running), order.randint(1, len(running)))
        running.update(zip(numbers, work.step([running[number] for number in numbers]), strict=True))
        for number in [number for number, state in running.items() if work.finished(state)]:
            results[number] = work.finish(running.pop(number))
    for number, result in results.items():
        assert result.tobytes() == alone[number].tobytes(), number
    assert len(results) == 9


def test_one_forward_mixes_levels_and_timesteps_in_one_padded_shape():
    denoiser = Wrapped(lambda eps, x: eps)
    work = engine(batch=3, denoiser=denoiser)
    first, second = work.begin(tile(0)), work.begin(tile(1))
    (first,) = work.step([first])
    denoiser.seen.clear()
    work.step([first, second])
    ((shape, timesteps, levels),) = denoiser.seen
    assert shape == work.batch_shape == (3, BANDS, *TILE)
    assert levels == (0, 1)
    assert timesteps == (WALK.timesteps[-2], WALK.timesteps[-1], 0.0)


def test_more_states_than_slots_take_more_passes():
    work = engine(batch=2, lanes=2)
    assert work.slots == 4
    states = [work.begin(tile(number)) for number in range(7)]
    stepped = work.step(states)
    assert [state.image for state in stepped] == [state.image for state in states]
    assert [state.position for state in stepped] == [1] * 7
    assert work.step([]) == []


def test_every_lane_computes_on_one_thread():
    threads = []
    work = engine(lanes=2, denoiser=Wrapped(lambda eps, x: (threads.append(torch.get_num_threads()), eps)[1]))
    threads.clear()
    work.step([work.begin(tile(number)) for number in range(6)])
    assert threads == [1, 1]


def _by_slot(eps, x):
    return eps + 1e-6 * torch.arange(len(eps))[:, None, None, None]


def _by_company(eps, x):
    return eps + 1e-3 * x.mean()


def _by_padding(eps, x):
    return eps + 1e-6 * (x == 0).all(dim=(1, 2, 3)).any()


@pytest.mark.parametrize("spoil", [_by_slot, _by_company, _by_padding])
def test_rows_that_know_of_each_other_are_refused_when_the_engine_is_built(spoil):
    with pytest.raises(TileloomError, match=r"model tampered in batches of 3x3x8x12 .* another batch size"):
        engine(batch=3, denoiser=Wrapped(spoil))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_tile_that_is_not_finite_fails_alone(alone, bad):
    """The network breaks down where a window holds the marked value; the others in its batch go on to their bits."""

    def spoil(eps, x):
        return torch.where((x == 777.0).any(dim=(1, 2, 3))[:, None, None, None], bad, eps)

    work = engine(batch=3, denoiser=Wrapped(spoil))
    states = [work.begin(tile(number)) for number in range(3)]
    marked = states[1].x_CHW.clone()
    marked[0, 0, 0] = 777.0
    states[1] = replace(states[1], x_CHW=marked)
    first, failed, last = work.step(states)
    assert isinstance(failed, TileFailed)
    for words in ("image 1", "level 1 row 1 column 1", "rows 4:12, columns 6:18"):
        assert words in str(failed)
    assert str(pickle.loads(pickle.dumps(failed))) == str(failed)
    assert run(work, first).tobytes() == alone[0].tobytes()
    assert run(work, last).tobytes() == alone[2].tobytes()


def test_a_saved_state_goes_on_to_the_same_bits(alone):
    for number in (0, 1, 2):
        work, other = engine(), engine(lanes=2)
        state = work.begin(tile(number))
        while not work.finished(state):
            moved = other.unpack(tile(number), work.pack(state))
            assert run(other, moved).tobytes() == alone[number].tobytes()
            (state,) = work.step([state])
        assert other.finish(other.unpack(tile(number), work.pack(state))).tobytes() == alone[number].tobytes()


def _half_way(work, number=0):
    (state,) = work.step([work.begin(tile(number))])
    return work.pack(state)


def _flip(packed, at):
    return packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: b"",
        lambda p: p[:10],
        lambda p: p[:-1],
        lambda p: p + b"\0",
        lambda p: _flip(p, 0),
        lambda p: _flip(p, len(p) // 2),
        lambda p: _flip(p, len(p) - 1),
    ],
)
def test_a_damaged_state_is_refused(damage):
    work = engine()
    with pytest.raises(CorruptChunk, match=r"saved state of image image 0, tile level 0 row 0 column 0"):
        work.unpack(tile(0), damage(_half_way(work)))


def test_a_state_of_another_tile_or_schedule_is_refused():
    work = engine()
    packed = _half_way(work)
    with pytest.raises(CorruptChunk):
        work.unpack(tile(3), packed)
    with pytest.raises(CorruptChunk):
        engine(walk=schedule(steps=STEPS)).unpack(tile(0), packed)


def test_numeric_class_names_what_bits_depend_on():
    told = engine(batch=2).numeric_class
    assert told["torch"] == torch.__version__
    assert told["numpy"] == np.__version__
    assert told["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert told["precision"] == "fp32"
    assert told["device"]
    assert told != engine(batch=3).numeric_class
    assert told == engine(batch=2, lanes=2).numeric_class


def test_memory_covers_the_states_and_grows_with_them():
    work = engine()
    window = 4 * BANDS * TILE[0] * TILE[1]
    assert work.memory(100) - work.memory(0) >= 100 * 4 * window
    assert work.memory(0) >= 2 * 3 * window
    assert engine(lanes=2).memory(0) > work.memory(0)


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="is not 8x12 pixels"):
        engine().begin(replace(tile(1), box=Box(0, 0, 12, 8)))
    with pytest.raises(InputError, match="batch is 0"):
        engine(batch=0)
    with pytest.raises(InputError, match="lanes is 0"):
        engine(lanes=0)
    with pytest.raises(InputError, match="works on 4 bands, the image has 3"):
        engine(denoiser=Wrapped(lambda eps, x: eps, bands=4))
    with pytest.raises(InputError, match="tile 12 does not suit model tampered"):
        engine(denoiser=Wrapped(lambda eps, x: eps, size_multiple=8))


def test_a_factory_travels_and_makes_the_same_engine():
    """Built twice from one pickle: the very same tile, and what was asked for."""
    factory = EngineFactory(
        model={"name": "gaussian", "length": 4.0},
        steps=STEPS,
        travel_length=2,
        travel_repeat=2,
        seed=5,
        tile=8,
        bands=2,
        batch=2,
        lanes=2,
        levels=2,
    )
    made = [pickle.loads(pickle.dumps(factory))() for _ in range(2)]
    y = np.zeros((2, 4, 4), np.float32)
    inputs = TileInputs("a", TileKey(1, 0, 0), Box(0, 0, 8, 8), Measurement(scale=2), y, np.ones(y.shape, bool))
    first, second = (run(work, work.begin(inputs)) for work in made)
    assert first.tobytes() == second.tobytes()
    assert made[0].batch_shape == (2, 2, 8, 8)
    assert made[0].slots == 4
    assert made[0].calls_per_tile == WALK.calls
    np.testing.assert_allclose(first.reshape(2, 4, 2, 4, 2).mean(axis=(2, 4)), 0, atol=1e-6)
    with pytest.raises(InputError, match="no model is called"):
        replace(factory, model={"name": "terrra"})()

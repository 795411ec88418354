"""States in the middle of their schedule, saved and gone on with; what an engine says of its bits, speed and memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engines import CALLS, STEPS, Network, Wrapped, alone, engine, engine_of, gaussian
from tests.tiles import BANDS, TILE, run, tile
from tileloom.models.device import device_class
from tileloom.models.schedule import schedule
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.errors import CorruptChunk
from tileloom.tiling.measurement import MaskSite, Measurement


@given(at=st.integers(0, 6), after=st.integers(0, CALLS))
def test_a_saved_state_goes_on_with_the_same_bits(at, after):
    here, there = engine_of(Network, 3, 1), engine_of(Network, 3, 2)
    packed = here.pack(run(here, here.begin(tile(at)), after))
    state = there.unpack(tile(at), packed)
    assert there.pack(state) == packed
    assert there.finish(run(there, state, CALLS - after)).tobytes() == alone(Network, 3, at)


def test_a_saved_state_is_little_more_than_its_window():
    work = engine_of(Network, 3, 1)
    packed = work.pack(run(work, work.begin(tile(1)), 2))
    assert isinstance(packed, bytes)
    assert len(packed) <= 4 * BANDS * TILE * TILE + 32


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(position, bit):
    work = engine_of(Network, 3, 1)
    packed = bytearray(work.pack(work.begin(tile(1))))
    packed[position % len(packed)] ^= 1 << bit
    with pytest.raises(CorruptChunk, match=r"image scene-1, tile level 1 row 1 column 1 .* is damaged"):
        work.unpack(tile(1), bytes(packed))


@given(length=st.integers(0))
def test_a_state_of_another_length_is_noticed(length):
    work = engine_of(Network, 3, 1)
    packed = work.pack(work.begin(tile(1)))
    with pytest.raises(CorruptChunk, match="damaged"):
        work.unpack(tile(1), packed[: length % len(packed)])
    with pytest.raises(CorruptChunk, match="damaged"):
        work.unpack(tile(1), packed + packed[:1])


FOREIGN = {
    "image": {"image": "scene-9"},
    "tile": {"key": TileKey(1, 1, 2)},
    "place": {"box": Box(0, 4, TILE, 4 + TILE)},
    "measurement": {"y": tile(4).y},
    "known pixels": {"measured": tile(4).measured},
    "context": {"context": tile(3).context},
    "no context": {"context": None, "context_mask": None},
    "noise level": {"measurement": replace(tile(1).measurement, sigma=0.1)},
}


@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_a_state_of_other_inputs_is_refused(changes):
    work = engine_of(Network, 3, 1)
    packed = work.pack(run(work, work.begin(tile(1)), 2))
    with pytest.raises(CorruptChunk, match="of other inputs or another schedule"):
        work.unpack(tile(1, **changes), packed)


OTHERS = {
    "steps": {"steps": schedule(steps=6)},
    "as many calls": {"steps": schedule(steps=CALLS)},
    "order of steps": {"steps": replace(STEPS, times=(4, 3, 4, 3, 2, 3, 2, 1, 2, 1, 0, 1, 0, -1))},
    "range": {"clip": (-1.0, 1.0)},
    "betas": {"steps": schedule("cosine", steps=5, travel_length=2, travel_repeat=2)},
    "seed": {"seed": 5},
    "model": {"denoiser": gaussian()},
    "weights": {"identity": "of other weights"},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_a_state_of_another_job_is_refused(options):
    work = engine_of(Network, 3, 1)
    packed = work.pack(run(work, work.begin(tile(1)), 2))
    with pytest.raises(CorruptChunk, match="of other inputs or another schedule"):
        engine(**options).unpack(tile(1), packed)


def test_the_numeric_class_names_what_bits_depend_on():
    found = engine(batch=3).numeric_class
    assert found.pop("device").strip()
    assert found == {
        "instructions": device_class("cpu")["instructions"],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "precision": "fp32",
        "batch_shape": "3x2x8x8",
    }
    assert engine(batch=3, lanes=2, seed=9).numeric_class == engine(batch=3).numeric_class
    assert engine(batch=2).numeric_class != engine(batch=3).numeric_class


def test_the_numeric_class_has_what_the_denoiser_says_of_itself():
    network = Network()
    network.numerics = {"precision": "bf16", "compiled": "yes"}
    found = engine(network).numeric_class
    assert (found["precision"], found["compiled"]) == ("bf16", "yes")


def test_a_rate_is_told_in_tile_calls_a_second():
    calls = []

    def watch(eps_BCHW, x_BCHW, t_B, conditions):
        calls.append(len(conditions))
        return eps_BCHW

    work = engine(Wrapped(watch), batch=4, lanes=2)
    calls.clear()
    assert 0 < work.rate() < float("inf")
    assert set(calls) == {4}
    assert len(calls) % 2 == 0


def test_memory_grows_with_states_batch_lanes_and_tile():
    work = engine(batch=3)
    bills = [work.memory(batch) for batch in range(1, 6)]
    steps = np.diff(bills)
    assert all(steps == steps[0])
    assert steps[0] > 0
    for larger in (engine(batch=4), engine(lanes=2), engine(tile=(16, 8))):
        assert larger.memory(3) > work.memory(3)


@pytest.mark.parametrize("task", [Measurement(), Measurement(2, gray=True, mask=MaskSite.TARGET)])
def test_the_bill_covers_what_a_state_holds(task):
    y = np.zeros((1 if task.gray else BANDS, TILE // task.scale, TILE // task.scale), np.float32)
    full = np.zeros((BANDS, TILE, TILE), np.float32)
    half = np.arange(TILE) % 2 * np.ones((TILE, 1)) > 0
    inputs = replace(
        tile(0, measurement=task, y=y, measured=y + 1 > 0, context=full, context_mask=half),
        coarse=full[:, ::2, ::2],
        coarse_mask=half[::2, ::2],
        visible=half if task.mask is MaskSite.TARGET else None,
    )
    work = engine()
    held = [value for value in vars_of(work.begin(inputs)) if isinstance(value, torch.Tensor)]
    given_ = [value for value in map(inputs.__getattribute__, inputs.__slots__) if isinstance(value, np.ndarray)]
    size = sum(one.numel() * one.element_size() for one in held) + sum(array.nbytes for array in given_)
    assert len(held) >= 5
    assert work.memory(4) - work.memory(3) >= size


def vars_of(state):
    """Everything a state and its constraints hold."""
    yield state.x_CHW
    for constraint in state.constraints:
        for value in vars(constraint).values():
            yield from vars(value).values() if hasattr(value, "A") else [value]

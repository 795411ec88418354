from dataclasses import replace

import numpy as np
import pytest
import torch

from tileloom.models.constraints import LowFrequency, Measured, Overlap, constraints_for
from tileloom.models.operators import Operator, block_mean, block_repeat
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.measurement import MaskSite, Measurement
from tileloom.tiling.work import TileInputs

BANDS, SIZE = 3, 16
RNG = np.random.default_rng(0)


def image(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


X0 = torch.tensor(image(BANDS, SIZE, SIZE))
LEFT = np.zeros((SIZE, SIZE), bool)
LEFT[:, :6] = True

BARE = TileInputs(
    image="scene",
    key=TileKey(0, 0, 1),
    box=Box(0, 16, 16, 32),
    measurement=Measurement(scale=4),
    y=image(BANDS, 4, 4),
    measured=np.ones((BANDS, 4, 4), bool),
)
FULL = replace(
    BARE,
    context=image(BANDS, SIZE, SIZE),
    context_mask=LEFT,
    coarse=image(BANDS, 8, 8),
    coarse_mask=np.ones((8, 8), bool),
    factor=2,
)


def applied(constraints, x0, lam=1.0):
    for constraint in constraints:
        x0 = constraint.apply(x0, lam)
    return x0


def test_low_frequencies_become_those_of_the_coarser_level():
    coarse = torch.tensor(image(BANDS, 8, 8))
    out = LowFrequency(coarse, torch.tensor(True), 2).apply(X0, 1.0)
    assert torch.allclose(block_mean(out, 2), coarse, atol=1e-6)


def test_low_frequencies_leave_the_details_alone():
    out = LowFrequency(torch.tensor(image(BANDS, 8, 8)), torch.tensor(True), 2).apply(X0, 1.0)
    detail = X0 - block_repeat(block_mean(X0, 2), 2)
    assert torch.allclose(out - block_repeat(block_mean(out, 2), 2), detail, atol=1e-6)


def test_where_the_coarser_level_has_nothing_the_tile_keeps_its_bits():
    known = torch.zeros(8, 8, dtype=torch.bool)
    known[2:4] = True
    coarse = torch.where(known, torch.tensor(image(BANDS, 8, 8)), torch.nan)
    out = LowFrequency(coarse, known, 2).apply(X0, 1.0)
    kept = ~block_repeat(known, 2).expand_as(X0)
    assert torch.equal(out[kept], X0[kept])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_measurement_moves_the_measured_part_by_lam(lam):
    operator = Operator(Measurement(scale=4, gray=True), bands=BANDS, shape=(SIZE, SIZE))
    y = torch.tensor(image(1, 4, 4))
    out = Measured(operator, operator.pinv(y)).apply(X0, lam)
    assert torch.allclose(operator.A(out), (1 - lam) * operator.A(X0) + lam * y, atol=1e-6)


def test_finished_pixels_are_pasted_to_the_bit_and_no_others():
    values, mask = torch.tensor(image(BANDS, SIZE, SIZE)), torch.tensor(LEFT)
    out = Overlap(values, mask).apply(X0, 0.0)
    assert torch.equal(out[:, mask], values[:, mask])
    assert torch.equal(out[:, ~mask], X0[:, ~mask])


def test_constraints_come_as_low_frequency_measurement_overlap():
    assert [type(one) for one in constraints_for(FULL, BANDS)] == [LowFrequency, Measured, Overlap]


def test_a_tile_without_context_or_coarser_level_has_its_measurement_only():
    assert [type(one) for one in constraints_for(BARE, BANDS)] == [Measured]


def test_all_constraints_together_are_the_published_formula():
    coarse, y, context = (torch.tensor(a) for a in (FULL.coarse, FULL.y, FULL.context))
    low = X0 + block_repeat(coarse, 2) - block_repeat(block_mean(X0, 2), 2)
    projected = block_repeat(y, 4) + low - block_repeat(block_mean(low, 4), 4)
    expected = torch.where(torch.tensor(LEFT), context, projected)
    assert torch.allclose(applied(constraints_for(FULL, BANDS), X0), expected, atol=1e-6)


def test_the_later_constraint_wins():
    out = applied(constraints_for(FULL, BANDS), X0)
    assert np.array_equal(out.numpy()[:, LEFT], FULL.context[:, LEFT])
    free = block_mean(out, 4)[:, :, 2:]
    assert torch.allclose(free, torch.tensor(FULL.y)[:, :, 2:], atol=1e-5)


def test_lam_touches_only_the_measurement():
    without_y = applied([one for one in constraints_for(FULL, BANDS) if not isinstance(one, Measured)], X0)
    assert torch.allclose(applied(constraints_for(FULL, BANDS), X0, lam=0.0), without_y, atol=1e-6)


def test_missing_masks_mean_everywhere():
    inputs = replace(FULL, coarse_mask=None, context_mask=None)
    low, _, overlap = constraints_for(inputs, BANDS)
    assert torch.allclose(block_mean(low.apply(X0, 1.0), 2), torch.tensor(FULL.coarse), atol=1e-6)
    assert torch.equal(overlap.apply(X0, 1.0), torch.tensor(FULL.context))


def test_meeting_them_twice_is_meeting_them_once():
    inputs = replace(FULL, context=None, context_mask=None, coarse=block_repeat(torch.tensor(FULL.y), 2).numpy())
    once = applied(constraints_for(inputs, BANDS), X0)
    assert torch.allclose(applied(constraints_for(inputs, BANDS), once), once, atol=1e-5)


def test_masked_measurements_constrain_only_what_was_measured():
    measured = np.zeros((BANDS, SIZE, SIZE), bool)
    measured[:, 5:] = True
    y = np.where(measured, image(BANDS, SIZE, SIZE), np.float32(0))
    inputs = replace(BARE, measurement=Measurement(mask=MaskSite.MEASURED), y=y, measured=measured)
    out = applied(constraints_for(inputs, BANDS), X0).numpy()
    assert np.allclose(out[measured], y[measured], atol=1e-6)
    assert np.array_equal(out[~measured], X0.numpy()[~measured])


def test_read_only_inputs_are_taken_without_a_word():
    for array in (FULL.y, FULL.context, FULL.coarse):
        array.setflags(write=False)
    assert len(constraints_for(FULL, BANDS)) == 3

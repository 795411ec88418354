from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tileloom.models.operators import Operator, block_mean, block_repeat, operator_for
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.errors import InputError
from tileloom.tiling.measurement import MaskSite, Measurement
from tileloom.tiling.work import TileInputs

BANDS, SHAPE = 3, (24, 36)
TARGET, MEASURED = MaskSite.TARGET, MaskSite.MEASURED

MEASUREMENTS = {
    "denoise": Measurement(sigma=0.1),
    "sr:2": Measurement(scale=2),
    "sr:3": Measurement(scale=3),
    "sr:4": Measurement(scale=4),
    "sr:12": Measurement(scale=12),
    "colorize": Measurement(gray=True),
    "sr:4 in gray": Measurement(scale=4, gray=True),
    "inpaint": Measurement(mask=MEASURED),
    "inpaint before": Measurement(mask=TARGET),
    "mask, gray": Measurement(gray=True, mask=TARGET),
    "gray, mask": Measurement(gray=True, mask=MEASURED),
    "mask, sr:2": Measurement(scale=2, mask=TARGET),
    "old photo": Measurement(scale=4, gray=True, mask=TARGET),
    "cloudy": Measurement(scale=4, mask=MEASURED),
    "cloudy gray": Measurement(scale=4, gray=True, mask=MEASURED),
}


@dataclass(frozen=True)
class Mask:
    """How much of a mask's grid is known, in clumps or by band; a target mask may come with gaps in y."""

    share: float
    clump: int
    by_band: bool = False
    gaps: bool = False


MASKS = {
    "specks": Mask(0.8, 1),
    "clumps": Mask(0.5, 4),
    "bands": Mask(0.6, 2, by_band=True),
    "gaps": Mask(0.8, 1, gaps=True),
    "nothing": Mask(0, 1),
}


def some(mask, bands, rows, cols):
    size = (bands if mask.by_band else 1, -(-rows // mask.clump), -(-cols // mask.clump))
    coarse = torch.rand(size, generator=torch.Generator().manual_seed(3)) < mask.share
    return block_repeat(coarse, mask.clump)[:, :rows, :cols]


def made(measurement, mask, *, bands=BANDS, shape=SHAPE):
    y_shape = 1 if measurement.gray else bands, shape[0] // measurement.scale, shape[1] // measurement.scale
    visible = some(mask, bands, *shape) if measurement.mask is TARGET else None
    measured = some(mask, *y_shape) if measurement.mask is MEASURED else None
    if visible is not None and mask.gaps:
        measured = some(Mask(0.6, 1), *y_shape)
    return Operator(measurement, bands=bands, shape=shape, visible=visible, measured=measured)


def every_operator():
    for name, measurement in MEASUREMENTS.items():
        for how, mask in MASKS.items() if measurement.mask is not MaskSite.NONE else [("whole", None)]:
            operator = made(measurement, mask)
            yield pytest.param(operator, id=f"{name}-{how}")
            for factor in (2, 3):
                if coarser := operator.coarsen(factor):
                    yield pytest.param(coarser[0], id=f"{name}-{how}-coarser by {factor}")


def fields(operator, batch=(), seed=0):
    return torch.randn(*batch, operator.bands, *operator.shape, generator=torch.Generator().manual_seed(seed))


def observations(operator, batch=()):
    return torch.randn(*batch, *operator.y_shape, generator=torch.Generator().manual_seed(1))


def close(one, other, tolerance=1e-5):
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=tolerance)


laws = pytest.mark.parametrize("operator", list(every_operator()))
BATCHES = [(), (1,), (3,), (2, 2)]


def measured_in(operator):
    """Where y is told anything, found by measuring an image of ones."""
    return operator.A(torch.ones(operator.bands, *operator.shape)) > 0


@laws
def test_measuring_what_was_recovered_measures_the_same(operator):
    for batch in BATCHES:
        y = operator.A(fields(operator, batch))
        assert close(operator.A(operator.pinv(y)), y)


@laws
def test_any_measured_value_can_be_met(operator):
    for batch in BATCHES:
        y = observations(operator, batch)
        assert close(operator.A(operator.pinv(y)), torch.where(measured_in(operator), y, 0), 2e-5)


@laws
def test_recovering_what_was_recovered_changes_nothing(operator):
    for batch in BATCHES:
        seen = operator.pinv(operator.A(fields(operator, batch)))
        assert close(operator.pinv(operator.A(seen)), seen)


@laws
def test_the_recovery_is_an_orthogonal_projection(operator):
    a, b = fields(operator, seed=0), fields(operator, seed=1)
    seen_a, seen_b = operator.pinv(operator.A(a)), operator.pinv(operator.A(b))
    assert (seen_a * b).sum() == pytest.approx((a * seen_b).sum().item(), abs=1e-3)


@laws
def test_the_projection_measures_as_y(operator):
    for batch in BATCHES:
        x, y = fields(operator, batch), operator.A(fields(operator, batch, seed=5))
        assert close(operator.A(operator.project(x, operator.pinv(y))), y)


@laws
def test_the_projection_keeps_what_is_not_measured(operator):
    x, y = fields(operator), operator.A(fields(operator, seed=5))
    change = operator.project(x, operator.pinv(y)) - x
    assert close(operator.pinv(operator.A(change)), change, 2e-5)


@laws
def test_a_value_has_the_same_bits_in_any_batch(operator):
    x, y = fields(operator, (5,)), observations(operator, (5,))
    for k in range(5):
        assert torch.equal(operator.A(x)[k], operator.A(x[k]))
        assert torch.equal(operator.pinv(y)[k], operator.pinv(y[k]))
        assert torch.equal(operator.project(x, operator.pinv(y))[k], operator.project(x[k], operator.pinv(y[k])))


@laws
def test_cropping_and_measuring_commute_to_the_bit(operator):
    rows, cols = (size // operator.align for size in operator.shape)
    y_box = Box(rows // 3, cols // 2, max(rows // 3 + 1, rows - 1), cols)
    box = y_box.scale(operator.align)
    part, x, y = operator.crop(box), fields(operator, (2,)), observations(operator, (2,))
    assert torch.equal(part.A(x[..., *box.slices]), operator.A(x)[..., *y_box.slices])
    assert torch.equal(part.pinv(y[..., *y_box.slices]), operator.pinv(y)[..., *box.slices])


@laws
def test_measuring_is_linear(operator):
    a, b = fields(operator, seed=0), fields(operator, seed=1)
    assert close(operator.A(2 * a - 3 * b), 2 * operator.A(a) - 3 * operator.A(b))


def coarsenings():
    for one in every_operator():
        (operator,) = one.values
        for factor in (2, 3):
            if operator.measurement.coarsen(factor) and not any(size % factor for size in operator.shape):
                yield pytest.param(operator, factor, id=f"{one.id} by {factor}")


@pytest.mark.parametrize(("operator", "factor"), list(coarsenings()))
def test_the_coarse_level_measures_the_pooled_image(operator, factor):
    small, lift = operator.coarsen(factor)
    x = fields(operator, (2,))
    assert small.shape == (operator.shape[0] // factor, operator.shape[1] // factor)
    assert lift(operator.A(x)).shape[1:] == small.y_shape
    assert close(small.A(block_mean(x, factor)), lift(operator.A(x)))


def dense(operator):
    """K, written out: one row a value of y, one column a pixel of x."""
    basis = torch.eye(operator.bands * operator.shape[0] * operator.shape[1], dtype=torch.float64)
    return operator.A(basis.reshape(-1, operator.bands, *operator.shape)).flatten(1).T


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("how", ["specks", "bands"])
def test_the_recovery_is_the_least_squares_one(name, how):
    operator = made(MEASUREMENTS[name], MASKS[how], shape=(12, 12))
    y = observations(operator).double()
    expected = (torch.linalg.pinv(dense(operator)) @ y.flatten()).reshape(operator.bands, 12, 12)
    assert close(operator.pinv(y), expected, 1e-5)


def naive(measurement, x, visible, measured):
    """The measurement, value by value, from its definition."""
    s = measurement.scale
    seen = np.where(visible, x, 0)
    y = np.array(
        [[[band[r : r + s, c : c + s].mean() for c in range(0, band.shape[1], s)] for r in range(0, band.shape[0], s)]
         for band in seen]
    )  # fmt: skip
    return np.where(measured, y.mean(0, keepdims=True) if measurement.gray else y, 0)


@given(st.sampled_from(sorted(MEASUREMENTS)), st.sampled_from(sorted(MASKS)), st.integers(1, 5), st.integers(1, 2))
def test_the_measurement_is_its_definition(name, how, bands, blocks):
    measurement = MEASUREMENTS[name]
    operator = made(measurement, MASKS[how], bands=bands, shape=(12, 12 * blocks))
    x = fields(operator).numpy()
    visible = True if operator.visible is None else operator.visible.numpy()
    measured = True if operator.measured is None else operator.measured.numpy()
    assert np.allclose(operator.A(torch.tensor(x)).numpy(), naive(measurement, x, visible, measured), atol=1e-6)


def test_an_unmasked_downsampling_recovers_by_repeating():
    operator = Operator(Measurement(scale=3, gray=True), bands=2, shape=(3, 6))
    y = torch.tensor([[[0.1, -0.7]]])
    assert torch.equal(operator.pinv(y), block_repeat(y, 3).expand(2, 3, 6))


def test_inpainting_keeps_known_values_to_the_bit():
    known = torch.tensor([[True, False], [False, True]])
    operator = Operator(Measurement(mask=MEASURED), bands=1, shape=(2, 2), measured=known)
    y = torch.tensor([[[0.1, 5.0], [5.0, 0.3]]])
    assert torch.equal(operator.pinv(y), torch.where(known, y, 0))


def test_whatever_stands_in_unmeasured_places_is_ignored():
    known = torch.tensor([[True, False]])
    operator = Operator(Measurement(scale=2, mask=MEASURED), bands=1, shape=(2, 4), measured=known)
    assert torch.isfinite(operator.pinv(torch.tensor([[[1.0, float("nan")]]]))).all()
    hidden = Operator(Measurement(mask=TARGET), bands=1, shape=(1, 2), visible=known)
    assert hidden.A(torch.tensor([[[1.0, float("nan")]]])).tolist() == [[[1.0, 0.0]]]


def test_half_trusted_measurements_move_half_the_way():
    operator = Operator(Measurement(scale=2), bands=1, shape=(2, 2))
    moved = operator.project(torch.zeros(1, 2, 2), torch.ones(1, 2, 2), lam=0.5)
    assert torch.equal(moved, torch.full((1, 2, 2), 0.5))


def test_a_window_that_cuts_blocks_is_refused():
    with pytest.raises(InputError, match="window of 10 x 12 pixels is cut by blocks of 4"):
        Operator(Measurement(scale=4), bands=3, shape=(10, 12))
    with pytest.raises(InputError, match="window of 9 x 12 pixels is cut by blocks of 2"):
        Operator(Measurement(), bands=3, shape=(9, 12)).coarsen(2)


def test_a_crop_that_cuts_blocks_is_refused():
    operator = Operator(Measurement(scale=4), bands=3, shape=(16, 16))
    with pytest.raises(InputError, match="rows 0:8, columns 2:8 cuts blocks of 4"):
        operator.crop(Box(0, 2, 8, 8))


def test_no_coarser_level_where_it_would_add_nothing():
    assert made(Measurement(scale=2), None).coarsen(2) is None
    assert made(Measurement(scale=4), None).coarsen(3) is None


def test_the_operator_of_a_tile_takes_its_masks():
    visible = np.ones((8, 12), bool)
    visible[:4, :4] = False
    measured = np.ones((1, 2, 3), bool)
    measured[0, 1, 2] = False
    measured.setflags(write=False)
    measurement = Measurement(scale=4, gray=True, mask=TARGET)
    box = Box(16, 24, 24, 36)
    inputs = TileInputs("scene", TileKey(0, 1, 1), box, measurement, np.zeros((1, 2, 3), np.float32), measured, visible)
    operator = operator_for(inputs, 3)
    assert operator.align == 4
    assert operator.shape == box.shape
    assert operator.A(torch.ones(3, 8, 12)).tolist() == [[[0, 1, 1], [1, 1, 0]]]

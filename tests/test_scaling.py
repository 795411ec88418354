"""Between an image's own numbers and the model's range: exact where it must be, the same for every window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileloom.tiling.scaling import DEFAULT_RANGES, Scaling


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_integer_survives_the_way_there_and_back(dtype):
    scaling = Scaling(*DEFAULT_RANGES[dtype])
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype).reshape(1, -1, 16)
    np.testing.assert_array_equal(scaling.from_model(scaling.to_model(values), np.dtype(dtype)), values)


@given(lo=st.floats(-1e4, 1e4), width=st.floats(1e-3, 1e4), share=st.floats(0, 1))
def test_the_range_becomes_minus_one_to_one(lo, width, share):
    data = np.array([lo, lo + width, lo + share * width], np.float32)
    # float32 holds the numbers themselves only to so much of their size.
    grain = 4 * np.finfo(np.float32).eps * (1 + (abs(lo) + width) / width)
    np.testing.assert_allclose(Scaling(lo, lo + width).to_model(data), [-1, 1, 2 * share - 1], rtol=0, atol=grain)


def test_integers_are_rounded_half_to_even_and_clipped():
    scaling = Scaling(0.0, 2.0)
    model = np.array([-9, -1, -0.5, 0, 0.5, 1.5, 2.5, 900], np.float32)
    assert scaling.from_model(model, np.dtype("uint8")).tolist() == [0, 0, 0, 1, 2, 2, 4, 255]


def test_floats_are_neither_rounded_nor_clipped():
    scaling = Scaling(10.0, 20.0)
    pixels = scaling.from_model(np.array([-3, -1, 0.25, 5], np.float32), np.dtype("float32"))
    assert pixels.dtype == np.float32
    assert pixels.tolist() == [0, 10, 16.25, 40]


def test_a_windows_numbers_do_not_depend_on_the_window():
    data = np.random.default_rng(0).standard_normal((3, 20, 30)).astype(np.float32)
    scaling = Scaling(-0.3, 1.7)
    whole = scaling.to_model(data)
    np.testing.assert_array_equal(whole[:, 3:9, 5:12], scaling.to_model(data[:, 3:9, 5:12]))
    back = scaling.from_model(whole, np.dtype("float32"))
    np.testing.assert_array_equal(
        back[:, 3:9, 5:12], scaling.from_model(whole[:, 3:9, 5:12].copy(), np.dtype("float32"))
    )


def test_what_is_given_stays_as_it_is():
    data = np.arange(6, dtype=np.float32)
    data.flags.writeable = False
    model = Scaling(0.0, 5.0).to_model(data)
    assert data.tolist() == [0, 1, 2, 3, 4, 5]
    model += 1
    assert data.tolist() == [0, 1, 2, 3, 4, 5]


def test_bands_of_other_ranges_are_scaled_one_by_one():
    data = np.random.default_rng(0).random((2, 5, 6)).astype(np.float32)
    spans = ((0.0, 1.0), (0.2, 0.7))
    both = Scaling.of(spans)
    model = both.to_model(data)
    for band, span in enumerate(spans):
        np.testing.assert_array_equal(model[band], Scaling(*span).to_model(data[band]))
        pixels = Scaling(*span).from_model(model[band], np.dtype("float32"))
        np.testing.assert_array_equal(both.from_model(model, np.dtype("float32"))[band], pixels)
    assert both.listed == [[0, 0.2], [1, 0.7]]
    assert both.ends == (0, 1)
    assert Scaling.of([(0.0, 5.0)] * 3) == Scaling(0.0, 5.0)
